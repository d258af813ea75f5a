"""One process of the fleet, a replica or an agent process: started, signalled, frozen and seen to end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.journal import Journal

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Role:
    """What a member's processes are. module: what is run; ready: the event that they log once they work."""

    name: str
    module: str
    ready: str


REPLICA: Final = Role("replica", "tests.chaos.replica", "hub.ready")
INSTANCE: Final = Role("instance", "tests.chaos.instance", "agent.connected")


class Member:
    """A place in the fleet, which one process after another may take.

    env: added to the process's environment at its next start; dsn: where it finds the database, such as a
    proxy in front of it; prefix: put before the command, such as ``["ip", "netns", "exec", "a"]``;
    root: the checkout it runs. Each takes effect at the next start.
    """

    def __init__(
        self, index: int, *, dsn: Callable[[], str], env: dict[str, str], journal: Journal, role: Role = REPLICA
    ) -> None:
        self.index: Final = index
        self.role: Final = role
        self.name: Final = f"{role.name[0]}{index}"
        self.env = env
        self.dsn: str | None = None
        self.prefix: list[str] = []
        self.root = ROOT
        self.log: Final = journal.path.parent / f"{self.name}.log"
        self.frozen = False
        self._default_dsn = dsn
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0
        self._reaper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def spawn(self) -> None:
        """A process is under way. Nothing is known of it yet: see ``until_logged``."""
        assert not self.alive, f"{self.name} runs already"
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        environ = {**os.environ, "PYTHONPATH": f"{self.root / 'src'}:{self.root}"}
        environ["TOCSIN_DATABASE_URL"] = self.dsn or self._default_dsn()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", self.role.module],
                cwd=self.root,
                env=environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.frozen = False
        self._journal.note("spawn", replica=self.name, pid=self._process.pid, role=self.role.name)
        self._reaper = asyncio.create_task(self._reap(self._process))

    async def _reap(self, process: "subprocess.Popen[bytes]") -> None:
        while process.poll() is None:  # noqa: ASYNC110 — a child that is polled needs no watcher in the loop
            await asyncio.sleep(0.005)
        self._journal.note("exit", replica=self.name, pid=process.pid, code=process.returncode)

    def send(self, number: signal.Signals) -> None:
        """The process has the signal, and log (n) says so."""
        self._journal.note("signal", replica=self.name, pid=self.pid, signal=number.name)
        os.kill(self.pid, number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)
        self.frozen = True

    @property
    def stopped(self) -> bool:
        """Whether the process stands still, whoever stopped it."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def thaw(self) -> None:
        if self.alive and self.frozen:
            self.send(signal.SIGCONT)
        self.frozen = False

    async def kill(self) -> None:
        """kill -9, and the process is gone. Its programs are its own session's, and go with it."""
        if self.alive:
            self.send(signal.SIGKILL)
        await self.gone(within=10)

    async def stop(self, *, within: float = 60) -> int:
        """SIGTERM; the exit code, once the process is gone."""
        self.thaw()
        if self.alive:
            self.send(signal.SIGTERM)
        return await self.gone(within=within)

    async def gone(self, *, within: float) -> int:
        """The process has ended; its exit code.

        Raises: TimeoutError.
        """
        async with asyncio.timeout(within):
            while self.alive:  # noqa: ASYNC110 — the reaper is a thread of polling
                await asyncio.sleep(0.005)
            if self._reaper is not None:
                await self._reaper
        assert self._process is not None
        return self._process.returncode

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """What this process has logged so far, or only the lines of one event."""
        if not self.log.exists():
            return []
        lines = self.log.read_bytes()[self._read_from :].splitlines()
        found = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return [line for line in found if event is None or line.get("event") == event]

    def said(self, words: str) -> bool:
        """Whether this process has written so, in whatever form."""
        return words.encode() in self.log.read_bytes()[self._read_from :]

    async def until_ready(self, *, within: float = 30) -> dict[str, Any]:
        """What it has logged when it was ready. Raises: see ``until_logged``."""
        return await self.until_logged(self.role.ready, within=within)

    async def until_logged(self, event: str, *, within: float = 30) -> dict[str, Any]:
        """The first line of that event of this process.

        Raises: AssertionError, when the process ends first; TimeoutError.
        """
        async with asyncio.timeout(within):
            while not (found := self.logged(event)):
                assert self.alive, f"{self.name} ended ({self.returncode}) before {event}: {self.tail()}"
                await asyncio.sleep(0.02)
        return found[0]

    def tail(self, lines: int = 8) -> str:
        """The last words of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
