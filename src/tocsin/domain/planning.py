"""What becomes of a due trigger's occurrences: run, caught up, or skipped and accounted for.

Pure: the planner hands in a trigger and the database's instant, and writes what comes back.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tocsin.domain.rules import At, Every
from tocsin.domain.run import Lane, SkipReason
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import MAX_CATCH_UP, CatchUp, TriggerSpec

WALK: Final = 20_000
"""Occurrences looked at in one go; what is left is planned in the next step."""

REST: Final = timedelta(hours=1)
"""How often a paused trigger's occurrences are accounted for."""

LEAST_WINDOW: Final = timedelta(seconds=60)
MOST_WINDOW: Final = timedelta(hours=4)
ONE_SHOT_WINDOW: Final = timedelta(hours=24)


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trigger stands. next_at: its first undecided nominal instant; phase: its jitter;
    gap: the reason and first instant of an account that a further skip of that reason extends."""

    next_at: datetime
    phase: timedelta = timedelta(0)
    paused: bool = False
    gap: tuple[SkipReason, datetime] | None = None


class Occurrence(msgspec.Struct, frozen=True):
    nominal_at: datetime
    effective_at: datetime
    lane: Lane


class Skip(msgspec.Struct, frozen=True):
    """Occurrences that became no run. opened_at: the first instant of the account it belongs to."""

    reason: SkipReason
    opened_at: datetime
    last_at: datetime
    count: int


class Plan(msgspec.Struct):
    """What is written in one transaction. status: armed, waiting or ended; wake_at: None unless armed."""

    occurrences: list[Occurrence]
    skips: list[Skip]
    status: str
    next_at: datetime | None
    wake_at: datetime | None
    gap: tuple[SkipReason, datetime] | None = None


def plan(spec: TriggerSpec, schedule: Schedule, cursor: Cursor, now: datetime) -> Plan:
    """Every occurrence up to ``now`` is decided, or as many as one step may take.

    Source: docs/semantics.md, sections 1, 3 and 8.
    """
    if cursor.paused:
        return _account_paused(schedule, cursor, now)
    counts_from_end = _counts_from_end(schedule)
    # A schedule that counts from the end of its run has no second instant before the first has run.
    following = None if counts_from_end else schedule.next_after(cursor.next_at)
    effective = cursor.next_at + cursor.phase
    if effective > now:
        # It was woken too early, by a row written past us: nothing begins before its instant.
        return Plan([], [], "armed", cursor.next_at, effective, cursor.gap)
    if now - effective <= spec.grace and (following is None or following + cursor.phase > now):
        fired = [Occurrence(cursor.next_at, effective, Lane.LIVE)]
        return _after(schedule, cursor, Plan(fired, [], "armed", following, None))
    if counts_from_end:
        return _catch_up_single(spec, schedule, cursor, now)
    return _catch_up(spec, schedule, cursor, now)


def first_plan(
    schedule: Schedule | None, now: datetime, phase: timedelta
) -> tuple[str, datetime | None, datetime | None]:
    """(status, next_at, wake_at) of a trigger that is declared, edited or resumed at ``now``."""
    if schedule is None:
        return "manual", None, None
    next_at = schedule.next_after(now)
    if next_at is None:
        return "ended", None, None
    return "armed", next_at, next_at + phase


def default_window(schedule: Schedule, at: datetime) -> timedelta:
    """How far back missed occurrences are caught up when the trigger does not say."""
    if all(isinstance(rule, At) for rule in schedule.rules):
        return ONE_SHOT_WINDOW
    period = schedule.period_at(at)
    half = period / 2 if period is not None else MOST_WINDOW
    return max(LEAST_WINDOW, min(half, MOST_WINDOW))


def _after(schedule: Schedule, cursor: Cursor, plan: Plan) -> Plan:
    """The plan with the status and the wake-up that its next instant asks for."""
    if _counts_from_end(schedule) and plan.occurrences:
        plan.status, plan.next_at = "waiting", None
    elif plan.next_at is None:
        plan.status = "ended"
    else:
        plan.wake_at = plan.next_at + cursor.phase
    return plan


def _counts_from_end(schedule: Schedule) -> bool:
    rule = schedule.rules[0]
    return isinstance(rule, Every) and rule.after_completion


def _walk(schedule: Schedule, first: datetime, until: datetime) -> Iterator[datetime]:
    """Occurrences from ``first``, itself included, up to ``until`` included."""
    at: datetime | None = first
    while at is not None and at <= until:
        yield at
        at = schedule.next_after(at)


def account(schedule: Schedule, cursor: Cursor, until: datetime, reason: SkipReason) -> Plan:
    """Every occurrence up to ``until`` is skipped for one reason, or as many as one step may take."""
    skip, next_at = _skip_until(schedule, cursor.next_at, until, reason, cursor.gap)
    plan = Plan([], [skip] if skip else [], "armed", next_at, None)
    if next_at is None:
        plan.status = "ended"
        return plan
    plan.gap = (reason, skip.opened_at) if skip else cursor.gap
    plan.wake_at = next_at + cursor.phase
    return plan


def _account_paused(schedule: Schedule, cursor: Cursor, now: datetime) -> Plan:
    plan = account(schedule, cursor, now, SkipReason.PAUSED)
    if plan.next_at is not None and plan.next_at > now:
        plan.wake_at = plan.next_at + REST
    return plan


def _skip_until(
    schedule: Schedule,
    first: datetime,
    until: datetime,
    reason: SkipReason,
    gap: tuple[SkipReason, datetime] | None,
) -> tuple[Skip | None, datetime | None]:
    """Occurrences in [first, until] accounted for, at most a step's worth; and the next undecided one."""
    if first > until:
        return None, first
    opened = gap[1] if gap is not None and gap[0] is reason else first
    steady = _steady(schedule)
    if steady is not None:
        further = (until - first) // steady
        if schedule.end_at is not None:
            further = min(further, (schedule.end_at - first) // steady)
        last = first + further * steady
        return Skip(reason, opened, last, further + 1), schedule.next_after(last)
    count, last = 0, first
    for at in _walk(schedule, first, until):
        if count == WALK:
            return Skip(reason, opened, last, count), at
        count, last = count + 1, at
    return Skip(reason, opened, last, count), schedule.next_after(last)


def _steady(schedule: Schedule) -> timedelta | None:
    """The period of a schedule that is nothing but one ``every``: counted, not walked."""
    if len(schedule.rules) == 1 and not schedule.excepts and schedule.max_occurrences is None:
        rule = schedule.rules[0]
        if isinstance(rule, Every) and not rule.after_completion:
            return rule.period
    return None


def _catch_up(spec: TriggerSpec, schedule: Schedule, cursor: Cursor, now: datetime) -> Plan:
    """Some occurrences are later than the grace: the window and the policy decide them, oldest first."""
    window = spec.catch_up_window if spec.catch_up_window is not None else default_window(schedule, cursor.next_at)
    ripe = now - cursor.phase
    on_time_from = ripe - spec.grace
    nothing = spec.catch_up is CatchUp.SKIP
    horizon = _just_before(on_time_from if nothing else min(on_time_from, ripe - window))
    skip, next_at = _skip_until(schedule, cursor.next_at, horizon, SkipReason.MISSED, cursor.gap)
    result = Plan([], [skip] if skip else [], "armed", next_at, None)
    result.gap = (SkipReason.MISSED, skip.opened_at) if skip else cursor.gap
    if next_at is None or next_at > ripe or next_at <= horizon:
        return _after(schedule, cursor, result)
    return _decide_recent(spec, schedule, cursor, result, ripe=ripe)


def _catch_up_single(spec: TriggerSpec, schedule: Schedule, cursor: Cursor, now: datetime) -> Plan:
    """The one instant there is, is later than the grace: it runs late, or is missed and counted from now."""
    window = spec.catch_up_window if spec.catch_up_window is not None else default_window(schedule, cursor.next_at)
    effective = cursor.next_at + cursor.phase
    if spec.catch_up is not CatchUp.SKIP and now - effective <= window:
        late = [Occurrence(cursor.next_at, effective, Lane.LATE)]
        return _after(schedule, cursor, Plan(late, [], "armed", None, None))
    opened = cursor.gap[1] if cursor.gap is not None and cursor.gap[0] is SkipReason.MISSED else cursor.next_at
    skip = Skip(SkipReason.MISSED, opened, cursor.next_at, 1)
    missed = Plan([], [skip], "armed", schedule.next_after(now), None, (SkipReason.MISSED, opened))
    return _after(schedule, cursor, missed)


def _decide_recent(spec: TriggerSpec, schedule: Schedule, cursor: Cursor, plan: Plan, *, ripe: datetime) -> Plan:
    """What lies inside the window or the grace: caught up by the policy, or on time."""
    on_time_from = ripe - spec.grace
    assert plan.next_at is not None  # the caller stopped otherwise
    late: list[datetime] = []
    on_time: list[datetime] = []
    cut = False
    for at in _walk(schedule, plan.next_at, ripe):
        if len(late) + len(on_time) == WALK:
            cut = True
            break
        (late if at < on_time_from else on_time).append(at)
    if cut and late:
        # At least MAX_CATCH_UP younger ones are due, so the older are dropped whatever the policy keeps.
        late, on_time, keep = late[: max(1, len(late) - MAX_CATCH_UP)], [], 0
    else:
        keep = {CatchUp.SKIP: 0, CatchUp.LATEST: 1, CatchUp.ALL: spec.max_catch_up}[spec.catch_up]
    kept = late[len(late) - keep :] if keep else []
    dropped = late[: len(late) - len(kept)]
    reason = SkipReason.CATCH_UP_CAP if spec.catch_up is CatchUp.ALL else SkipReason.MISSED
    if dropped:
        opened = plan.gap[1] if plan.gap is not None and plan.gap[0] is reason else dropped[0]
        plan.skips = _with_skip(plan.skips, Skip(reason, opened, dropped[-1], len(dropped)))
        plan.gap = (reason, opened)
    plan.occurrences = [Occurrence(at, at + cursor.phase, Lane.LATE) for at in kept]
    plan.occurrences += [Occurrence(at, at + cursor.phase, Lane.LIVE) for at in on_time]
    if plan.occurrences:
        plan.gap = None
    decided = [*dropped, *kept, *on_time]
    plan.next_at = schedule.next_after(decided[-1])
    return _after(schedule, cursor, plan)


def _with_skip(skips: list[Skip], further: Skip) -> list[Skip]:
    """One account for one gap: neighbours of the same reason become one row."""
    if skips and skips[-1].reason is further.reason and skips[-1].opened_at == further.opened_at:
        before = skips[-1]
        return [
            *skips[:-1],
            Skip(before.reason, before.opened_at, further.last_at, before.count + further.count),
        ]
    return [*skips, further]


def _just_before(instant: datetime) -> datetime:
    """The last instant that is earlier, at the microsecond that everything here is counted in."""
    return instant - timedelta(microseconds=1)
