"""A virtual environment for each contestant, made once below ``.bench`` in the checkout."""

import glob
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.peers.contestants import Contestant

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".bench"
WANTED: Final = (3, 12)
"""All contestants run on one interpreter; the newest peers ask for this one at least."""


class Unavailable(Exception):
    """A contestant cannot take part here; the text says why."""


def cache() -> Path:
    """The directory exists and is invisible to git."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    return CACHE


def interpreter() -> Path:
    """The Python for all contestants: BENCH_PYTHON, else one of at least 3.12, else the one that runs this."""
    given = os.environ.get("BENCH_PYTHON")
    if given:
        return Path(given)
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and version >= WANTED:
            return candidate
    return Path(sys.executable)


def _candidates() -> Iterator[Path]:
    yield Path(getattr(sys, "_base_executable", sys.executable))
    for name in ("python3.12", "python3.13"):
        found = shutil.which(name)
        if found:
            yield Path(found)
        # A version manager's own directory, as its names on PATH may lead nowhere.
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        yield from (Path(path) for path in sorted(glob.glob(f"{root}/{name.removeprefix('python')}*/bin/python3")))


def _version(python: Path) -> tuple[int, int] | None:
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    answer = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    words = answer.stdout.split()
    return (int(words[0]), int(words[1])) if answer.returncode == 0 and len(words) == 2 else None


def environment(contestant: Contestant, *, renew: bool = False) -> Path:
    """The Python of the contestant's environment, which has its newest version as of when it was made.

    renew: make it anew. Raises: Unavailable.
    """
    python = interpreter()
    version = _version(python)
    if version is None or version < contestant.python:
        wanted = ".".join(map(str, contestant.python))
        raise Unavailable(f"needs Python {wanted}, and none was found; BENCH_PYTHON names one")
    place = cache() / f"{contestant.name}-{version[0]}.{version[1]}"
    stamp = place / "installed.json"
    made = json.loads(stamp.read_text()) if stamp.exists() else None
    asked_for = _asked_for(contestant)
    if renew or made != asked_for:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([python, "-m", "venv", place], check=True)
        pip = [
            str(place / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--upgrade",
        ]
        packages = [package.replace("{root}", str(ROOT)) for package in contestant.packages]
        answer = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False, cwd=ROOT)
        if answer.returncode:
            raise Unavailable(f"pip could not install it: {answer.stderr.strip().splitlines()[-1]}")
        stamp.write_text(json.dumps(asked_for))
    return place / "bin" / "python"


def _asked_for(contestant: Contestant) -> list[str]:
    """What makes an environment another one: its packages, and where this checkout is one, what that depends on."""
    ours = any("{root}" in package for package in contestant.packages)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] if ours else {}
    extras = [name for group in project.get("optional-dependencies", {}).values() for name in group]
    return [*contestant.packages, *project.get("dependencies", []), *extras]


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of these distributions, and of Python."""
    code = (
        "import importlib.metadata as m, json, platform, sys;"
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run([python, "-I", "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found
