"""The only lifecycle code: a loop that keeps one service stepping until it is told to stop.

A service's step is one transaction or idempotent, so it may be cancelled or may fail at any point.
A step that keeps failing makes the replica unready; it never kills the process, and the loop backs
off with full jitter.
"""

import asyncio
import random
from typing import Final, Protocol

from tocsin.clock import Clock
from tocsin.domain.errors import Contended, StoreError
from tocsin.telemetry import Log

FIRST_BACKOFF: Final = 0.1
MOST_BACKOFF: Final = 2.0
SIDESTEP: Final = 0.01
MOST_COLLISIONS: Final = 20
"""In a row; from there on they are failures like any other."""

UNREADY_AFTER: Final = 3
"""Failures in a row."""


class Service(Protocol):
    @property
    def name(self) -> str: ...

    async def run_once(self) -> bool:
        """One step is done; True when there is more to do at once."""
        ...

    def rest(self) -> float | None:
        """Seconds until the next step is due without being woken; None to wait for a wake-up."""
        ...


class Loop:
    """Steps one service. Enter it to start; leaving it stops it after the step in hand.

    most_backoff: seconds at most between two tries of a step that fails. failures: in a row; steps and failed: so far.
    """

    def __init__(self, service: Service, *, clock: Clock, log: Log, most_backoff: float = MOST_BACKOFF) -> None:
        self.service = service
        self._most_backoff = most_backoff
        self.failures = self.steps = self.failed = 0
        self._collisions = 0
        self._clock = clock
        self._log = log
        self._awake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        return self.failures < UNREADY_AFTER

    def wake(self) -> None:
        """The service steps soon, whatever it was resting for. On the loop's own event loop only."""
        self._awake.set()

    async def __aenter__(self) -> "Loop":
        self._task = asyncio.create_task(self.run(), name=f"tocsin-{self.service.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, *, within: float = 5.0) -> None:
        """No step runs any more: the one in hand was let finish, or cancelled after ``within`` seconds."""
        self._stopping = True
        self._awake.set()
        task, self._task = self._task, None
        if task is None:
            return
        await asyncio.wait({task}, timeout=within)
        task.cancel()
        await asyncio.wait({task})

    async def run(self) -> None:
        while not self._stopping:
            self._awake.clear()
            more = await self.step()
            if not more and not self._stopping:
                await self._rest()

    async def step(self) -> bool:
        """One guarded step: what it raises is logged and counted, never passed on."""
        self.steps += 1
        try:
            more = await self.service.run_once()
        except Contended as error:
            # Two that collided once must not march in step into the next collision.
            self._collisions += 1
            if self._collisions >= MOST_COLLISIONS:
                self.failures += 1
                self._report(error)
                return False
            await self._clock.sleep(SIDESTEP * random.random())
            return True
        except Exception as error:  # the loop that keeps a service alive
            self.failures += 1
            self._report(error)
            return False
        if self.failures:
            self._log.info("loop.recovered", loop=self.service.name, failures=self.failures)
        self.failures = self._collisions = 0
        return more

    def _report(self, error: Exception) -> None:
        self.failed += 1
        if self.failures in (1, UNREADY_AFTER) or self.failures % 100 == 0:
            known = isinstance(error, StoreError)
            note = str(error) if known else f"{type(error).__name__}: {error}"
            self._log.warning("loop.failed", loop=self.service.name, failures=self.failures, error=note)

    async def _rest(self) -> None:
        if self.failures:
            bound = min(self._most_backoff, FIRST_BACKOFF * 2 ** min(self.failures - 1, 10))
            # At least a tenth, so that a jitter near zero does not become a busy loop.
            await self._clock.sleep(bound * (0.1 + 0.9 * random.random()))
            return
        seconds = self.service.rest()
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return
        timer = None if seconds is None else self._clock.call_later(seconds, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            if timer is not None:
                timer.cancel()
