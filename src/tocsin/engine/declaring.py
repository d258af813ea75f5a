"""Declaring an app: its agents and triggers stand in the database as it says, and nothing else changes.

One transaction. The declaration was validated whole before it got here, so either all of it is
written or none. Declaring the same again writes nothing. A pause survives; so does the cursor of a
trigger whose schedule did not change. What was due under the old schedule is decided by the old one.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from tocsin.declared import App
from tocsin.domain.audit import Action
from tocsin.domain.errors import BadInput
from tocsin.domain.planning import Cursor, Plan, Skip, account, first_plan, plan
from tocsin.domain.run import SkipReason
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine.phase import phase_of
from tocsin.store.database import Database, Session
from tocsin.store.trigger_rows import (
    Decision,
    DueTrigger,
    NewTrigger,
    TriggerRow,
    wake_of,
    write_policy,
    write_schedule,
)
from tocsin.store.triggers import Triggers

CHUNK = 1_000
"""Triggers written in one statement."""


async def declare(database: Database, triggers: Triggers, app: App, *, prune: bool) -> dict[str, Any]:
    """What was created, changed, left alone, pruned, and taken over from another app, by name."""
    async with database.transaction() as session:
        agents = await triggers.declare_agents(session, list(app.agents.values()), source=app.identity)
        report: dict[str, list[str]] = {"created": [], "changed": [], "unchanged": [], "pruned": [], "taken_over": []}
        for start in range(0, len(app.triggers), CHUNK):
            await _declare_chunk(session, triggers, app.triggers[start : start + CHUNK], app.identity, report)
        if prune:
            report["pruned"] = await _prune(session, triggers, app)
        await triggers.hint(session)
    return {
        "agents": {
            "created": sorted(name for name, created in agents.items() if created),
            "changed": sorted(name for name, created in agents.items() if not created),
            "unchanged": sorted(set(app.agents) - set(agents)),
        },
        "triggers": {title: sorted(names) for title, names in report.items()},
    }


async def _declare_chunk(
    session: Session, triggers: Triggers, specs: Sequence[TriggerSpec], source: str, report: dict[str, list[str]]
) -> None:
    rows = await triggers.lock_named(session, [spec.name for spec in specs])
    now = await triggers.now(session)
    new: list[NewTrigger] = []
    changed: list[NewTrigger] = []
    for spec in specs:
        row = rows.get(spec.name)
        if row is None:
            new.append(first_cursor(uuid7(), spec, now))
            report["created"].append(spec.name)
        elif is_same(row, spec) and row.source == source:
            report["unchanged"].append(spec.name)
        else:
            changed.append(await changed_cursor(session, triggers, row, spec))
            report["changed"].append(spec.name)
            if row.source != source:
                report["taken_over"].append(spec.name)
    if new:
        await triggers.insert(session, new, source=source)
    if changed:
        await triggers.change(session, changed, source=source)


async def _prune(session: Session, triggers: Triggers, app: App) -> list[str]:
    """Triggers that this source declared once and declares no more are taken out of service."""
    declared = {spec.name for spec in app.triggers}
    pruned: list[str] = []
    after: str | None = None
    while rows := await triggers.page(limit=CHUNK, after=after, source=app.identity):
        after = rows[-1].name
        for row in rows:
            if row.name not in declared:
                locked = await triggers.lock(session, row.name)
                if locked is None:
                    continue
                await withdraw_due(session, triggers, locked)
                await triggers.withdraw(session, row.id, reason=SkipReason.WITHDRAWN.value, kinds=ALL_KINDS)
                await triggers.delete(session, row.id, action=Action.PRUNED)
                pruned.append(row.name)
    return pruned


ALL_KINDS = ("schedule", "manual", "backfill", "follow_up", "event")


def first_cursor(trigger_id: UUID, spec: TriggerSpec, now: datetime) -> NewTrigger:
    """A trigger that begins to count at ``now``."""
    phase = phase_of(spec.schedule, trigger_id) if spec.schedule is not None else None
    status, next_at, wake_at = (
        first_plan(spec.schedule, now, phase) if phase is not None else (_unscheduled(spec), None, None)
    )
    return NewTrigger(id=trigger_id, spec=spec, status=status, next_at=next_at, wake_at=wake_at)


def _unscheduled(spec: TriggerSpec) -> str:
    return "manual" if spec.event is None else "listening"


def is_same(row: TriggerRow, spec: TriggerSpec) -> bool:
    """Whether the row already says what the declaration says, and can be read."""
    return (
        row.status != "broken"
        and row.agent == spec.agent
        and has_same_schedule(row, spec.schedule)
        and _value(row.policy) == _value(write_policy(spec))
        and _value(row.input) == _value(msgspec.json.encode(spec.input).decode())
    )


def has_same_schedule(row: TriggerRow, schedule: Schedule | None) -> bool:
    same: bool = _value(row.schedule) == _value(write_schedule(schedule))
    return same


async def changed_cursor(session: Session, triggers: Triggers, row: TriggerRow, spec: TriggerSpec) -> NewTrigger:
    """The row's new version. The caller holds the row's lock and writes what comes back.

    With the same schedule the cursor stays where it is. With another, what was due until now is
    decided by the old one, and the new one counts from now.
    """
    if row.status != "broken" and has_same_schedule(row, spec.schedule):
        status = row.status if spec.schedule is not None else _unscheduled(spec)
        wake_at = wake_of(status, row.wake_at, row.pauses)
        return NewTrigger(id=row.id, spec=spec, status=status, next_at=row.next_at, wake_at=wake_at)
    await withdraw_due(session, triggers, await decide_due(session, triggers, row))
    new = first_cursor(row.id, spec, row.now)
    due_at = new.next_at if row.paused else new.wake_at
    return dataclasses.replace(new, wake_at=wake_of(new.status, due_at, row.pauses))


async def decide_due(session: Session, triggers: Triggers, row: TriggerRow) -> TriggerRow:
    """What the row's own schedule had due until now is decided, as the planner would have; the row since then."""
    current = row
    while current.status == "armed" and current.next_at is not None and current.wake_at is not None:
        if current.next_at > current.now:
            break
        try:
            spec = current.spec()
        except BadInput:
            break
        if spec.schedule is None:
            break
        gap = (SkipReason(current.gap_reason), current.gap_from) if current.gap_reason and current.gap_from else None
        phase = phase_of(spec.schedule, current.id)
        if current.next_at + phase > current.now:
            break
        cursor = Cursor(next_at=current.next_at, phase=phase, paused=bool(current.paused), gap=gap)
        planned = plan(spec, spec.schedule, cursor, current.now)
        decision = Decision(due_from(current), spec, planned, [uuid7() for _ in planned.occurrences])
        await triggers.materialise(session, [decision])
        again = await triggers.locked(session, current.name)
        if again is None:
            break
        current = again
    return current


async def withdraw_due(session: Session, triggers: Triggers, row: TriggerRow) -> None:
    """What a schedule that is given up had due until now, and nobody has decided, is accounted as withdrawn.

    With jitter that is an instant whose delay has not passed yet. Of a quarantined trigger it is the one
    at which it was found broken: what its row meant by others, nobody knows. The caller holds the lock.
    """
    if row.status == "broken" and row.next_at is not None and row.next_at <= row.now:
        found = Skip(SkipReason.WITHDRAWN, row.next_at, row.next_at, 1)
        await triggers.add_skips(session, row.id, Plan([], [found], "broken", None, None))
    try:
        schedule = row.spec().schedule
    except BadInput:
        return
    next_at = row.next_at if row.status == "armed" else None
    gap: tuple[SkipReason, datetime] | None = None
    while schedule is not None and next_at is not None and next_at <= row.now:
        withdrawn = account(schedule, Cursor(next_at=next_at, gap=gap), row.now, SkipReason.WITHDRAWN)
        await triggers.add_skips(session, row.id, withdrawn)
        next_at, gap = withdrawn.next_at, withdrawn.gap


def due_from(row: TriggerRow) -> DueTrigger:
    assert row.next_at is not None  # the caller has looked
    assert row.wake_at is not None
    return DueTrigger(
        row.id,
        row.name,
        row.agent,
        row.schedule,
        row.policy,
        row.next_at,
        row.wake_at,
        bool(row.paused),
        row.gap_reason,
        row.gap_from,
    )


def _value(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
