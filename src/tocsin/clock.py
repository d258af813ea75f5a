"""The only place that reads a clock or sleeps.

The database's clock is the only wall clock. ``now()`` is what every statement binds to ``:now``: None
in production, which leaves the instant to the database, and an instant under simulation.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def now(self) -> datetime | None:
        """The instant to bind to ``:now``; None leaves it to the database."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that no step or skew touches."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """The callback runs on this event loop after ``seconds``, unless the timer is cancelled."""
        ...


class SystemClock:
    """Production: the database says when, the machine says how long."""

    def now(self) -> datetime | None:
        return None

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


def host_now() -> datetime:
    """This host's wall clock, for log lines and for the doctor's comparison; no decision rests on it."""
    return datetime.now(UTC)
