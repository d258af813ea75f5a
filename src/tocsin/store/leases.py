"""Holders and their leases: who may write, until when, and who has died."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from tocsin.clock import Clock
from tocsin.store.database import Database, Session

FEW_SILENT: Final = 3
MASS: Final = 0.3
"""When more than this share of all agent processes, and no fewer than so many, are silent at once, it is us."""


class Incarnation:
    """Who writes: random for each process, and again when its lease was ended under it; never a host's name.

    holder: of a process that brings its own.
    """

    def __init__(self, name: str, *, actor: str | None = None, holder: UUID | None = None) -> None:
        self.name = name
        self.holder = holder or uuid4()
        self._actor = actor

    @property
    def actor(self) -> str:
        """How the trail names it: a person or program by name, a replica by its incarnation."""
        return self._actor or f"replica:{self.holder}"

    def reborn(self) -> None:
        """A new holder, which no lease and no run knows yet."""
        self.holder = uuid4()


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal answered, and which of the runs in hand are to stop, and why.

    expires_at is None when the lease had been ended by somebody else. strays: (run, fence) that the
    database holds to be ours and we do not, because a claim's answer was lost on the way.
    """

    expires_at: datetime | None
    fenced: frozenset[UUID]
    cancelled: frozenset[UUID]
    superseded: frozenset[UUID]
    strays: tuple[tuple[UUID, int], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything. now: the database's instant; the others: when there is something, or None."""

    now: datetime
    wake_at: datetime | None
    ready_at: datetime | None
    next_ready_at: datetime | None
    others_run: bool
    waiting: bool
    cancelling: bool
    unmatched: bool


class Leases:
    """One holder's lease, and its view of the others'."""

    def __init__(self, *, database: Database, clock: Clock, who: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._who = who

    async def register(
        self, *, name: str, version: str, tzdata: str, agents: Sequence[str], slots: int, lease: timedelta
    ) -> dict[str, str]:
        """The incarnation is listed and has a lease. Live replicas with other zones, by name: their release."""
        rows = await self._database.fetch(
            "register",
            now=self._clock.now(),
            holder=self._who.holder,
            name=name,
            version=version,
            tzdata=tzdata,
            agents=list(agents),
            slots=slots,
            lease=lease,
        )
        return {row["name"]: row["tzdata"] for row in rows}

    async def renew(self, held: Sequence[tuple[UUID, int]], *, lease: timedelta) -> Renewal:
        """The lease runs for another ``lease`` from the database's now. held: (run, fence) in hand."""
        row = await self._database.fetchrow(
            "renew",
            now=self._clock.now(),
            holder=self._who.holder,
            lease=lease,
            ids=[run_id for run_id, _ in held],
            fences=[fence for _, fence in held],
        )
        assert row is not None  # a SELECT of subqueries always has one row
        return Renewal(
            row["expires_at"],
            frozenset(row["fenced"]),
            frozenset(row["cancelled"]),
            frozenset(row["superseded"]),
            tuple(zip(row["stray_ids"], row["stray_fences"], strict=True)),
        )

    async def hold_lock(self) -> bool:
        """The server knows this session to live and die with our incarnation. Call it on every new session."""
        row = await self._database.fetchrow("hold_lock", holder=self._who.holder)
        return row is not None and bool(row["held"])

    async def free_locks(self) -> dict[UUID, datetime]:
        """Holders with work in hand whose session is gone, and when they had taken their lock."""
        rows = await self._database.fetch("free_locks", holder=self._who.holder)
        return {row["holder"]: row["locked_at"] for row in rows}

    async def bury_instances(self) -> tuple[dict[UUID, str], tuple[int, int] | None]:
        """(agent processes that were silent for too long, by id their names; how many of how many are silent, when
        so many are at once that each has as long again).
        """
        rows = await self._database.fetch("bury_instances", now=self._clock.now(), few=FEW_SILENT, share=MASS)
        lost = {row["holder"]: row["name"] for row in rows if row["holder"] is not None}
        spared = next(((row["silent"], row["known"]) for row in rows if row["holder"] is None), None)
        return lost, spared

    async def look(self, agents: Sequence[str], *, session: Session | None = None) -> Look:
        """Whether any loop has something to do; constant in cost. session: the listener's, or the pool's."""
        row = await (session or self._database).fetchrow(
            "look", now=self._clock.now(), holder=self._who.holder, agents=list(agents)
        )
        assert row is not None  # a SELECT of subqueries always has one row
        return Look(**dict(row))

    async def mark_draining(self) -> None:
        await self._database.fetchrow("mark_draining", holder=self._who.holder)

    async def release(self) -> None:
        """The incarnation has ended in order. Idempotent."""
        await self._database.fetchrow("release_lease", now=self._clock.now(), holder=self._who.holder)

    async def page(
        self,
        *,
        limit: int,
        everything: bool = False,
        name: str | None = None,
        before: tuple[datetime, UUID] | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first. before: (started_at, id) of the last one in hand."""
        rows = await self._database.fetch(
            "list_replicas",
            now=self._clock.now(),
            limit=limit,
            all=everything,
            name=name,
            before_at=before[0] if before else None,
            before_id=before[1] if before else None,
        )
        return [dict(row) for row in rows]
