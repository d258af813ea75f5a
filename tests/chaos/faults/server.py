"""A PostgreSQL of the test's own on a loopback port: copied to a standby, killed, promoted, put on a small disk.

Every process of it is killed with it, as when a machine goes: a backend that outlived its postmaster could
still acknowledge something.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import asyncpg

from tests.chaos.postgres import AWAY
from tocsin.store.binaries import Binaries, copy_for, find_binaries
from tocsin.store.isolation import Isolation, OtherUser, choose_isolation, spawn

PATIENCE: Final = 60.0
SETTINGS: Final = {
    "autovacuum_naptime": "5s",
    "jit": "off",
    "log_min_messages": "fatal",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "wal_keep_size": "256MB",
}


class Place:
    """A directory that the server's user can enter, and programs that it can run. Enter it to have it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tocsin-chaos-"))
        found = find_binaries(os.environ.get("TOCSIN_TEST_PG_BIN"))
        self.isolation: Isolation = choose_isolation(self.directory, found.path / "postgres", owner=None)
        self.binaries: Binaries = found
        if isinstance(self.isolation, OtherUser):
            self.directory.chmod(0o711)
            self.binaries = copy_for(found, self.isolation.uid, self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def private(self, name: str) -> Path:
        """A directory of the server's user."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        if isinstance(self.isolation, OtherUser):
            os.chown(path, self.isolation.uid, self.isolation.gid)

    def program(self, name: str) -> Path | None:
        """One of PostgreSQL's programs, None where this package has it not."""
        path = self.binaries.path / name
        return path if path.exists() else None


class Server:
    """One data directory. env: of its processes, such as a clock that is not ours."""

    def __init__(
        self,
        place: Place,
        name: str,
        *,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        data: Path | None = None,
    ) -> None:
        self.name: Final = name
        self.port: Final = _free_port()
        self.env: dict[str, str] = dict(env or {})
        self.settings: dict[str, str] = {**SETTINGS, **(settings or {})}
        self.log: Final = place.directory / f"{name}.log"
        self._place = place
        self._data = data or place.private(name)
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.alive:
            await self.kill()

    @property
    def data(self) -> Path:
        return self._data

    @property
    def dsn(self) -> str:
        return f"postgresql://tocsin@127.0.0.1:{self.port}/postgres"

    def program(self, name: str) -> Path | None:
        """One of the programs that came with it, None where there is none of that name."""
        return self._place.program(name)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def initialise(self, *options: str) -> None:
        """An empty cluster whose sessions over loopback need no password. options: more of initdb's."""
        command = ["initdb", "-D", str(self._data), "-U", "tocsin", "-E", "UTF8", "--no-locale", "--no-sync"]
        await self._run([*command, "--auth=trust", "--no-instructions", *options])

    async def copy(self, name: str) -> "Server":
        """A standby of this server, not started yet, that will stream from it under its own name."""
        standby = Server(self._place, name, settings=self.settings, env=self.env)
        source = f"host=127.0.0.1 port={self.port} user=tocsin application_name={name}"
        words = ["pg_basebackup", "-D", str(standby.data), "-X", "stream", "-R", "-c", "fast", "--no-sync"]
        await self._run([*words, "-d", source])
        return standby

    async def start(self) -> None:
        """The server answers. Raises: AssertionError, with what it said."""
        command: list[str | Path] = [self._place.binaries.path / "postgres", "-D", self._data, "-p", str(self.port)]
        own = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        for key, value in {**self.settings, **own}.items():
            command += ["-c", f"{key}={value}"]
        self._process = self._spawn(command)
        until = time.monotonic() + PATIENCE
        while not await self._answers():
            assert self.alive, f"{self.name} did not start: {self.tail()}"
            assert time.monotonic() < until, f"{self.name} does not answer: {self.tail()}"
            await asyncio.sleep(0.02)

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """The postmaster has the signal and is gone."""
        assert self._process is not None
        self._process.send_signal(how)
        await self._gone()

    async def kill(self) -> None:
        """kill -9 of every process of the server: nothing of it can acknowledge anything any more."""
        assert self._process is not None
        family = [*_children(self._process.pid), self._process.pid]
        os.kill(self._process.pid, signal.SIGSTOP)
        for pid in [*family, *_children(self._process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await self._gone()

    async def promote(self) -> float:
        """The standby takes writes; after so many seconds."""
        since = time.monotonic()
        assert await self.value("SELECT pg_promote()")
        return time.monotonic() - since

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn, timeout=5, server_settings={"application_name": "chaos"})
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments, timeout=20)]
        finally:
            await connection.close(timeout=2)

    async def value(self, query: str, *arguments: object) -> Any:
        rows = await self.fetch(query, *arguments)
        return next(iter(rows[0].values())) if rows else None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:]) if self.log.exists() else ""

    async def _gone(self) -> None:
        assert self._process is not None
        until = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < until, f"{self.name} does not end: {self.tail()}"
            await asyncio.sleep(0.01)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    async def _answers(self) -> bool:
        try:
            return bool(await self.value("SELECT true"))
        except AWAY:
            return False

    async def _run(self, words: Sequence[str]) -> None:
        program = self._place.program(words[0])
        assert program is not None, f"{self._place.binaries.source} has no {words[0]}"
        process = self._spawn([program, *words[1:]])
        code = await asyncio.to_thread(process.wait, PATIENCE)
        assert code == 0, f"{words[0]} failed: {self.tail()}"

    def _spawn(self, command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env |= {"LC_ALL": "C", "TZ": "UTC", **self.env}
        with self.log.open("ab") as log:
            return spawn(command, self._place.isolation, directory=self._data.parent, env=env, output=log)


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(int(entry.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
