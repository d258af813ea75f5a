"""Adapters as processes: started, spoken to, waited for, killed; and what their records say."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.adapters.frame import Order
from benchmarks.peers.environments import ROOT


class AdapterFailed(Exception):
    """An adapter ended, or said nothing for too long; the text has its last words."""


class AdapterProcess:
    """One adapter at work on one command."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, title: str) -> None:
        self._process = process
        self._log = log
        self._title = title
        self.events: dict[str, dict[str, Any]] = {}

    @classmethod
    async def start(cls, python: Path, name: str, command: str, order: Order, log: Path) -> Self:
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                python,
                "-m",
                f"benchmarks.peers.adapters.{name}",
                command,
                json.dumps(asdict(order)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=_environment(),
            )
        return cls(process, log, f"{name} {command}")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, event: str, *, within: float = 120.0) -> dict[str, Any]:
        """The adapter has said this, now or before.

        Raises: AdapterFailed.
        """
        assert self._process.stdout is not None  # it is a pipe
        try:
            async with asyncio.timeout(within):
                while event not in self.events:
                    line = await self._process.stdout.readline()
                    if not line:
                        raise AdapterFailed(f"{self._title} ended before it said {event!r}: {self._last_words()}")
                    words = json.loads(line)
                    self.events[words["event"]] = words
        except TimeoutError:
            raise AdapterFailed(f"{self._title} has not said {event!r} within {within:.0f} s") from None
        return self.events[event]

    def go(self) -> None:
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(b"go\n")

    def send(self, number: signal.Signals) -> float:
        """The signal is sent; the instant, on the monotonic clock."""
        self._process.send_signal(number)
        return time.monotonic()

    async def end(self, *, grace: float = 5.0) -> None:
        """The process is gone, by itself after SIGTERM or by force."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) if lines else "it left no word"


def _environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "PG", "VIRTUAL_ENV"))}
    return mine | {"PYTHONUNBUFFERED": "1", "TZ": "UTC", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of a record: what, when in monotonic seconds, where, and of which run."""

    what: str
    at: float
    pid: int
    key: str


def marks(path: Path, what: str = "BEF") -> list[Mark]:
    """In the order of time."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        kind, at, pid, key = line.split(" ", 3)
        if kind in what:
            found.append(Mark(kind, int(at) / 1e9, int(pid), key))
    return sorted(found, key=lambda mark: mark.at)


class Crew:
    """The processes of one contestant in one measurement, sharing a store, a log and a record."""

    def __init__(self, python: Path, name: str, place: Path, common: Mapping[str, Any]) -> None:
        self._python = python
        self._name = name
        self._common = dict(common) | {"records": str(place / "records")}
        self._log = place / "log"
        self._stack = AsyncExitStack()
        self.records = place / "records"

    async def do(self, command: str, *, within: float = 300.0, **order: Any) -> dict[str, dict[str, Any]]:
        """One command from start to end; what the adapter said."""
        process = await self.begin(command, **order)
        await process.said("done", within=within)
        await process.end()
        return process.events

    async def begin(self, command: str, **order: Any) -> AdapterProcess:
        given = Order(**(self._common | order))
        process = await AdapterProcess.start(self._python, self._name, command, given, self._log)
        self._stack.push_async_callback(process.end, grace=1.0)
        return process

    async def workers(self, count: int, **order: Any) -> list[AdapterProcess]:
        """So many workers work, begun together."""
        workers = [await self.begin("work", **order) for _ in range(count)]
        for worker in workers:
            await worker.said("ready")
        for worker in workers:
            worker.go()
        for worker in workers:
            await worker.said("up")
        return workers

    async def begun(self, count: int, *, within: float = 120.0, what: str = "B") -> int:
        """So many lines stand in the record, or the time is over; how many there are."""
        ends_at = time.monotonic() + within
        sign, seen, offset = f"{what} ".encode(), 0, 0
        while time.monotonic() < ends_at:
            if self.records.exists():
                with self.records.open("rb") as file:
                    file.seek(offset)
                    new = file.read()
                whole = new.rfind(b"\n") + 1
                offset += whole
                seen += sum(line.startswith(sign) for line in new[:whole].splitlines())
            if seen >= count:
                return seen
            await asyncio.sleep(0.01)
        return seen

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def crew(python: Path, name: str, place: Path, **common: Any) -> AsyncIterator[Crew]:
    found = Crew(python, name, place, common)
    try:
        yield found
    finally:
        await found.close()
