"""What becomes of due occurrences: on time, caught up, or accounted for."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tocsin import at, cron, every
from tocsin.domain import planning
from tocsin.domain.planning import Cursor, Plan, Skip, default_window, first_plan, plan
from tocsin.domain.run import Lane, SkipReason
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp, TriggerSpec

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
MINUTELY = cron("* * * * *")


def planned(
    schedule: Schedule,
    *,
    late: timedelta,
    phase: timedelta = timedelta(0),
    paused: bool = False,
    gap: tuple[SkipReason, datetime] | None = None,
    **spec: Any,
) -> Plan:
    """The plan for a trigger whose first undecided instant is noon, ``late`` after noon."""
    cursor = Cursor(next_at=NOON, phase=phase, paused=paused, gap=gap)
    return plan(TriggerSpec(name="t", agent="a", schedule=schedule, **spec), schedule, cursor, NOON + late)


def fired(plan: Plan) -> list[tuple[timedelta, Lane]]:
    return [(occurrence.nominal_at - NOON, occurrence.lane) for occurrence in plan.occurrences]


def skipped(plan: Plan) -> list[tuple[str, timedelta, timedelta, int]]:
    return [(s.reason.value, s.opened_at - NOON, s.last_at - NOON, s.count) for s in plan.skips]


def decided(plan: Plan) -> int:
    return len(plan.occurrences) + sum(skip.count for skip in plan.skips)


@pytest.mark.parametrize("late", [timedelta(0), SECOND, MINUTE - SECOND])
def test_within_the_grace_an_occurrence_is_on_time(late: timedelta) -> None:
    result = planned(MINUTELY, late=late)
    assert fired(result) == [(timedelta(0), Lane.LIVE)]
    assert (result.status, result.next_at, result.wake_at) == ("armed", NOON + MINUTE, NOON + MINUTE)
    assert result.skips == []


def test_several_within_the_grace_are_all_on_time() -> None:
    result = planned(every("10s"), late=25 * SECOND)
    assert fired(result) == [(timedelta(0), Lane.LIVE), (10 * SECOND, Lane.LIVE), (20 * SECOND, Lane.LIVE)]
    assert result.next_at == NOON + 30 * SECOND


def test_the_grace_is_the_border_between_on_time_and_missed() -> None:
    hourly = cron("0 * * * *")
    assert fired(planned(hourly, late=MINUTE, catch_up=CatchUp.SKIP)) == [(timedelta(0), Lane.LIVE)]
    missed = planned(hourly, late=MINUTE + timedelta(microseconds=1), catch_up=CatchUp.SKIP)
    assert skipped(missed) == [("missed", timedelta(0), timedelta(0), 1)]
    assert fired(planned(hourly, late=2 * MINUTE, grace=2 * MINUTE, catch_up=CatchUp.SKIP))
    assert not fired(planned(hourly, late=SECOND, grace=timedelta(0), catch_up=CatchUp.SKIP))


def test_skip_drops_every_missed_one_into_one_account() -> None:
    result = planned(MINUTELY, late=10 * MINUTE + SECOND, catch_up=CatchUp.SKIP)
    assert skipped(result) == [("missed", timedelta(0), 9 * MINUTE, 10)]
    assert fired(result) == [(10 * MINUTE, Lane.LIVE)]
    assert decided(result) == 11


def test_latest_catches_up_the_youngest_missed_one_inside_the_window() -> None:
    result = planned(cron("0 * * * *"), late=3 * HOUR + 10 * MINUTE, catch_up_window=2 * HOUR)
    assert skipped(result) == [("missed", timedelta(0), 2 * HOUR, 3)]
    assert fired(result) == [(3 * HOUR, Lane.LATE)]
    assert result.next_at == NOON + 4 * HOUR


def test_outside_the_window_nothing_is_caught_up() -> None:
    result = planned(cron("0 * * * *"), late=40 * MINUTE)
    assert skipped(result) == [("missed", timedelta(0), timedelta(0), 1)]
    assert fired(planned(cron("0 * * * *"), late=30 * MINUTE)) == [(timedelta(0), Lane.LATE)]


def test_all_catches_up_to_its_cap_and_counts_the_oldest_as_dropped() -> None:
    result = planned(MINUTELY, late=30 * MINUTE, catch_up=CatchUp.ALL, catch_up_window=HOUR, max_catch_up=5)
    assert skipped(result) == [("catch_up_cap", timedelta(0), 23 * MINUTE, 24)]
    assert fired(result) == [
        *((n * MINUTE, Lane.LATE) for n in range(24, 29)),
        (29 * MINUTE, Lane.LIVE),
        (30 * MINUTE, Lane.LIVE),
    ]


def test_all_beyond_its_window_has_two_reasons() -> None:
    result = planned(MINUTELY, late=30 * MINUTE, catch_up=CatchUp.ALL, catch_up_window=10 * MINUTE, max_catch_up=3)
    assert skipped(result) == [
        ("missed", timedelta(0), 19 * MINUTE, 20),
        ("catch_up_cap", 20 * MINUTE, 25 * MINUTE, 6),
    ]
    assert len(result.occurrences) == 5
    assert decided(result) == 31


@pytest.mark.parametrize(
    ("schedule", "window"),
    [
        (cron("* * * * *"), MINUTE),
        (cron("0 * * * *"), 30 * MINUTE),
        (cron("0 9 * * *"), 4 * HOUR),
        (every("6h"), 3 * HOUR),
        (at(NOON), 24 * HOUR),
    ],
)
def test_the_default_window_follows_the_period(schedule: Schedule, window: timedelta) -> None:
    assert default_window(schedule, NOON) == window


def test_a_one_shot_is_caught_up_for_a_day_and_then_ended() -> None:
    late = planned(at(NOON), late=23 * HOUR)
    assert fired(late) == [(timedelta(0), Lane.LATE)]
    assert (late.status, late.next_at, late.wake_at) == ("ended", None, None)
    too_late = planned(at(NOON), late=25 * HOUR)
    assert skipped(too_late) == [("missed", timedelta(0), timedelta(0), 1)]
    assert too_late.status == "ended"


def test_a_one_shot_on_time_ends_its_trigger() -> None:
    result = planned(at(NOON), late=SECOND)
    assert fired(result) == [(timedelta(0), Lane.LIVE)]
    assert (result.status, result.wake_at) == ("ended", None)


def test_a_long_gap_is_one_account_and_counted_not_walked() -> None:
    result = planned(every("1s"), late=timedelta(days=365), catch_up=CatchUp.SKIP, grace=timedelta(0))
    seconds = 365 * 86_400
    # What is due this very instant is on time even without a grace.
    assert fired(result) == [(timedelta(days=365), Lane.LIVE)]
    assert skipped(result) == [("missed", timedelta(0), (seconds - 1) * SECOND, seconds)]


def test_a_gap_too_long_to_walk_is_taken_in_steps_of_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "WALK", 100)
    now = NOON + 450 * MINUTE
    cursor, steps, total, runs = Cursor(next_at=NOON), 0, 0, 0
    spec = TriggerSpec(name="t", agent="a", schedule=MINUTELY, catch_up=CatchUp.SKIP)
    while cursor.next_at <= now:
        step = plan(spec, MINUTELY, cursor, now)
        assert step.next_at is not None
        assert step.next_at > cursor.next_at
        assert [skip.opened_at for skip in step.skips] in ([NOON], [])
        total += sum(skip.count for skip in step.skips)
        runs += len(step.occurrences)
        cursor, steps = Cursor(next_at=step.next_at, gap=step.gap), steps + 1
    assert (steps, total, runs) == (5, 449, 2)


def test_a_window_too_full_to_walk_drops_the_older_and_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "WALK", 2_000)
    schedule = every("1s") | every("7s")
    now = NOON + 10_000 * SECOND
    cursor, total, runs = Cursor(next_at=NOON), 0, 0
    spec = TriggerSpec(
        name="t", agent="a", schedule=schedule, catch_up=CatchUp.ALL, catch_up_window=24 * HOUR, max_catch_up=7
    )
    while cursor.next_at <= now:
        step = plan(spec, schedule, cursor, now)
        assert step.next_at is not None
        total += decided(step)
        runs += sum(occurrence.lane is Lane.LATE for occurrence in step.occurrences)
        cursor = Cursor(next_at=step.next_at, gap=step.gap)
    assert (total, runs) == (10_001, 7)


def test_an_account_is_extended_until_something_runs() -> None:
    open_gap = (SkipReason.MISSED, NOON - HOUR)
    result = planned(MINUTELY, late=5 * MINUTE, catch_up=CatchUp.SKIP, gap=open_gap)
    assert result.skips == [Skip(SkipReason.MISSED, NOON - HOUR, NOON + 3 * MINUTE, 4)]
    assert result.gap is None
    other = planned(MINUTELY, late=5 * MINUTE, catch_up=CatchUp.SKIP, gap=(SkipReason.PAUSED, NOON - HOUR))
    assert other.skips == [Skip(SkipReason.MISSED, NOON, NOON + 3 * MINUTE, 4)]


def test_a_paused_trigger_only_accounts_and_looks_again_in_an_hour() -> None:
    result = planned(MINUTELY, late=90 * MINUTE, paused=True)
    assert fired(result) == []
    assert skipped(result) == [("paused", timedelta(0), 90 * MINUTE, 91)]
    assert (result.next_at, result.wake_at) == (NOON + 91 * MINUTE, NOON + 91 * MINUTE + HOUR)
    assert result.gap == (SkipReason.PAUSED, NOON)


def test_a_paused_one_shot_is_accounted_for_and_ended() -> None:
    result = planned(at(NOON), late=HOUR, paused=True)
    assert skipped(result) == [("paused", timedelta(0), timedelta(0), 1)]
    assert (result.status, result.wake_at) == ("ended", None)


def test_jitter_moves_the_effective_instant_and_lateness_counts_from_there() -> None:
    phase = 20 * SECOND
    result = planned(cron("0 * * * *"), late=MINUTE + 20 * SECOND, phase=phase, catch_up=CatchUp.SKIP)
    assert [(o.nominal_at, o.effective_at, o.lane) for o in result.occurrences] == [(NOON, NOON + phase, Lane.LIVE)]
    assert (result.next_at, result.wake_at) == (NOON + HOUR, NOON + HOUR + phase)
    late = planned(cron("0 * * * *"), late=MINUTE + 21 * SECOND, phase=phase, catch_up=CatchUp.SKIP)
    assert skipped(late) == [("missed", timedelta(0), timedelta(0), 1)]


def test_what_is_not_ripe_under_its_jitter_is_left_undecided() -> None:
    result = planned(MINUTELY, late=10 * MINUTE + 10 * SECOND, phase=20 * SECOND, catch_up=CatchUp.SKIP)
    assert [occurrence.nominal_at for occurrence in result.occurrences] == [NOON + 9 * MINUTE]
    assert result.next_at == NOON + 10 * MINUTE
    assert decided(result) == 10


def test_nothing_begins_before_its_instant_however_early_it_is_looked_at() -> None:
    early = planned(MINUTELY, late=-SECOND, gap=(SkipReason.MISSED, NOON - HOUR))
    assert (early.occurrences, early.skips, early.gap) == ([], [], (SkipReason.MISSED, NOON - HOUR))
    assert (early.status, early.next_at, early.wake_at) == ("armed", NOON, NOON)
    jittered = planned(MINUTELY, late=SECOND, phase=5 * SECOND)
    assert (jittered.occurrences, jittered.wake_at) == ([], NOON + 5 * SECOND)


def test_a_trigger_that_counts_from_the_end_waits_for_it() -> None:
    schedule = every("10m", after_completion=True)
    result = planned(schedule, late=SECOND)
    assert fired(result) == [(timedelta(0), Lane.LIVE)]
    assert (result.status, result.next_at, result.wake_at) == ("waiting", None, None)


def test_a_trigger_that_counts_from_the_end_goes_on_after_a_gap() -> None:
    schedule = every("10m", after_completion=True)
    result = planned(schedule, late=24 * HOUR, catch_up=CatchUp.SKIP)
    # Either it runs and waits for the end, or it has a next instant: it never falls silent.
    assert result.status == "waiting" or (result.status == "armed" and result.next_at is not None)


def test_the_last_occurrence_ends_the_trigger() -> None:
    schedule = dataclasses.replace(MINUTELY, end_at=NOON + MINUTE)
    assert planned(schedule, late=SECOND).status == "armed"
    result = planned(schedule, late=MINUTE)
    assert fired(result) == [(timedelta(0), Lane.LIVE), (MINUTE, Lane.LIVE)]
    assert result.status == "ended"


def test_a_new_trigger_counts_from_now() -> None:
    assert first_plan(None, NOON, timedelta(0)) == ("manual", None, None)
    assert first_plan(at(NOON), NOON, timedelta(0)) == ("ended", None, None)
    assert first_plan(MINUTELY, NOON, 5 * SECOND) == ("armed", NOON + MINUTE, NOON + MINUTE + 5 * SECOND)


@pytest.mark.parametrize("late", [0, 1, 59, 60, 61, 119, 300, 3599, 3601, 20_000, 100_000])
@pytest.mark.parametrize("catch_up", list(CatchUp))
@pytest.mark.parametrize("phase", [0, 30])
@pytest.mark.parametrize("paused", [False, True])
def test_every_occurrence_up_to_now_has_exactly_one_decision(
    late: int, catch_up: CatchUp, phase: int, paused: bool
) -> None:
    schedule = cron("*/2 * * * *") | cron("7 * * * *")
    now, delay = NOON + late * SECOND, phase * SECOND
    spec = TriggerSpec(name="t", agent="a", schedule=schedule, catch_up=catch_up, max_catch_up=3)
    cursor = Cursor(next_at=NOON, phase=delay, paused=paused)
    total = 0
    while cursor.next_at + delay <= now:
        step = plan(spec, schedule, cursor, now)
        assert step.next_at is not None
        total += decided(step)
        cursor = replace(cursor, next_at=step.next_at, gap=step.gap)
    before = NOON - timedelta(microseconds=1)
    # A paused trigger's cursor goes by nominal instants, for nothing of it will ever be effective.
    assert total == schedule.count(before, now if paused and total else now - delay)
    assert cursor.next_at == schedule.next_after(now if paused and total else now - delay)
