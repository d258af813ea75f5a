"""How late the event loop is: a timer that is set twice a second, and what it is late by.

Reads and writes nothing. What keeps a loop from its timers keeps it from everything else as well: an agent that
blocks, a process that is not given the processor, or one that was stopped for a while.
"""

from typing import Final

from tocsin.clock import Clock
from tocsin.engine.observer import Observer

EVERY: Final = 0.5
"""Seconds between two readings."""


class Pulse:
    name = "pulse"

    def __init__(self, *, clock: Clock, observer: Observer) -> None:
        self._clock = clock
        self._observer = observer
        self._due: float | None = None

    def rest(self) -> float | None:
        return EVERY

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if self._due is not None:
            self._observer.lagged(max(0.0, now - self._due))
        self._due = now + EVERY
        return False
