"""One PostgreSQL data directory: made, started, asked whether it answers, shut down.

Whoever calls holds the server lock of the directory, a flock that the postmaster and all
its children inherit. While anybody of them lives the lock cannot be had, so having it
proves that nobody writes the data: not after kill -9, not as a zombie that nobody reaps,
not in another container on the same volume. A pid proves none of that.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store.binaries import Binaries
from tocsin.store.isolation import Isolation, OtherUser, spawn

USER = DATABASE = "tocsin"
PORT = 5432
SETTINGS: Mapping[str, str] = {
    "autovacuum_naptime": "15s",
    "jit": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "max_connections": "100",
    # Parallel queries take memory from /dev/shm, of which containers give 64 MB.
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "512MB",
    "shared_buffers": "128MB",
    "timezone": "UTC",
}
_PREFIX = re.compile(r"^.*UTC \[\d+\] ")
_ERROR = re.compile("(error|ERROR|FATAL|PANIC):")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory, the directory of its socket and the file its messages go to."""

    data: Path
    socket: Path
    log: Path


@dataclass(frozen=True, slots=True)
class _PidFile:
    pid: int
    data: Path
    socket: Path


async def initialise(cluster: Cluster, binaries: Binaries, isolation: Isolation, *, lock: int, sync: bool) -> None:
    """The data directory exists, complete and on disk; cut short at any point it does not exist.

    Raises: EmbeddedFailed.
    """
    unfinished = cluster.data.with_name(f"{cluster.data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    give_to(unfinished, isolation)
    # No wheel has ICU and no slim image has locales; 17 brought a UTF-8 locale of its own.
    locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if binaries.version >= 17 else ()
    command: list[str | Path] = [
        binaries.path / "initdb",
        "-D",
        unfinished,
        "-U",
        USER,
        "-E",
        "UTF8",
        "--no-locale",
    ]
    command += [*locale, "--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    if not sync:
        command.append("--no-sync")
    offset = _size(cluster.log)
    process = _spawn(command, cluster, isolation, lock)
    try:
        while process.poll() is None:  # noqa: ASYNC110 — a child that is polled needs no watcher in the loop
            await asyncio.sleep(0.005)
    finally:
        if process.poll() is None:
            # With its children, in the session that is theirs alone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EmbeddedFailed(f"initdb failed in {cluster.data.parent}: {complaint(cluster.log, offset)}")
    unfinished.rename(cluster.data)


async def start(
    cluster: Cluster,
    binaries: Binaries,
    isolation: Isolation,
    *,
    lock: int,
    settings: Mapping[str, str],
    deadline: float,
) -> subprocess.Popen[bytes]:
    """The server answers, with our database in it, and is reaped when it ends.

    ``deadline`` is on the event loop's clock. Raises: EmbeddedFailed.
    """
    _remove_stale_locks(cluster)
    own = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.socket),
        "unix_socket_permissions": "0700",
    }
    command: list[str | Path] = [binaries.path / "postgres", "-D", cluster.data, "-p", str(PORT)]
    for name, value in ({**SETTINGS, **settings, **own}).items():
        command += ["-c", f"{name}={value}"]
    offset = _size(cluster.log)
    process = _spawn(command, cluster, isolation, lock)
    threading.Thread(target=process.wait, name="embedded-postgres-reaper", daemon=True).start()
    ready = False
    try:
        while not (ready := await answers(cluster.socket)):
            if process.returncode is not None:
                raise EmbeddedFailed(f"PostgreSQL did not start: {complaint(cluster.log, offset)}; see {cluster.log}")
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedFailed(f"PostgreSQL does not answer: {complaint(cluster.log, offset)}; see {cluster.log}")
            await asyncio.sleep(0.005)
    finally:
        if not ready and process.returncode is None:
            os.kill(process.pid, signal.SIGQUIT)
    return process


async def answers(socket: Path) -> bool:
    """Whether a server on this socket runs a query in our database, which is made if it is missing.

    A pid or an accepted connection is no proof: both outlive a killed postmaster for a while.
    """
    try:
        connection = await _connect(socket, DATABASE)
    except asyncpg.TooManyConnectionsError:
        return True
    except asyncpg.InvalidCatalogNameError:
        return await _create_database(socket)
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
        return False
    try:
        return bool(await connection.fetchval("SELECT true"))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    finally:
        connection.terminate()


def running_in(data: Path) -> Path | None:
    """The socket directory of the server that says it runs on ``data``; it need not be alive."""
    noted = _read_pid_file(data)
    if noted is None or noted.data != data or not (noted.socket / f".s.PGSQL.{PORT}").exists():
        return None
    return noted.socket if is_private(noted.socket, data.stat().st_uid) else None


def pid_of(data: Path) -> int | None:
    """The postmaster that says it runs on ``data``; it need not be alive."""
    noted = _read_pid_file(data)
    return noted.pid if noted else None


def ask_to_stop(data: Path, how: signal.Signals) -> None:
    """The postmaster of ``data`` has the signal, if there is one; nobody else ever gets it.

    The caller has seen that the server lock is held, so a postmaster or its children live.
    """
    noted = _read_pid_file(data)
    if noted is None:
        return
    words = _command_line(noted.pid)
    if words is None or os.fsencode(data) in words:
        try:
            os.kill(noted.pid, how)
        except ProcessLookupError:
            return


def is_private(directory: Path, owner: int) -> bool:
    """Whether only we (or the user who runs the server) could have put something into ``directory``."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    mine = status.st_uid in {os.geteuid(), owner}
    return stat.S_ISDIR(status.st_mode) and mine and not status.st_mode & 0o077


def give_to(path: Path, isolation: Isolation) -> None:
    """The user who runs the server owns ``path``; nothing changes when that is us."""
    if isinstance(isolation, OtherUser):
        os.chown(path, isolation.uid, isolation.gid, follow_symlinks=False)


def complaint(log: Path, offset: int = 0) -> str:
    """The last error in the log after ``offset``, else its last line."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            text = file.read().decode(errors="replace")
    except OSError:
        return "it left no message"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Our own question whether it answers leaves the second kind behind.
    bad = [line for line in lines if _ERROR.search(line) and "the database system is " not in line]
    return _PREFIX.sub("", (bad or lines or ["it left no message"])[-1])


def _spawn(command: Sequence[str | Path], cluster: Cluster, isolation: Isolation, lock: int) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env |= {"LC_ALL": "C", "TZ": "UTC"}
    with cluster.log.open("ab") as log:
        return spawn(command, isolation, directory=cluster.data.parent, env=env, output=log, keep=[lock])


def _remove_stale_locks(cluster: Cluster) -> None:
    """PostgreSQL is not held up by the pid of a server that is dead.

    It clears away the pid of a process that is gone, but takes a zombie for a living
    server, and whatever program has the same pid after a restart of the container. The
    server lock is ours, so none of our servers lives; a postmaster that somebody started
    by hand has no such lock, so a living one keeps its files.
    """
    noted = _read_pid_file(cluster.data)
    if noted is None:
        return
    words = _command_line(noted.pid)
    if words is None or (words and words[0].endswith(b"postgres")):
        return
    (cluster.data / "postmaster.pid").unlink(missing_ok=True)
    for path in cluster.socket.glob(f".s.PGSQL.{PORT}*"):
        path.unlink(missing_ok=True)


def _command_line(pid: int) -> list[bytes] | None:
    """The words of a living process, none for a dead one or a zombie; None where nobody can tell."""
    if not Path("/proc/self/cmdline").exists():
        return None
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def _read_pid_file(data: Path) -> _PidFile | None:
    # Its lines: pid, data directory, start time, port, socket directory, address, shared memory, status.
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return _PidFile(pid=int(lines[0]), data=Path(lines[1]), socket=Path(lines[4]))
    except (OSError, ValueError, IndexError):
        return None


async def _connect(socket: Path, database: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        host=str(socket), port=PORT, user=USER, database=database, ssl=False, timeout=3, command_timeout=10
    )


async def _create_database(socket: Path) -> bool:
    connection = await _connect(socket, "postgres")
    try:
        await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
    return True


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
