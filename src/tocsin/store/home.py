"""The layout of the home directory: where data, socket and log are, and who may enter.

Nothing outside of the home changes, but for two directories made where the home will not
do: one for a socket whose path would be too long, one for data that ``nobody`` could not
reach. The second is used only as root without user namespaces.
"""

import hashlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store.binaries import reachable
from tocsin.store.cluster import PORT, give_to, is_private
from tocsin.store.isolation import Isolation, OtherUser

LOG_LIMIT = 1_000_000
LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes on Linux and 103 on macOS
OUTSIDE = Path("/var/lib/tocsin")


def own_home(home: Path) -> Path:
    if sys.platform == "win32":
        raise EmbeddedFailed("the embedded PostgreSQL runs on Linux and macOS: use a server with TOCSIN_DATABASE_URL")
    home = home.expanduser().resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def data_directories(home: Path) -> list[Path]:
    outside = home / "outside"
    if outside.is_symlink() and not outside.exists():
        raise EmbeddedFailed(
            f"the data is gone: {outside} leads to {outside.readlink()}; bring it back or remove the link"
        )
    places = [home, outside.resolve()] if outside.exists() else [home]
    return [version.parent for place in places for version in sorted(place.glob("pg[0-9][0-9]/PG_VERSION"))]


def the_data_directory(home: Path) -> Path | None:
    found = data_directories(home)
    if len(found) > 1:
        raise EmbeddedFailed(f"{home} holds {' and '.join(path.name for path in found)}: move all but one away")
    if not found:
        return None
    owner = found[0].stat().st_uid
    if os.geteuid() not in {0, owner}:
        raise EmbeddedFailed(f"{found[0]} belongs to user {owner}: run as that user, or choose another TOCSIN_HOME")
    return found[0]


def hand_over(data: Path, isolation: Isolation) -> None:
    for path in (data, *data.rglob("*")):
        give_to(path, isolation)


def bound_log(log: Path) -> None:
    """The log starts small, and the one before it is kept."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.old"))


def place_for(home: Path, isolation: Isolation, *, moved_before: bool) -> Path:
    """The directory that holds data, socket and copied programs, which the server's user can enter."""
    outside = home / "outside"
    if outside.exists():
        return outside.resolve()
    if not isinstance(isolation, OtherUser):
        return home
    home.chmod(home.stat().st_mode | 0o011)
    if reachable(home, isolation.uid, bits=0o1):
        return home
    if moved_before:
        raise EmbeddedFailed(
            f"PostgreSQL does not run as root, and user {isolation.uid} cannot enter {home}: "
            "move it to where that user may go, and set TOCSIN_HOME"
        )
    # Never the place of a home that was removed: who removes a home wants a new one.
    place = OUTSIDE / secrets.token_hex(8)
    place.mkdir(mode=0o711, parents=True)
    outside.symlink_to(place)
    return place


def socket_directory(home: Path, place: Path, isolation: Isolation) -> Path:
    """A directory that only the server's user and we can enter, with a path short enough for a socket."""
    candidates = [place / "run"]
    name = f"tocsin-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not isinstance(isolation, OtherUser) and Path(runtime).is_dir():
        candidates.append(Path(runtime) / name)
    candidates += [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]
    for directory in candidates:
        socket = os.fsencode(directory / f".s.PGSQL.{PORT}")
        # PostgreSQL and the driver both read a comma as the start of another address.
        if len(socket) > LONGEST_SOCKET_PATH or set(socket) & set(b",\"'"):
            continue
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = isolation.uid if isinstance(isolation, OtherUser) else os.geteuid()
        if not is_private(directory, owner):
            raise EmbeddedFailed(f"{directory} is not ours alone: remove it, or make it ours with mode 0700")
        give_to(directory, isolation)
        return directory
    raise EmbeddedFailed(f"no path is short enough for a socket ({candidates[-1]}): choose a shorter TOCSIN_HOME")
