"""Runs in the database: asked for, cancelled, swept, listed. What their holders write is in ``attempts``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import Conflict
from tocsin.domain.run import POISONED_AFTER, RunKind, RunState
from tocsin.store.attempts import assignment_of, sparse, uniform
from tocsin.store.database import Database, Record
from tocsin.store.leases import Incarnation
from tocsin.store.retention import first_id_since


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A run taken from a dead holder, or closed because it would not stop. at: when, on the database's clock."""

    run_id: UUID
    fence: int
    attempt: int
    trigger: str
    agent: str
    state: str
    reason: str
    holder: UUID
    effective_at: datetime
    started_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Request:
    """A run asked for. key: seen before gives the run it gave then; input: JSON text or the trigger's."""

    key: str
    input: str | None = None
    nominal_at: datetime | None = None
    id: UUID = field(default_factory=uuid7)


class Fired(NamedTuple):
    """A run that was asked for. row: itself, if it is new; begun: the same, when it was begun with its insert."""

    run_id: UUID
    agent: str
    row: dict[str, Any] | None
    begun: Assignment | None


class Runs:
    """The runs of one database, written in one incarnation's name."""

    def __init__(self, *, database: Database, clock: Clock, who: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._who = who

    async def sweep(self, *, dead_holders: Sequence[UUID], by_lease: bool, batch: int) -> list[Swept]:
        """Runs whose holder is named dead, or ``by_lease`` has no live lease, are queued again or closed."""
        rows = await self._database.fetch(
            "sweep",
            now=self._clock.now(),
            actor=self._who.actor,
            dead_holders=list(dead_holders),
            by_lease=by_lease,
            poisoned_after=POISONED_AFTER,
            batch=batch,
        )
        return [_swept(row) for row in rows]

    async def fence_uncancelled(self, *, batch: int) -> list[Swept]:
        """Runs that were asked to stop and did not in time are closed as cancelled."""
        rows = await self._database.fetch(
            "fence_uncancelled", now=self._clock.now(), actor=self._who.actor, batch=batch
        )
        return [_swept(row) for row in rows]

    async def enqueue(
        self,
        requests: Sequence[Request],
        *,
        trigger_id: UUID,
        kind: RunKind,
        lane: str,
        priority: int,
        overlap: str,
        overlap_scope: str,
    ) -> list[tuple[UUID, bool]]:
        """One (run id, created) for each request; a key seen before answers with its first run.

        Raises: Conflict, when the trigger was deleted meanwhile.
        """
        nominal, nominals = uniform([request.nominal_at for request in requests])
        for _ in range(2):
            count, *former = await self._database.fetch(
                "enqueue",
                now=self._clock.now(),
                actor=self._who.actor,
                trigger_id=trigger_id,
                kind=kind.value,
                lane=lane,
                priority=priority,
                overlap=overlap,
                overlap_scope=overlap_scope,
                ids=[request.id for request in requests],
                nominals=nominals,
                nominal=nominal,
                keys=[request.key for request in requests],
                inputs=sparse([request.input for request in requests]),
            )
            known = {row["key"]: row["run_id"] for row in former}
            # A key that another session committed meanwhile is not in this statement's snapshot.
            if count["created"] + len(former) >= len(requests):
                # A key that stands twice among the requests, or a second try, finds what we have just written.
                ids = [known.get(request.key, request.id) for request in requests]
                return [(run_id, run_id == request.id) for run_id, request in zip(ids, requests, strict=True)]
        raise Conflict("the trigger was deleted meanwhile")

    async def fire(self, name: str, request: Request, *, agent: str | None, holder: UUID | None) -> Fired | None:
        """The run that was asked for of a trigger, begun by ``holder`` if that may be; None, see the statement."""
        for _ in range(2):
            row = await self._database.fetchrow(
                "fire",
                now=self._clock.now(),
                actor=self._who.actor,
                name=name,
                id=request.id,
                key=request.key,
                input=request.input,
                agent=agent,
                holder=holder,
            )
            if row is None:
                return None
            if row["id"] is not None:
                begun = assignment_of(row) if row["state"] == "running" else None
                return Fired(row["id"], row["agent"], dict(row), begun)
            if row["former"] is not None:
                return Fired(row["former"], row["agent"], None, None)
        return None

    async def cancel(self, run_id: UUID, *, reason: str) -> tuple[str, str] | None:
        """(state before, state now), or None where there is no such run."""
        row = await self._database.fetchrow(
            "cancel_run", now=self._clock.now(), actor=self._who.actor, id=run_id, reason=reason
        )
        return (row["was"], row["state"]) if row else None

    async def cancel_backfill(self, trigger_id: UUID, backfill: UUID) -> int | None:
        """How many queued runs of the backfill were cancelled; None when there is no such backfill."""
        row = await self._database.fetchrow(
            "cancel_backfill",
            now=self._clock.now(),
            actor=self._who.actor,
            trigger_id=trigger_id,
            backfill=backfill,
            prefix=f"backfill:{backfill}:",
        )
        return int(row["count"]) if row and row["known"] else None

    async def get(self, run_id: UUID) -> dict[str, Any] | None:
        row = await self._database.fetchrow("get_run", id=run_id)
        return dict(row) if row else None

    async def page(
        self,
        *,
        limit: int,
        trigger_id: UUID | None = None,
        agent: str | None = None,
        states: Sequence[RunState] | None = None,
        before: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first; ``before`` is the last id of the page in hand. since, until: when they were queued."""
        values = {
            "limit": limit,
            "trigger_id": trigger_id,
            "agent": agent,
            "states": sorted({state.value for state in states}) if states else None,
            "before": before,
            "since": since,
            "until": until,
            "first": first_id_since(since) if since else None,
        }
        if states and RunState.SUCCEEDED not in states:
            rows = await self._database.fetch("list_unsuccessful_runs", **values)
        else:
            rows = await self._database.fetch("list_runs", **values)
        return [dict(row) for row in rows]

    async def whole(self, run_id: UUID) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]] | None:
        """A run, and its trail, its attempts' tellings and its late results, all as of one instant."""
        blocks = {"transitions": "get_trail", "attempts": "get_attempts", "late_results": "get_late_results"}
        async with self._database.snapshot() as session:
            run = await session.fetchrow("get_run", id=run_id)
            history = {
                title: [dict(row) for row in await session.fetch(block, id=run_id)] for title, block in blocks.items()
            }
        return (dict(run), history) if run else None

    async def summary(self, since: datetime) -> dict[str, Any]:
        """Occurrences by outcome, skips by reason and lateness in seconds, since an instant.

        A run that was queued more than a day before that is not looked for.
        """
        first = first_id_since(since)
        totals = await self._database.fetchrow("summary", first=first, since=since)
        skips = await self._database.fetch("summary_skips", first=first, since=since)
        lateness = await self._database.fetchrow("summary_lateness", first=first, since=since)
        return {
            **(dict(totals) if totals else {}),
            "skipped": {row["reason"]: int(row["count"]) for row in skips},
            "lateness": dict(lateness) if lateness else {},
        }


def _swept(row: Record) -> Swept:
    told = ("fence", "attempt", "trigger", "agent", "state", "reason", "holder", "effective_at", "started_at", "at")
    return Swept(run_id=row["id"], **{name: row[name] for name in told})
