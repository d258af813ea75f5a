"""Where a reader of the feed stands, and what it wants to hear.

A snapshot says which transactions had been committed when it was taken. All snapshots of one server are of one order:
what one of them sees, every later one sees, too. So what is new between two of them is what the later one sees and the
earlier one does not, however long ago it was written. A position is made of snapshots, and therefore means the same
to every replica.

Source: "Exported snapshots" and pg_snapshot, PostgreSQL documentation, 9.27.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Self

from tocsin.domain.errors import BadInput

MAX_POSITION: Final = 8_000
"""Characters of a position's text: two snapshots with some hundred transactions in progress each."""

_LIMIT: Final = 2**63
_SNAPSHOT: Final = r"[0-9a-f]{1,16}\+[0-9a-f]{1,16}(?:\+[0-9a-f]{1,16})*"
_POSITION: Final = re.compile(rf"([0-9a-z]{{1,20}})\.({_SNAPSHOT})(?:\.({_SNAPSHOT})\.([0-9a-f]{{1,16}}))?")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """xmin: every older transaction is seen. xmax: this one and every younger one is not. in_progress: in between,
    those that are not, ascending.
    """

    xmin: int
    xmax: int
    in_progress: tuple[int, ...] = ()

    def sees(self, xid: int) -> bool:
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)

    def is_within(self, later: "Snapshot") -> bool:
        """Whether the other one sees all that this one sees."""
        return self.xmax <= later.xmax and all(x >= self.xmax or x in self.in_progress for x in later.in_progress)

    def cut_at(self, xid: int) -> "Snapshot":
        """The same, but for what is not older than this transaction."""
        if xid >= self.xmax:
            return self
        left = tuple(x for x in self.in_progress if x < xid)
        return Snapshot(left[0] if left else xid, xid, left)

    def row(self) -> tuple[int, int, tuple[int, ...]]:
        """As the driver takes it."""
        return self.xmin, self.xmax, self.in_progress

    def text(self) -> str:
        """xmin, and the distances of the others from it, in hexadecimal digits."""
        return "+".join(format(x, "x") for x in (self.xmin, *(x - self.xmin for x in (self.xmax, *self.in_progress))))

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Raises: ValueError."""
        xmin, *distances = (int(part, 16) for part in text.split("+"))
        xmax, *rest = (xmin + distance for distance in distances)
        if not 0 < xmin <= xmax < _LIMIT or rest != sorted(set(rest)) or any(not xmin <= x < xmax for x in rest):
            raise ValueError("no snapshot")
        return cls(xmin, xmax, tuple(rest))


@dataclass(frozen=True, slots=True)
class Position:
    """Everything that base sees was heard; and, if there is a target, of what that one sees besides, everything up to
    last, a transition's id. life: of the feed; positions of another are not to be compared.
    """

    life: str
    base: Snapshot
    target: Snapshot | None = None
    last: int = 0

    @property
    def newest(self) -> Snapshot:
        """What does not see this was taken too early to go on from here."""
        return self.target or self.base

    def has_heard(self, xid: int, number: int) -> bool:
        """Of the transition of this id, and of this transaction."""
        return self.base.sees(xid) or (self.target is not None and number <= self.last and self.target.sees(xid))

    def text(self) -> str:
        """One word. ``Batch`` writes the same with less effort."""
        if self.target is None:
            return f"{self.life}.{self.base.text()}"
        return f"{self.life}.{self.base.text()}.{self.target.text()}.{self.last:x}"

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Raises: BadInput."""
        found = _POSITION.fullmatch(text) if len(text) <= MAX_POSITION else None
        try:
            if found is None:
                raise ValueError("no position")
            life, base, target, last = found.groups()
            number = int(last or "0", 16)
            position = cls(life, Snapshot.of_text(base), None if target is None else Snapshot.of_text(target), number)
            if number >= _LIMIT or not position.base.is_within(position.newest):
                raise ValueError("no position")
        except ValueError:
            raise BadInput("Last-Event-ID: must be the id of an event of this stream, as it was told") from None
        return position


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants to hear of; None: of any. Names, ids as text, states that were come to."""

    triggers: frozenset[str] | None = None
    agents: frozenset[str] | None = None
    runs: frozenset[str] | None = None
    states: frozenset[str] | None = None
    kinds: frozenset[str] | None = None

    @classmethod
    def of(cls, **given: Collection[str] | None) -> Self:
        """What is empty is not asked for."""
        values: dict[str, Any] = {name: frozenset(values) if values else None for name, values in given.items()}
        return cls(**values)

    @property
    def is_all(self) -> bool:
        return self == Wanted()
