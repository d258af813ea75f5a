"""What a replica remembers of the feed: the newest transitions, once for all who read along.

It is a window that only moves on. Whoever reads keeps the number of the batch that comes next, and nothing else; so a
reader that falls behind costs nothing, until what it has not read is gone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from tocsin.domain.feed import Position, Snapshot, Wanted
from tocsin.store.feed import Fed, Transition

MOST_EVENTS: Final = 20_000
MOST_BYTES: Final = 16_000_000
PIECE: Final = 64_000
"""Bytes after which what is to be sent is sent."""

Frame = Callable[[str, bytes], bytes]
"""(position, JSON) → one event in the form in which it is sent."""


class Event:
    """A transition, written out once. number: its id."""

    __slots__ = ("data", "number", "transition", "xid")

    def __init__(self, fed: Fed) -> None:
        self.number, self.xid, self.transition = fed
        self.data = msgspec.json.encode(self.transition)


def is_wanted(transition: Transition, wanted: Wanted) -> bool:
    return (
        (wanted.runs is None or transition.run_id in wanted.runs)
        and (wanted.triggers is None or transition.trigger in wanted.triggers)
        and (wanted.agents is None or transition.agent in wanted.agents)
        and (wanted.states is None or transition.to_state in wanted.states)
        and (wanted.kinds is None or transition.kind in wanted.kinds)
    )


class Stretch:
    """Events in their order: of what target sees and base does not, a part or, if it is whole, all up to its end."""

    def __init__(
        self, events: list[Event], *, life: str, base: Snapshot, target: Snapshot, is_whole: bool = True
    ) -> None:
        self.events = events
        self.life = life
        self.base = base
        self.target = target
        self.is_whole = is_whole

    @property
    def end(self) -> Position:
        """Where a reader stands that has heard it."""
        if self.is_whole:
            return Position(self.life, self.target)
        return Position(self.life, self.base, self.target, self.events[-1].number)

    def frames(self, wanted: Wanted, frame: Frame) -> Iterator[bytes]:
        """Those that are wanted, each with the position of a reader that has heard it."""
        chosen = [event for event in self.events if wanted.is_all or is_wanted(event.transition, wanted)]
        stem = f"{self.life}.{self.base.text()}.{self.target.text()}."
        for event in chosen[:-1]:
            yield frame(f"{stem}{event.number:x}", event.data)
        for last in chosen[-1:]:
            # What comes after it is not wanted, so that it stands for the rest.
            yield frame(self.end.text(), last.data)

    def pieces(self, wanted: Wanted, frame: Frame) -> Iterator[bytes]:
        """The same, put together to what is sent in one go."""
        piece, size = [], 0
        for one in self.frames(wanted, frame):
            piece.append(one)
            size += len(one)
            if size >= PIECE:
                yield b"".join(piece)
                piece, size = [], 0
        if piece:
            yield b"".join(piece)


class Batch(Stretch):
    """What one look at the feed has brought, written out once for all who want the same."""

    def __init__(self, fed: Iterable[Fed], *, life: str, base: Snapshot, target: Snapshot, is_whole: bool) -> None:
        super().__init__([Event(one) for one in fed], life=life, base=base, target=target, is_whole=is_whole)
        self.size = sum(len(event.data) for event in self.events)
        self._told: dict[Wanted, list[bytes]] = {}

    def told(self, wanted: Wanted, frame: Frame) -> list[bytes]:
        known = self._told.get(wanted)
        if known is None:
            known = self._told[wanted] = list(self.pieces(wanted, frame))
        return known


class History:
    """Batches without a gap between them, from ``start`` to ``end``. first: the number of the oldest one."""

    def __init__(
        self, *, life: str, start: Snapshot, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES
    ) -> None:
        self.life = life
        self.start = start
        self.end = Position(life, start)
        self.first = 0
        self._batches: deque[Batch] = deque()
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._events = self._bytes = 0

    @property
    def next(self) -> int:
        """The number that the next batch will have."""
        return self.first + len(self._batches)

    def add(self, batch: Batch) -> None:
        """It is the newest; of the oldest, what is too much is forgotten."""
        self.end = batch.end
        if not batch.events:
            return
        self._batches.append(batch)
        self._events += len(batch.events)
        self._bytes += batch.size
        while len(self._batches) > 1 and (self._events > self._most_events or self._bytes > self._most_bytes):
            self._forget()

    def batch(self, number: int) -> Batch:
        """One that is still there."""
        return self._batches[number - self.first]

    def covers(self, position: Position) -> bool:
        """Whether all that a reader who stands there has not heard is remembered, if there was a look since."""
        return self.start.is_within(position.base)

    def since(self, position: Position) -> Iterator[Stretch]:
        """What such a reader has not heard, up to the end. The position is covered, and the end is a whole one."""
        unheard = [
            event
            for batch in self._batches
            for event in batch.events
            if not position.has_heard(event.xid, event.number)
        ]
        unheard.sort(key=lambda event: event.number)
        newest = position.newest
        if position.target is not None:
            rest = [event for event in unheard if newest.sees(event.xid)]
            yield Stretch(rest, life=self.life, base=position.base, target=newest)
        later = [event for event in unheard if not newest.sees(event.xid)]
        yield Stretch(later, life=self.life, base=newest, target=self.end.base)

    def _forget(self) -> None:
        batch = self._batches.popleft()
        self.first += 1
        self._events -= len(batch.events)
        self._bytes -= batch.size
        # Whoever has heard all that its target sees misses nothing of it, whole or not.
        self.start = batch.target
