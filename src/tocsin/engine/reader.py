"""One who reads along: what it missed, then what comes, each event with the position at which to go on elsewhere.

It reads from what all readers of the replica share, and keeps no buffer. What is no longer remembered there is paged
from the database, as fast as it takes it. One that falls behind what is remembered while it reads along is too slow.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final, Literal, Protocol

from tocsin.domain.feed import Position, Wanted
from tocsin.engine.history import Event, History, Stretch
from tocsin.engine.tail import Gap, Tail, why_missed
from tocsin.store.feed import Standing

PAGE: Final = 500

End = Literal["draining", "revoked", "slow", "unread", "gone"]
"""unread: the database could not be asked for what comes next."""


class Framing(Protocol):
    """How what a reader hears is written. position: where it stands then, as one word."""

    def event(self, position: str, data: bytes) -> bytes: ...
    def gap(self, position: str, why: Gap) -> bytes: ...
    def still(self, position: str) -> bytes:
        """A sign of life."""
        ...


class Reader:
    """``begin`` it, then take its ``pieces`` until there are no more. ended: why, if it has."""

    def __init__(self, *, tail: Tail, wanted: Wanted, after: Position | None, framing: Framing) -> None:
        self.ended: End | None = None
        self._tail = tail
        self._wanted = wanted
        self._after = after
        self._framing = framing
        self._history: History | None = None
        self._next = 0
        self._is_nudged = False
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    def end(self, why: End) -> None:
        """It is given nothing more."""
        self.ended = self.ended or why
        self.wake()

    def nudge(self) -> None:
        """It is given a sign of life."""
        self._is_nudged = True
        self.wake()

    async def begin(self) -> None:
        """From now on nothing is missed that is committed. Raises: StoreError."""
        history, _ = await self._tail.looked()
        if self._after is None:
            self._follow(history)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What is to be sent in one go: one event or more, each whole. Raises: StoreError, while it catches up."""
        if self._after is not None:
            async for piece in self._missed_pieces(self._after):
                if self._is_over():
                    return
                yield piece
        self.nudge()
        while not self._is_over():
            self._awake.clear()
            for piece in self._new_pieces():
                if self._is_over():
                    return
                yield piece
            if not self._is_over():
                await self._awake.wait()

    def _is_over(self) -> bool:
        return self.ended is not None

    def _follow(self, history: History) -> str:
        """What is added from now on is still to be read. The position at which that begins."""
        self._history = history
        self._next = history.next
        return history.end.text()

    def _new_pieces(self) -> Iterator[bytes]:
        history = self._tail.history
        if history is None:
            return
        if history is not self._history:
            yield self._framing.gap(self._follow(history), "renewed")
        while self._next < history.next:
            if self._next < history.first:
                self.end("slow")
                return
            self._next += 1
            yield from history.batch(self._next - 1).told(self._wanted, self._framing.event)
        if self._is_nudged:
            self._is_nudged = False
            yield self._framing.still(history.end.text())

    async def _missed_pieces(self, position: Position) -> AsyncIterator[bytes]:
        """What was committed after the position, from the database until it can be had from what is remembered."""
        while True:
            history, standing = await self._tail.looked()
            why = why_missed(position, standing)
            if why is not None:
                yield self._framing.gap(self._follow(history), why)
                return
            if history.covers(position):
                remembered = list(history.since(position))
                self._follow(history)
                for stretch in remembered:
                    for piece in stretch.pieces(self._wanted, self._framing.event):
                        yield piece
                return
            stretch, standing = await self._page(position, history)
            if why_missed(position, standing) is None:
                for piece in stretch.pieces(self._wanted, self._framing.event):
                    yield piece
                position = stretch.end

    async def _page(self, position: Position, history: History) -> tuple[Stretch, Standing]:
        target = position.target or history.end.base
        async with self._tail.paging:
            page = await self._tail.feed.page(position.base, target, after=position.last, limit=PAGE)
        events = [Event(one) for one in page.rows]
        is_whole = len(events) < PAGE
        return Stretch(events, life=position.life, base=position.base, target=target, is_whole=is_whole), page.standing
