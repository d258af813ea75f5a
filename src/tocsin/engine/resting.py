"""A trigger that rests: no occurrence becomes a run until every reason is cleared, by hand or at its end.

The cursor goes on: what falls into the pause is accounted for as ``paused``, by the planner once an
hour and by the resume for the rest. Each function is part of its caller's transaction, which holds
the row's lock.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from uuid_utils.compat import uuid7

from tocsin.domain.audit import Action, Deed
from tocsin.domain.errors import BadInput, Conflict
from tocsin.domain.planning import Cursor, Occurrence, Plan, account
from tocsin.domain.run import Lane, RunKind, SkipReason
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine.declaring import decide_due
from tocsin.engine.phase import phase_of
from tocsin.store.database import Session
from tocsin.store.trigger_rows import Decision, DueTrigger, TriggerRow
from tocsin.store.triggers import Triggers

CALLED: Final = (RunKind.SCHEDULE.value, RunKind.EVENT.value)
"""Kinds of runs that a pause withdraws: nobody has asked for them by hand."""


def readable(row: TriggerRow) -> TriggerSpec:
    """What was declared. Raises: Conflict, for a trigger that is quarantined."""
    try:
        return row.spec()
    except BadInput as error:
        raise Conflict(f"trigger {row.name!r} is broken ({error}): declare it again, or delete it") from error


async def pause(
    session: Session, triggers: Triggers, row: TriggerRow, reason: str, *, until: datetime | None = None
) -> None:
    """The trigger rests for one reason more. What was due is decided first; what is queued is withdrawn.

    until: when the reason is cleared by itself; without it, it stands until somebody clears it.
    """
    if not row.paused:
        await decide_due(session, triggers, row)
        row = await triggers.locked(session, row.name) or row
    deed = Deed(Action.PAUSED, {"reason": reason, "until": until})
    await triggers.set_paused(session, row, deed, pauses=row.pauses | {reason: until}, plan=None)
    await triggers.withdraw(session, row.id, reason=SkipReason.WITHDRAWN.value, kinds=CALLED)


async def resume(
    session: Session, triggers: Triggers, row: TriggerRow, *, reason: str | None, catch_up: CatchUp | None
) -> None:
    """One reason, or all, is cleared; when none is left the trigger goes on from now."""
    left = {held: end for held, end in row.pauses.items() if reason is not None and held != reason}
    deed = _cleared(Action.RESUMED, row, left)
    if left:
        await triggers.set_paused(session, row, deed, pauses=left, plan=None)
        return
    spec = readable(row)
    plan = await _account_pause(session, triggers, row, spec, row.now)
    await triggers.set_paused(session, row, deed, pauses={}, plan=plan)
    if catch_up is CatchUp.LATEST:
        await _catch_up_latest(session, triggers, row, spec)


async def end_pauses(session: Session, triggers: Triggers, name: str) -> None:
    """Reasons whose end has come are cleared. When none is left, what lies before the last end was paused, and
    what has been due since then is decided like anything else, however late we are.
    """
    row = await triggers.lock(session, name)
    if row is None:
        return
    pauses = row.pauses
    ended = [end for end in pauses.values() if end is not None and end <= row.now]
    left = {reason: end for reason, end in pauses.items() if end is None or end > row.now}
    deed = _cleared(Action.PAUSE_ENDED, row, left)
    if left or not ended:
        await triggers.set_paused(session, row, deed, pauses=left, plan=None)
        return
    try:
        spec = row.spec()
    except BadInput:
        # The planner quarantines it in its next step, and says why.
        await triggers.set_paused(session, row, deed, pauses={}, plan=None)
        return
    plan = await _account_pause(session, triggers, row, spec, max(ended) - timedelta(microseconds=1))
    await triggers.set_paused(session, row, deed, pauses={}, plan=plan)


def _cleared(action: Action, row: TriggerRow, left: Mapping[str, datetime | None]) -> Deed:
    return Deed(action, {"reasons": sorted(set(row.pauses) - set(left)), "left": sorted(left)})


async def _account_pause(
    session: Session, triggers: Triggers, row: TriggerRow, spec: TriggerSpec, until: datetime
) -> Plan | None:
    """Every occurrence up to ``until`` is accounted for as paused; the plan holds where the cursor goes on."""
    if spec.schedule is None or row.status != "armed" or row.next_at is None:
        return None
    phase = phase_of(spec.schedule, row.id)
    gap = (SkipReason(row.gap_reason), row.gap_from) if row.gap_reason and row.gap_from else None
    plan = account(spec.schedule, Cursor(next_at=row.next_at, phase=phase, gap=gap), until, SkipReason.PAUSED)
    await triggers.add_skips(session, row.id, plan)
    while plan.next_at is not None and plan.next_at <= until:
        plan = account(spec.schedule, Cursor(next_at=plan.next_at, phase=phase, gap=plan.gap), until, SkipReason.PAUSED)
        await triggers.add_skips(session, row.id, plan)
    plan.gap = None
    return plan


async def _catch_up_latest(session: Session, triggers: Triggers, row: TriggerRow, spec: TriggerSpec) -> None:
    """The last occurrence of the pause runs after all, and its skip is taken back: one decision each."""
    if spec.schedule is None or row.paused_at is None:
        return
    # The planner may have accounted for it before us, so what was recorded is asked, not our plan.
    at = await triggers.last_skip(session, row.id, reason=SkipReason.PAUSED.value, since=row.paused_at)
    if at is None:
        return
    await triggers.take_back_skip(session, row.id, reason=SkipReason.PAUSED.value, at=at)
    effective = at + phase_of(spec.schedule, row.id)
    # The cursor has passed it and stays where it is: it would only be moved from ``at``.
    passed = DueTrigger(row.id, row.name, row.agent, row.schedule, row.policy, at, effective, False, None, None)
    planned = Plan([Occurrence(at, effective, Lane.LATE)], [], "armed", at, effective)
    await triggers.materialise(session, [Decision(passed, spec, planned, [uuid7()])])
