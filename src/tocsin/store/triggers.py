"""Triggers and agents in the database: declared, locked when due, moved on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tocsin.clock import Clock
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.audit import Action, Deed
from tocsin.domain.errors import BadInput
from tocsin.domain.planning import Plan
from tocsin.store.database import Database, Record, Session
from tocsin.store.decided import begun_of, cursor_columns, occurrence_columns
from tocsin.store.leases import Incarnation
from tocsin.store.trigger_rows import (
    Decision,
    DueTrigger,
    NewTrigger,
    TriggerRow,
    due_of,
    read_spec,
    row_of,
    wake_of,
    write_agent,
    write_policy,
    write_schedule,
)


class Triggers:
    """Triggers and agents of one database."""

    def __init__(self, *, database: Database, clock: Clock, who: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._who = who

    async def lock_due(self, session: Session, *, batch: int) -> tuple[datetime | None, list[DueTrigger]]:
        """(the database's instant, locked due triggers, oldest first). The caller holds the transaction."""
        rows = await session.fetch("lock_due", now=self._clock.now(), batch=batch)
        now = rows[0]["now"] if rows else None
        return now, [due_of(row) for row in rows]

    async def materialise(self, session: Session, decisions: Sequence[Decision]) -> list[Assignment]:
        """Runs, skips and cursors are written. Returns the runs that were begun here in the same breath.

        Idempotent by its keys. Raises: Contended, when a peer took a scope first.
        """
        fired = [
            (decision, run_id, occurrence)
            for decision in decisions
            if decision.plan is not None
            for run_id, occurrence in zip(decision.run_ids, decision.plan.occurrences, strict=True)
        ]
        skips = [(d.trigger.id, skip) for d in decisions if d.plan is not None for skip in d.plan.skips]
        rows = await session.fetch(
            "materialise",
            now=self._now(session),
            actor=self._who.actor,
            holder=self._who.holder,
            **occurrence_columns(fired),
            skip_trigger_ids=[trigger_id for trigger_id, _ in skips],
            skip_firsts=[skip.opened_at for _, skip in skips],
            skip_reasons=[skip.reason.value for _, skip in skips],
            skip_lasts=[skip.last_at for _, skip in skips],
            skip_counts=[skip.count for _, skip in skips],
            **cursor_columns(decisions),
        )
        await self._tell_broken(session, [d.trigger.id for d in decisions if d.broken_reason is not None])
        return begun_of(rows, fired)

    async def next_wake(self) -> tuple[datetime | None, datetime]:
        """(when the planner is needed next, the database's instant)."""
        row = await self._database.fetchrow("next_wake", now=self._clock.now())
        assert row is not None  # a SELECT of subqueries always has one row
        return row["wake_at"], row["now"]

    async def rearm(self, *, batch: int) -> int:
        """Triggers that count from the end of their run have their next instant, if there is one; how many.

        One that cannot be read is quarantined, so that its neighbours go on.
        """
        async with self._database.transaction() as session:
            rows = await session.fetch("lock_waiting", now=self._clock.now(), batch=batch)
            if not rows:
                return 0
            following = [_following(row) for row in rows]
            await session.fetch(
                "rearm",
                ids=[row["id"] for row in rows],
                statuses=[status for status, _, _ in following],
                nexts=[next_at for _, next_at, _ in following],
                broken_reasons=[reason for _, _, reason in following],
            )
            broken = [row["id"] for row, (_, _, reason) in zip(rows, following, strict=True) if reason is not None]
            await self._tell_broken(session, broken)
        return len(rows)

    async def _tell_broken(self, session: Session, ids: Sequence[UUID]) -> None:
        """That triggers were quarantined is an event, if somebody listens. Hardly ever is there one."""
        if ids:
            await session.fetch("tell_broken", now=self._now(session), ids=list(ids))

    async def get(self, name: str) -> TriggerRow | None:
        row = await self._database.fetchrow("get_trigger", now=self._clock.now(), name=name)
        return row_of(row) if row else None

    async def id_ever(self, name: str) -> UUID | None:
        """The id behind a name, also of a trigger that was deleted."""
        row = await self._database.fetchrow("get_trigger_ever", name=name)
        return row["id"] if row else None

    async def lock(self, session: Session, name: str) -> TriggerRow | None:
        """The row, ours until the caller's transaction ends, which goes by the row's ``now`` from here on."""
        row = await session.fetchrow("lock_trigger", now=self._clock.now(), name=name)
        now = await self._held(session)
        return replace(row_of(row), now=now) if row else None

    async def lock_named(self, session: Session, names: Sequence[str]) -> dict[str, TriggerRow]:
        rows = await session.fetch("lock_named", now=self._clock.now(), names=list(names))
        now = await self._held(session)
        return {row["name"]: replace(row_of(row), now=now) for row in rows}

    async def locked(self, session: Session, name: str) -> TriggerRow | None:
        """The row as it stands by now, of which the caller has the lock already."""
        row = await session.fetchrow("get_trigger", now=self._now(session), name=name)
        return row_of(row) if row else None

    async def _held(self, session: Session) -> datetime:
        """Its locks are held: what is changed counts from now on.

        A transaction's own ``now()`` is when it began. A tick that it then waited for has decided later
        instants, which a change that counts from ``now()`` would decide again, or call not due.
        """
        row = await session.fetchrow("wall_now", now=self._clock.now())
        assert row is not None  # a SELECT without FROM always has one row
        at: datetime = row["now"]
        session.instant = at
        return at

    def _now(self, session: Session) -> datetime | None:
        return session.instant or self._clock.now()

    def _by(self, session: Session) -> dict[str, Any]:
        """Who changes something, and when."""
        return {"now": self._now(session), "actor": self._who.actor}

    async def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        source: str | None = None,
        agent: str | None = None,
        status: str | None = None,
    ) -> list[TriggerRow]:
        rows = await self._database.fetch(
            "list_triggers", now=self._clock.now(), limit=limit, after=after, source=source, agent=agent, status=status
        )
        return [row_of(row) for row in rows]

    async def insert(self, session: Session, new: Sequence[NewTrigger], *, source: str) -> None:
        await session.fetch("insert_triggers", **self._columns(new), **self._by(session), source=source)

    async def change(self, session: Session, changed: Sequence[NewTrigger], *, source: str) -> None:
        await session.fetch("change_triggers", **self._columns(changed), **self._by(session), source=source)

    def _columns(self, new: Sequence[NewTrigger]) -> dict[str, Any]:
        return {
            "ids": [n.id for n in new],
            "names": [n.spec.name for n in new],
            "agents": [n.spec.agent for n in new],
            "schedules": [write_schedule(n.spec.schedule) for n in new],
            "policies": [write_policy(n.spec) for n in new],
            "inputs": [msgspec.json.encode(n.spec.input).decode() for n in new],
            "statuses": [n.status for n in new],
            "nexts": [n.next_at for n in new],
            "wakes": [n.wake_at for n in new],
        }

    async def set_paused(
        self, session: Session, row: TriggerRow, deed: Deed, *, pauses: Mapping[str, datetime | None], plan: Plan | None
    ) -> None:
        """The trigger rests for these reasons, each until its instant, if it has one. The plan is where its cursor
        stands now, None where it stood. deed: what that is on record as, if it changes anything.
        """
        reasons = sorted(pauses)
        status = plan.status if plan else row.status
        await session.fetchrow(
            "set_paused",
            **self._by(session),
            action=deed.action.value,
            detail=msgspec.json.encode(deed.detail).decode(),
            id=row.id,
            paused=reasons,
            paused_until=[pauses[reason] for reason in reasons] if any(pauses.values()) else [],
            status=status,
            next_at=plan.next_at if plan else row.next_at,
            wake_at=wake_of(status, plan.wake_at if plan else row.wake_at, pauses),
            gap_reason=(plan.gap[0].value if plan.gap else None) if plan else row.gap_reason,
            gap_from=(plan.gap[1] if plan.gap else None) if plan else row.gap_from,
        )

    async def take_back_skip(self, session: Session, trigger_id: UUID, *, reason: str, at: datetime) -> None:
        """The last occurrence of an account is no longer skipped."""
        await session.fetchrow("take_back_skip", trigger_id=trigger_id, reason=reason, at=at)

    async def add_skips(self, session: Session, trigger_id: UUID, plan: Plan) -> None:
        """The plan's skips are accounted for."""
        await session.fetch(
            "add_skips",
            now=self._now(session),
            actor=self._who.actor,
            trigger_ids=[trigger_id for _ in plan.skips],
            firsts=[skip.opened_at for skip in plan.skips],
            reasons=[skip.reason.value for skip in plan.skips],
            lasts=[skip.last_at for skip in plan.skips],
            counts=[skip.count for skip in plan.skips],
        )

    async def last_skip(self, session: Session, trigger_id: UUID, *, reason: str, since: datetime) -> datetime | None:
        """The last occurrence since an instant that was skipped for this reason."""
        row = await session.fetchrow("last_skip", trigger_id=trigger_id, reason=reason, since=since)
        return row["at"] if row else None

    async def withdraw(self, session: Session, trigger_id: UUID, *, reason: str, kinds: Sequence[str]) -> int:
        """Queued, never claimed runs of these kinds are skipped; how many."""
        row = await session.fetchrow(
            "withdraw",
            now=self._now(session),
            actor=self._who.actor,
            trigger_id=trigger_id,
            reason=reason,
            kinds=list(kinds),
        )
        return int(row["count"]) if row else 0

    async def delete(self, session: Session, trigger_id: UUID, *, action: Action = Action.DELETED) -> None:
        """The trigger is out of service, and what of it still waits to be retried is cancelled."""
        await session.fetchrow("cancel_queued", **self._by(session), trigger_id=trigger_id)
        await session.fetchrow("delete_trigger", **self._by(session), action=action.value, id=trigger_id)

    async def now(self, session: Session) -> datetime:
        """The instant that the transaction's statements go by."""
        row = await session.fetchrow("transaction_now", now=self._now(session))
        assert row is not None  # a SELECT without FROM always has one row
        at: datetime = row["now"]
        return at

    async def hint(self, session: Session) -> None:
        """Replicas look at their triggers once the transaction is committed."""
        await session.fetchrow("hint", actor=self._who.actor)

    async def why(self, trigger_id: UUID, *, since: datetime, until: datetime, limit: int) -> list[dict[str, Any]]:
        """Every recorded decision on occurrences in [since, until], newest first."""
        rows = await self._database.fetch("why", trigger_id=trigger_id, since=since, until=until, limit=limit)
        return [dict(row) for row in rows]

    async def declare_agents(self, session: Session, specs: Sequence[AgentSpec], *, source: str) -> dict[str, bool]:
        """name → created, for each agent that is new or changed."""
        rows = await session.fetch(
            "declare_agents",
            **self._by(session),
            source=source,
            names=[spec.name for spec in specs],
            specs=[write_agent(spec) for spec in specs],
            max_attempts=[spec.max_attempts for spec in specs],
            on_lost=[spec.on_lost.value for spec in specs],
            concurrencies=[spec.concurrency for spec in specs],
            concurrency_keys=[spec.concurrency_key for spec in specs],
            deadlines=[spec.deadline for spec in specs],
        )
        return {row["name"]: row["created"] for row in rows}

    async def agents(self, *, limit: int, name: str | None = None, after: str | None = None) -> list[dict[str, Any]]:
        rows = await self._database.fetch("list_agents", now=self._clock.now(), limit=limit, name=name, after=after)
        return [dict(row) for row in rows]


def _following(row: Record) -> tuple[str, datetime | None, str | None]:
    """(status, next_at, broken_reason) of a trigger whose run has ended."""
    try:
        schedule = read_spec(row["agent"], row["schedule"], row["policy"]).schedule
        if schedule is None:
            raise BadInput("it waits for its run but has no schedule")
        next_at = schedule.next_after(row["ended_at"])
    except (BadInput, ValueError, OverflowError, ArithmeticError, RecursionError, LookupError) as error:
        return "broken", None, str(error) or type(error).__name__
    return ("ended" if next_at is None else "armed"), next_at, None
