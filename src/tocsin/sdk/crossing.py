"""From one thread onto another's event loop: calls in order, as many at a time as have come together."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tocsin.telemetry import Log


class Crossing:
    """Calls onto ``loop``, from any one thread. What a call raises is logged and ends nothing else."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self.loop = loop
        self._log = log
        self._calls: deque[Callable[[], None]] = deque()
        self._posted = False

    def post(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        if not self._posted:
            self._posted = True
            onto(self.loop, self._arrive)

    def _arrive(self) -> None:
        # First, so that a call which is appended from here on is either seen below or posted anew.
        self._posted = False
        while self._calls:
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:  # the loop that keeps agents alive goes on
                self._log.error("agent.failed", error=f"{type(error).__name__}: {error}")


def onto(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    """The callback runs on that loop soon; not at all when the loop is closed, as its process is about to end."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)
