"""Runs in the database: claimed, settled, swept, listed. Every write after a claim carries its fence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.assignment import Assignment, LastRun
from tocsin.domain.run import POISONED_AFTER, RunKind, RunState, Settlement
from tocsin.store.database import Database, Record
from tocsin.store.leases import Incarnation
from tocsin.store.retention import first_id_at

OF_ASSIGNMENT: Final = Assignment.__struct_fields__.index("last")
"""Columns of a claimed row that are an assignment; the four of its trigger's last success follow."""

LOOK_BACK: Final = timedelta(days=1)
"""How much older than an instant the ids may be that are looked at for it."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A queued run that the claim decided against."""

    run_id: UUID
    trigger: str
    agent: str
    nominal_at: datetime
    reason: str
    rearms: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """passed_over: how many used up quota for nothing, so that what stands behind them was not looked at."""

    assignments: list[Assignment]
    skipped: list[Skipped]
    passed_over: int = 0


class FollowUp(msgspec.Struct, frozen=True):
    """A run that an agent asked for; exactly one of ``at`` and ``after`` is set. input: JSON text."""

    at: datetime | None
    after: timedelta | None
    input: str


class Ended(msgspec.Struct, kw_only=True):
    """One attempt's end, ready to be written. usage: JSON text; log: lines; follow_ups: in order."""

    run_id: UUID
    fence: int
    settlement: Settlement
    usage: str | None = None
    log: str | None = None
    follow_ups: Sequence[FollowUp] = ()


@dataclass(frozen=True, slots=True)
class Swept:
    """A run taken from a dead holder, or closed because it would not stop."""

    run_id: UUID
    fence: int
    trigger: str
    state: str
    reason: str
    holder: UUID | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Progress and usage of an attempt in hand; None leaves what is there."""

    run_id: UUID
    fence: int
    progress: str | None
    fraction: float | None
    usage: str | None


@dataclass(slots=True)
class Quota:
    """How many runs of one agent a claim may take from one lane."""

    agent: str
    lane: str
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """A run asked for. key: seen before gives the run it gave then; input: JSON text or the trigger's."""

    key: str
    input: str | None = None
    nominal_at: datetime | None = None
    id: UUID = field(default_factory=uuid7)


class Runs:
    """The runs of one database, written in one incarnation's name."""

    def __init__(self, *, database: Database, clock: Clock, who: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._who = who

    async def claim(self, quotas: Sequence[Quota], *, free: int) -> Claimed:
        """What was ready is ours, with its fence raised; nothing, when our lease has ended.

        Raises: Contended, when another replica took a scope or permit first; DatabaseUnavailable.
        """
        rows = await self._database.fetch(
            "claim",
            now=self._clock.now(),
            holder=self._who.holder,
            actor=self._who.actor,
            free=free,
            agents=[quota.agent for quota in quotas],
            lanes=[quota.lane for quota in quotas],
            quotas=[quota.count for quota in quotas],
        )
        claimed = Claimed([], [], rows[0]["passed_over"])
        for row in rows:
            if row["state"] == "running":
                claimed.assignments.append(assignment_of(row))
            elif row["state"] is not None:
                claimed.skipped.append(
                    Skipped(
                        row["id"],
                        row["trigger"],
                        row["agent"],
                        row["nominal_at"],
                        row["reason"],
                        row["rearms"],
                    )
                )
        return claimed

    async def settle(self, ends: Sequence[Ended]) -> set[UUID]:
        """The ids of the attempts that were still ours and are closed now. Idempotent.

        Raises: StatementRefused, when the database will not store one of them; DatabaseUnavailable.
        """
        follows = [(end, order, follow) for end in ends for order, follow in enumerate(end.follow_ups)]
        settlements = [end.settlement for end in ends]
        errors = [settlement.error for settlement in settlements]
        rows = await self._database.fetch(
            "settle",
            now=self._clock.now(),
            holder=self._who.holder,
            actor=self._who.actor,
            ids=[end.run_id for end in ends],
            fences=[end.fence for end in ends],
            states=[settlement.state for settlement in settlements],
            reasons=sparse([settlement.reason for settlement in settlements]),
            delays=sparse([settlement.delay or None for settlement in settlements]),
            uncounted=sparse([None if settlement.counted else True for settlement in settlements]),
            outputs=[settlement.output and settlement.output.decode() for settlement in settlements],
            error_kinds=sparse([error and error.kind for error in errors]),
            error_messages=sparse([error and error.message for error in errors]),
            usages=sparse([end.usage for end in ends]),
            logs=sparse([end.log for end in ends]),
            follow_ids=[uuid7() for _ in follows],
            follow_parents=[end.run_id for end, _, _ in follows],
            follow_keys=[f"follow:{end.run_id}:{order}" for end, order, _ in follows],
            follow_ats=[follow.at for _, _, follow in follows],
            follow_afters=[follow.after for _, _, follow in follows],
            follow_inputs=[follow.input for _, _, follow in follows],
        )
        return {row["id"] for row in rows}

    async def report(self, reports: Sequence[Report]) -> set[UUID]:
        """The ids of the attempts whose progress and usage were taken; the others are fenced."""
        rows = await self._database.fetch(
            "report",
            now=self._clock.now(),
            holder=self._who.holder,
            ids=[report.run_id for report in reports],
            fences=[report.fence for report in reports],
            progress=[report.progress for report in reports],
            fractions=[report.fraction for report in reports],
            usages=[report.usage for report in reports],
        )
        return {row["run_id"] for row in rows}

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
        return [
            Swept(row["id"], row["fence"], row["trigger"], row["state"], row["reason"], row["holder"]) for row in rows
        ]

    async def fence_uncancelled(self, *, batch: int) -> list[Swept]:
        """Runs that were asked to stop and did not in time are closed as cancelled."""
        rows = await self._database.fetch(
            "fence_uncancelled", now=self._clock.now(), actor=self._who.actor, batch=batch
        )
        return [Swept(row["id"], row["fence"], row["trigger"], "cancelled", row["reason"]) for row in rows]

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
        """One (run id, created) for each request; a key seen before answers with its first run."""
        for _ in range(2):
            rows = await self._database.fetch(
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
                nominals=[request.nominal_at for request in requests],
                keys=[request.key for request in requests],
                inputs=[request.input for request in requests],
            )
            # A key that another session committed meanwhile is not in this statement's snapshot.
            if len(rows) >= len(requests):
                break
        return [(row["id"], row["created"]) for row in rows]

    async def cancel(self, run_id: UUID, *, reason: str) -> tuple[str, str] | None:
        """(state before, state now), or None where there is no such run."""
        row = await self._database.fetchrow(
            "cancel_run", now=self._clock.now(), actor=self._who.actor, id=run_id, reason=reason
        )
        return (row["was"], row["state"]) if row else None

    async def cancel_backfill(self, trigger_id: UUID, backfill: str) -> int:
        """How many queued runs of the backfill were cancelled."""
        row = await self._database.fetchrow(
            "cancel_backfill",
            now=self._clock.now(),
            actor=self._who.actor,
            trigger_id=trigger_id,
            prefix=f"backfill:{backfill}:",
        )
        return int(row["count"]) if row else 0

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
    ) -> list[dict[str, Any]]:
        """Newest first; ``before`` is the last id of the page in hand."""
        rows = await self._database.fetch(
            "list_runs",
            limit=limit,
            trigger_id=trigger_id,
            agent=agent,
            states=[state.value for state in states] if states else None,
            before=before,
            since=since,
            first=first_id_at(since - LOOK_BACK) if since else None,
        )
        return [dict(row) for row in rows]

    async def history(self, run_id: UUID) -> dict[str, list[dict[str, Any]]]:
        """The trail, the attempts' tellings and the late results of one run."""
        blocks = {"transitions": "get_trail", "attempts": "get_attempts", "late_results": "get_late_results"}
        return {
            title: [dict(row) for row in await self._database.fetch(block, id=run_id)]
            for title, block in blocks.items()
        }

    async def summary(self, since: datetime) -> dict[str, Any]:
        """Occurrences by outcome, skips by reason and lateness in seconds, since an instant.

        A run that was queued more than a day before that is not looked for.
        """
        first = first_id_at(since - LOOK_BACK)
        totals = await self._database.fetchrow("summary", first=first, since=since)
        skips = await self._database.fetch("summary_skips", first=first, since=since)
        lateness = await self._database.fetchrow("summary_lateness", first=first, since=since)
        return {
            **(dict(totals) if totals else {}),
            "skipped": {row["reason"]: int(row["count"]) for row in skips},
            "lateness": dict(lateness) if lateness else {},
        }


def sparse(column: list[Any]) -> list[Any]:
    """A column that says nothing is not sent: unnest fills shorter arrays up with NULL."""
    return [] if column.count(None) == len(column) else column


def assignment_of(row: Record) -> Assignment:
    """A claimed row, in its holder's hand. Its first columns are the assignment's fields, in their order."""
    assignment = Assignment(*row[:OF_ASSIGNMENT])
    last_id, nominal_at, finished_at, output = row[OF_ASSIGNMENT : OF_ASSIGNMENT + 4]
    if output is not None:
        assignment.last = LastRun(str(last_id), nominal_at, finished_at, output)
    return assignment
