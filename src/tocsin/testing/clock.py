"""Time that moves only when a test moves it.

One `SimulatedTime` is the database's clock of a whole simulation; each replica sees it through a
`SimulatedClock` of its own, whose monotonic reading has its own origin and which can be frozen: what
its timers had to do waits until it thaws, while the time goes on for everybody else.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

START: Final = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@dataclass(slots=True, order=True)
class SimulatedTimer:
    """A callback and the elapsed seconds at which it is due."""

    due: float
    order: int
    clock: "SimulatedClock" = field(compare=False)
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class SimulatedTime:
    """The one instant that everybody shares, and the timers that wait for it."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._timers: list[SimulatedTimer] = []
        self._order = count()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._elapsed

    @property
    def instant(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def advance(self, seconds: float) -> None:
        """The instant is that much later, and every timer that fell due on the way has run at its moment.

        Timers of a frozen clock wait; once it thaws they run at the next advance, late.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        until = self._elapsed + seconds
        frozen: list[SimulatedTimer] = []
        while self._timers and self._timers[0].due <= until:
            timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            if timer.clock.frozen:
                frozen.append(timer)
                continue
            self._elapsed = max(self._elapsed, timer.due)
            timer.callback()
        for timer in frozen:
            heapq.heappush(self._timers, timer)
        self._elapsed = max(self._elapsed, until)

    def advance_to(self, instant: datetime) -> None:
        self.advance((instant - self.instant).total_seconds())

    def add(self, clock: "SimulatedClock", seconds: float, callback: Callable[[], None]) -> SimulatedTimer:
        timer = SimulatedTimer(self._elapsed + max(0.0, seconds), next(self._order), clock, callback)
        heapq.heappush(self._timers, timer)
        return timer


class SimulatedClock:
    """One replica's view of the time. origin: what its monotonic clock read when the simulation began."""

    def __init__(self, time: SimulatedTime, *, origin: float = 0.0) -> None:
        self._time = time
        self._origin = origin
        self.frozen = False

    def now(self) -> datetime | None:
        return self._time.instant

    def monotonic(self) -> float:
        return self._origin + self._time.elapsed

    async def sleep(self, seconds: float) -> None:
        """The time has passed: whoever sleeps moves it on, as there is nobody else to do so."""
        self._time.advance(max(0.0, seconds))
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> SimulatedTimer:
        return self._time.add(self, seconds, callback)
