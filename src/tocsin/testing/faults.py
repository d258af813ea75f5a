"""A database whose connections fail on order: before a statement is sent, or after it was executed.

Every replica of a simulation speaks through a `Seam` of its own over one shared pool. The seam can be
told to lose the next statements, to be cut off altogether, and to hold one statement until it is let
go, which is how two replicas are made to interleave inside of a step.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final, Literal

from tocsin.domain.errors import DatabaseUnavailable
from tocsin.store.database import Database, Record, Session
from tocsin.testing.clock import SimulatedTime

When = Literal["before", "after"]

UNORDERED: Final = {"claim", "materialise", "lock_due", "sweep"}
"""Statements whose rows come in no order, or whose order leaves ties."""


@dataclass(slots=True)
class Hold:
    """One statement that waits. reached: it stands there; go: it may continue."""

    statement: str
    when: When
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Faults:
    """What goes wrong on one replica's way to the database. counts: how often each did."""

    random: Random
    chance: float = 0.0
    cut_off: bool = False
    hold: Hold | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def draw(self) -> When | None:
        """Whether this statement is lost, and on which side of its execution."""
        if self.chance and self.random.random() < self.chance:
            return self.random.choice(["before", "after"])
        return None

    async def pass_by(self, statement: str, when: When) -> None:
        """The statement may go on; it stops here while it is held, and fails when the way is cut."""
        hold = self.hold
        if hold is not None and (hold.statement, hold.when) == (statement, when):
            self.hold = None
            self.count(f"held {when} {statement}")
            hold.reached.set()
            await hold.go.wait()
        if self.cut_off and when == "before":
            self.count("cut off")
            raise DatabaseUnavailable(f"cut off: {statement} was never sent")

    def lose(self, statement: str, when: When) -> None:
        self.count(f"lost {when}")
        said = "was never sent" if when == "before" else "was executed, its answer is lost"
        raise DatabaseUnavailable(f"the connection broke: {statement} {said}")


class Seam(Database):
    """The shared pool as one replica sees it, with its faults."""

    def __init__(self, shared: Database, faults: Faults, time: SimulatedTime) -> None:
        super().__init__(shared.dsn, pooler=shared.pooler, statements=shared.statements)
        self.generation = 1
        self.time = time
        self._shared = shared
        self._faults = faults

    async def open(self) -> None:
        await self._shared.open()

    async def close(self) -> None:
        """Nothing: the pool is shared, and closed by whoever opened it."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with self._shared.session() as session:
            yield _FaultySession(session, self, self._faults)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        async with super().transaction() as session:
            yield session
        if self._faults.chance and self._faults.random.random() < self._faults.chance:
            self._faults.lose("a commit", "after")


class _FaultySession(Session):
    """A session whose ``:now`` is what the server's ``now()`` would be: the instant at which the statement
    is executed, or at which its transaction began, however long it was held in between."""

    def __init__(self, session: Session, seam: Seam, faults: Faults) -> None:
        super().__init__(session.connection, seam)
        self._faults = faults
        self._time = seam.time
        self._began_at: datetime | None = None

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[None]:
        async with super().transaction(**options):
            self._began_at = self._time.instant
            yield

    async def fetch(self, name: str, /, **values: object) -> list[Record]:
        lost = await self._before(name, values)
        rows = await super().fetch(name, **values)
        if name in UNORDERED:
            # Their order is the server's whim; the course must be the seed's.
            rows.sort(key=lambda row: str(row["id"]))
        await self._after(name, lost)
        return rows

    async def fetchrow(self, name: str, /, **values: object) -> Record | None:
        lost = await self._before(name, values)
        row = await super().fetchrow(name, **values)
        await self._after(name, lost)
        return row

    async def _before(self, name: str, values: dict[str, object]) -> When | None:
        await self._faults.pass_by(name, "before")
        lost = self._faults.draw()
        if lost == "before":
            self._faults.lose(name, "before")
        if "now" in values:
            values["now"] = self._began_at or self._time.instant
        return lost

    async def _after(self, name: str, lost: When | None) -> None:
        await self._faults.pass_by(name, "after")
        if lost == "after":
            self._faults.lose(name, "after")
