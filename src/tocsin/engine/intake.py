"""Webhooks' calls on their way into the database: those that come at the same time are written in one transaction.

Reads nothing, writes what ``Emitting`` writes. A call is answered once its transaction is committed; if the process
dies before that, its sender has no answer and calls again; after it, calling again gives nothing. What waits is bounded
in number and in bytes, and no call waits longer than its sender would: what cannot be written in time is refused,
unwritten.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tocsin.clock import Clock
from tocsin.domain.errors import Busy, StatementRefused
from tocsin.domain.event import Event
from tocsin.engine.emitting import CHUNK, CHUNK_BYTES, Emitting

MOST_WAITING: Final = 600
"""Fewer than a hub takes connections, so that whoever is refused is told when to come again."""

PATIENCE: Final = 5.0
"""Seconds that a call may wait before it is begun to be written. GitHub gives up after ten."""

PACE: Final = 0.02
"""Seconds from the beginning of one transaction to that of the next, unless so many wait that it is full: what comes
meanwhile shares its cost. Whoever comes alone waits for nothing.
"""

LEAVE_WITHIN: Final = 5.0
"""Seconds that the last transaction may take when the hub leaves."""

_FULL: Final = "so much waits to be written that this is refused: call again in a moment"


@dataclass(slots=True)
class _Waiting:
    event: Event
    size: int
    since: float
    answer: "asyncio.Future[dict[str, Any]]"


class Intake:
    """Entered, it takes events; left, it has answered all that it took."""

    def __init__(self, *, emitting: Emitting, clock: Clock, most: int = MOST_WAITING) -> None:
        self._emitting = emitting
        self._clock = clock
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many are not yet begun to be written."""
        return len(self._waiting)

    async def take(self, event: Event, size: int) -> dict[str, Any]:
        """What ``Emitting.emit`` says of the event, once it is committed. size: bytes of its data.

        Raises: Busy, and then it is not written; StoreError, and then it may have been.
        """
        if self._is_closed or len(self._waiting) >= self._most:
            raise Busy(_FULL)
        one = _Waiting(event, size, self._clock.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="intake")
        return await one.answer

    async def close(self) -> None:
        """Nothing more is taken; what waits is refused, and what is being written is answered."""
        self._is_closed = True
        while self._waiting:
            _refuse(self._waiting.popleft(), Busy("the hub is leaving: call again"))
        writing = self._writing
        if writing is not None:
            await asyncio.wait({writing}, timeout=LEAVE_WITHIN)
            writing.cancel()

    async def _write_all(self) -> None:
        try:
            while batch := self._next():
                begun_at = self._clock.monotonic()
                await self._write(batch)
                left = begun_at + PACE - self._clock.monotonic()
                if left > 0 and len(self._waiting) < CHUNK and not self._is_closed:
                    await self._clock.sleep(left)
        finally:
            self._writing = None

    def _next(self) -> list[_Waiting]:
        """The oldest that still have somebody who waits for them, as many as go into one transaction."""
        batch: list[_Waiting] = []
        size = 0
        before = self._clock.monotonic() - PATIENCE
        while self._waiting and len(batch) < CHUNK and size < CHUNK_BYTES:
            one = self._waiting.popleft()
            if one.since < before:
                _refuse(one, Busy(_FULL))
            elif not one.answer.done():
                batch.append(one)
                size += one.size
        return batch

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._emitting.write([one.event for one in batch])
        except StatementRefused as error:
            if len(batch) == 1:
                _refuse(batch[0], error)
                return
            # One that the database does not take refuses all: one by one, each meets only itself.
            for one in batch:
                await self._write([one])
        except Exception as error:  # whatever it is, whoever waits is told, and the next ones are written
            for one in batch:
                _refuse(one, error)
        else:
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)
        finally:
            # Only one that the hub's end has cut off has no answer yet.
            for one in batch:
                _refuse(one, Busy("the hub is leaving: call again"))


def _refuse(one: _Waiting, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)
