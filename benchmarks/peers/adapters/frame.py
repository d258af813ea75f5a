"""What every adapter shares: its order, its words on stdout, and its record of what began when.

An adapter is a process: ``python -m benchmarks.peers.adapters.NAME COMMAND ORDER``, ORDER as JSON. It
answers in JSON lines on stdout, each with ``event`` and ``at``, on the monotonic clock that all
processes of a machine share. ``work`` says ``ready`` once it could begin, waits for a line on stdin,
says ``up`` and works until it is told to end by a signal.

Begins and ends of runs go to the file ``order.records``, a line each, written at once so that they
outlive kill -9: B or E, monotonic nanoseconds, pid, key. It costs every contestant the same 2 us.

Standard library only: this module is imported in every environment.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a scenario wants of an adapter. Fields that a command has no use for keep their default.

    count: runs to enqueue or to fire. schedules, due: so many schedules, due at that Unix instant.
    slots: runs at once in one process. nap: seconds that a run takes. resident: the process holds the
    schedules (for contestants that keep them in memory). aggressive: the shortest documented limits
    for noticing a death, in place of the defaults. limit: seconds that a drain may take. pause: seconds
    between two fires. fires: so many are fired from inside the working process.
    """

    dsn: str = ""
    redis: str = ""
    records: str = ""
    count: int = 0
    slots: int = 100
    schedules: int = 0
    due: float = 0.0
    nap: float = 0.0
    aggressive: bool = False
    limit: float | None = None
    pause: float = 0.05
    fires: int = 0
    prefix: str = "job"


class Recorder:
    """Writes down what began and what ended."""

    def __init__(self, order: Order) -> None:
        self._pid = b" %d " % os.getpid()
        self._file = os.open(order.records, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if order.records else None

    def began(self, key: str) -> None:
        self._write(b"B ", key)

    def ended(self, key: str) -> None:
        self._write(b"E ", key)

    def fired(self, key: str) -> None:
        """The call that asks for the run is about to be made."""
        self._write(b"F ", key)

    async def run(self, key: str, nap: float) -> None:
        """The body of every run: nothing at all, or a nap."""
        self.began(key)
        if nap:
            await asyncio.sleep(nap)
            self.ended(key)

    def run_in_thread(self, key: str, nap: float) -> None:
        """The same for contestants whose runs are plain functions."""
        self.began(key)
        if nap:
            time.sleep(nap)
            self.ended(key)

    def _write(self, what: bytes, key: str) -> None:
        if self._file is not None:
            os.write(self._file, what + b"%d" % time.monotonic_ns() + self._pid + key.encode() + b"\n")


class Stage:
    """What an adapter says, and what it is told."""

    def __init__(self, words: int) -> None:
        self._words = words

    def say(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": time.monotonic(), **fields})
        os.write(self._words, line.encode() + b"\n")

    async def ready(self) -> None:
        """Everything is imported and connected; on with it when everybody is."""
        self.say("ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    def ready_blocking(self) -> None:
        self.say("ready")
        sys.stdin.readline()

    def up(self) -> None:
        """The worker works, as far as it can be known from outside."""
        self.say("up")


Caller = Callable[[str], Awaitable[None]]
"""Asks for one run with that key, and returns when the contestant has taken the request."""


class Adapter:
    """What a contestant can do. What it does not override, it cannot."""

    async def install(self, order: Order, stage: Stage) -> None:
        """The schema, and whatever has to be declared once."""

    async def enqueue(self, order: Order, stage: Stage) -> None:
        """``order.count`` runs wait, asked for in the fastest documented way; says ``enqueued`` with the seconds."""
        raise NotImplementedError

    async def register(self, order: Order, stage: Stage) -> None:
        """``order.schedules`` schedules stand in the store; says ``registered`` with the seconds.

        For contestants whose schedules live in the working process, it is said in ``work``.
        """
        raise NotImplementedError

    async def history(self, order: Order, stage: Stage) -> None:
        """``order.count`` runs have ended long ago."""
        raise NotImplementedError

    def caller(self, order: Order) -> AbstractAsyncContextManager[Caller]:
        """A way to ask for one run."""
        raise NotImplementedError

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        """A worker, until it is told to end."""
        raise NotImplementedError

    async def fire(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        """``order.count`` runs are asked for, one after the other with a pause between them."""
        async with self.caller(order) as call:
            await fire_all(order.count, order, call, recorder)
        stage.say("fired")


async def fire_all(count: int, order: Order, call: Caller, recorder: Recorder) -> None:
    for number in range(count):
        key = f"{order.prefix}-{number}"
        # The pauses differ, so that no contestant's own rhythm is met again and again.
        await asyncio.sleep(order.pause * (0.6 + 0.8 * (number * 0.618 % 1)))
        recorder.fired(key)
        await call(key)


@asynccontextmanager
async def until_told() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM sets."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    yield told


def act(adapter: Adapter, *, run: Callable[[Any], None] = asyncio.run) -> None:
    """One command, as the command line says. run: for those who bring an event loop of their own."""
    command, order = sys.argv[1], Order(**json.loads(sys.argv[2]))
    # Whatever a library prints goes to stderr: stdout is for our words alone.
    words = os.dup(1)
    os.dup2(2, 1)
    stage = Stage(words)
    match command:
        case "work":
            run(adapter.work(order, Recorder(order), stage))
        case "fire":
            run(adapter.fire(order, Recorder(order), stage))
        case "install":
            run(adapter.install(order, stage))
        case "enqueue":
            run(adapter.enqueue(order, stage))
        case "register":
            run(adapter.register(order, stage))
        case "history":
            run(adapter.history(order, stage))
        case _:
            sys.exit(f"no command {command!r}")
    stage.say("done")
