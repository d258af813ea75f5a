"""A PostgreSQL of our own below the home directory, shared by every process that asks for it.

What it reads and writes, all below ``home``:

    start.lock      held while a server is looked for, started or stopped
    attached.lock   held shared by every process that uses the server
    server.lock     held by the server itself: its processes inherit it (see cluster.py)
    pg18/           the data of PostgreSQL 18; one home is one major version
    run/            the socket, unless its path is too long: then a directory below the
                    runtime or temporary directory, which postmaster.pid tells everybody
    postgres.log    what initdb and the server say
    outside         only where root may neither own a namespace nor let ``nobody`` reach the
                    home: a link to the place below /var/lib/tocsin that holds the rest

The protocol: under start.lock a process takes its share of attached.lock, then attaches to
a server that answers, or takes server.lock and starts one; ``keep`` does so again when the
server dies. Leaving, it gives its share back under start.lock, and whoever can have
attached.lock alone was the last and stops the server. If a process dies between any two
steps the kernel gives its locks back: a half-made data directory was never renamed into
place, and a server without users stays until the next process comes, attaches and leaves.
A process that only passes by leaves such a server running, for the hub that comes back: it
says so in attached.lock, and whoever starts a server or comes to stay takes the word back.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import quote

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store import cluster as clusters
from tocsin.store.binaries import copy_for, find_binaries
from tocsin.store.cluster import DATABASE, PORT, USER, Cluster
from tocsin.store.home import (
    bound_log,
    data_directories,
    hand_over,
    own_home,
    place_for,
    socket_directory,
    the_data_directory,
)
from tocsin.store.isolation import Isolation, OtherUser, choose_isolation

LEFT_BEHIND: Final = b"left behind"
"""Stands in attached.lock while a server runs whose users died."""


class EmbeddedPostgres:
    """One process's hold on the server of a home; made by ``ensure``."""

    def __init__(
        self,
        request: "_Request",
        cluster: Cluster,
        attached: "_Lock",
        server: subprocess.Popen[bytes] | None,
        *,
        passing: bool,
    ) -> None:
        self._request = request
        self._cluster = cluster
        self._attached = attached
        self._server = server
        self._passing = passing

    @classmethod
    async def ensure(
        cls,
        home: Path,
        *,
        pg_bin: str | None = None,
        settings: Mapping[str, str] | None = None,
        isolation: Isolation | None = None,
        passing: bool = False,
        timeout: float = 60.0,  # noqa: ASYNC109 — several waits share it, and its end explains itself
    ) -> Self:
        """A server on the data of ``home`` answers, and stays until this process leaves.

        ``settings`` are PostgreSQL's, for a server that has to be started. ``isolation`` is
        for tests; otherwise it is found out. ``passing``: a server that ran without users is left
        running, as it was found. Safe to call from any number of processes at once.

        Raises: EmbeddedFailed.
        """
        with _explained(home):
            home = own_home(home)
            request = _Request(home, home / "postgres.log", pg_bin, settings or {}, isolation, timeout)
            async with _alone(home, request.deadline()):
                attached = _Lock(home / "attached.lock")
                try:
                    unused = attached.take(fcntl.LOCK_EX)
                    attached.take(fcntl.LOCK_SH)
                    cluster, server = await _attach_or_start(request, request.deadline())
                    if server is not None or not passing:
                        attached.note(b"")
                    elif unused:
                        attached.note(LEFT_BEHIND)
                except BaseException:
                    attached.close()
                    raise
        return cls(request, cluster, attached, server, passing=passing)

    @property
    def dsn(self) -> str:
        return self.dsn_of(DATABASE)

    @property
    def owner(self) -> bool:
        """Whether this process started the server, which is then its child."""
        return self._server is not None

    @property
    def log(self) -> Path:
        return self._cluster.log

    @property
    def pid(self) -> int | None:
        return clusters.pid_of(self._cluster.data)

    def dsn_of(self, database: str) -> str:
        socket = quote(str(self._cluster.socket), safe="")
        return f"postgresql://{USER}@/{quote(database, safe='')}?host={socket}&port={PORT}"

    async def keep(self, *, every: float = 0.5) -> NoReturn:
        """The server runs, and is started again at the same address if it dies; never returns.

        Raises: EmbeddedFailed, if it cannot be started again; calling once more tries once more.
        """
        while True:
            await asyncio.sleep(every)
            if _runs(self._request.home):
                continue
            with _explained(self._request.home):
                async with _alone(self._request.home, self._request.deadline()):
                    self._cluster, self._server = await _attach_or_start(self._request, self._request.deadline())

    async def stop(self, *, grace: float = 10.0) -> None:
        """This process has left; if it was the last, no process of the server is left either, unless it
        passed by one that had no users. Idempotent.

        After ``grace`` seconds of a fast shutdown follows an immediate one, which loses nothing
        that was committed.
        """
        if not self._attached.is_open:
            return
        home = self._request.home
        async with _alone(home, asyncio.get_running_loop().time() + grace + 30):
            last = self._attached.take(fcntl.LOCK_EX) and not (self._passing and self._attached.noted() == LEFT_BEHIND)
            self._attached.close()
            if last:
                await _shut_down(home, self._cluster, grace)
        if last and self._server is not None:
            while self._server.returncode is None:  # noqa: ASYNC110 — the reaper is a thread
                await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


@dataclass(frozen=True, slots=True)
class _Request:
    home: Path
    log: Path
    pg_bin: str | None
    settings: Mapping[str, str]
    isolation: Isolation | None
    timeout: float

    def deadline(self) -> float:
        """On the event loop's clock, counted from now."""
        return asyncio.get_running_loop().time() + self.timeout


class _Lock:
    """An flock. The kernel takes it back when the last process that has it open is gone."""

    def __init__(self, path: Path) -> None:
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise ValueError("the lock is closed")
        return self._fd

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    def take(self, how: int) -> bool:
        """Whether the lock is ours now, shared or alone; never waits."""
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def note(self, word: bytes) -> None:
        """The file says this and nothing else."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, word, 0)

    def noted(self) -> bytes:
        return os.pread(self.fd, 100, 0)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise EmbeddedFailed(f"{error.filename or home}: {reason}; choose another TOCSIN_HOME") from error


@asynccontextmanager
async def _alone(home: Path, deadline: float) -> AsyncIterator[None]:
    """Nobody else looks for, starts or stops the server of ``home`` meanwhile."""
    lock = _Lock(home / "start.lock")
    try:
        while not lock.take(fcntl.LOCK_EX):
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedFailed(
                    f"another process has kept {home / 'start.lock'} for too long; end it and try again"
                )
            await asyncio.sleep(0.01)
        yield
    finally:
        lock.close()


def _runs(home: Path) -> bool:
    """Whether any process of the server lives, which then holds the lock alone."""
    lock = _Lock(home / "server.lock")
    try:
        return not lock.take(fcntl.LOCK_SH)
    finally:
        lock.close()


async def _attach_or_start(request: _Request, deadline: float) -> tuple[Cluster, subprocess.Popen[bytes] | None]:
    lock = _Lock(request.home / "server.lock")
    try:
        while True:
            for data in data_directories(request.home):
                socket = clusters.running_in(data)
                if socket is not None and await clusters.answers(socket):
                    return Cluster(data, socket, request.log), None
            if lock.take(fcntl.LOCK_EX):
                return await _start(request, lock.fd, deadline)
            # Somebody's server is starting, recovering or going down; all of these end.
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedFailed(f"the PostgreSQL of {request.home} runs but does not answer; see {request.log}")
            await asyncio.sleep(0.01)
    finally:
        # The server keeps the lock by its inherited descriptor.
        lock.close()


async def _start(request: _Request, lock: int, deadline: float) -> tuple[Cluster, subprocess.Popen[bytes]]:
    home = request.home
    existing = the_data_directory(home)
    major = int(existing.name.removeprefix("pg")) if existing else None
    binaries = await asyncio.to_thread(find_binaries, request.pg_bin, major=major)
    owner = existing.stat().st_uid if existing else None
    isolation = request.isolation or choose_isolation(home, binaries.path / "postgres", owner=owner)
    place = place_for(home, isolation, moved_before=existing is not None)
    if isinstance(isolation, OtherUser):
        binaries = await asyncio.to_thread(copy_for, binaries, isolation.uid, place)
    data = existing or place / f"pg{binaries.version}"
    cluster = Cluster(data, socket_directory(home, place, isolation), request.log)
    bound_log(cluster.log)
    if existing is None:
        sync = request.settings.get("fsync") != "off"
        await clusters.initialise(cluster, binaries, isolation, lock=lock, sync=sync)
    elif isinstance(isolation, OtherUser) and owner != isolation.uid:
        await asyncio.to_thread(hand_over, data, isolation)
    server = await clusters.start(cluster, binaries, isolation, lock=lock, settings=request.settings, deadline=deadline)
    return cluster, server


async def _shut_down(home: Path, cluster: Cluster, grace: float) -> None:
    """No process of the server is left: its lock could be had."""
    lock = _Lock(home / "server.lock")
    try:
        for how, seconds in (signal.SIGINT, grace), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0):
            if lock.take(fcntl.LOCK_EX):
                return
            clusters.ask_to_stop(cluster.data, how)
            patience = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < patience:
                if lock.take(fcntl.LOCK_EX):
                    return
                await asyncio.sleep(0.005)
        raise EmbeddedFailed(f"PostgreSQL on {cluster.data} cannot be stopped; see {cluster.log}")
    finally:
        lock.close()
