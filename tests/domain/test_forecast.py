"""The load ahead, from schedules alone."""

from datetime import UTC, datetime, timedelta

from tocsin import at, cron, every
from tocsin.domain.forecast import Planned, forecast

SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_fires_are_counted_by_minute() -> None:
    result = forecast([Planned("a", cron("*/30 * * * *")), Planned("b", every("20m"))], SINCE, SINCE + HOUR)
    assert result.total == 5
    assert [(minute.minute, count) for minute, count in result.minutes] == [(20, 1), (30, 1), (40, 1), (0, 2)]
    assert result.busiest(1) == [(SINCE + HOUR, 2)]


def test_the_end_is_included_and_the_beginning_is_not() -> None:
    result = forecast([Planned("a", every("1h"))], SINCE, SINCE + HOUR)
    assert [minute for minute, _ in result.minutes] == [SINCE + HOUR]


def test_what_falls_on_the_same_instant_is_a_collision() -> None:
    result = forecast([Planned(name, cron("0 13 * * *")) for name in "cab"], SINCE, SINCE + HOUR)
    assert result.collision_instants == 1
    (crowd,) = result.collisions
    assert (crowd.at, crowd.count, crowd.names) == (SINCE + HOUR, 3, ("a", "b", "c"))


def test_a_herd_is_many_fires_within_one_second() -> None:
    near = [SINCE + timedelta(minutes=5, milliseconds=10 * n) for n in range(20)]
    planned = [Planned(f"t{n:02}", at(instant)) for n, instant in enumerate(near)]
    result = forecast(planned, SINCE, SINCE + HOUR, herd=20)
    assert result.collision_instants == 0
    (herd,) = result.herds
    assert herd.count == 20
    assert len(herd.names) == 10
    assert forecast(planned, SINCE, SINCE + HOUR, herd=21).herds == ()


def test_work_is_bounded_and_what_was_cut_is_named() -> None:
    planned = [Planned("second", every("1s")), Planned("hour", every("1h"))]
    result = forecast(planned, SINCE, SINCE + 24 * HOUR, limit=1_000)
    assert result.cut == ("second",)
    assert result.total == 1_000
    assert forecast(planned, SINCE, SINCE + 24 * HOUR).cut == ()


def test_what_rare_triggers_leave_over_goes_to_frequent_ones_wherever_they_stand() -> None:
    frequent = [Planned("a", every("1m")), Planned("z", every("1m"))]
    rare = [Planned(f"r{n}", every("1h")) for n in range(50)]
    planned = [frequent[0], *rare, frequent[1]]
    result = forecast(planned, SINCE, SINCE + HOUR, limit=170)
    assert result.cut == ()
    assert result.total == 60 + 50 + 60
    short = forecast(planned, SINCE, SINCE + HOUR, limit=150)
    assert short.cut == ("a", "z")
    assert short.total == 150


def test_jitter_spreads_the_same_instant() -> None:
    planned = [Planned(f"t{n}", cron("0 13 * * *", jitter="10m")) for n in range(100)]
    result = forecast(planned, SINCE, SINCE + 2 * HOUR)
    assert result.total == 100
    assert result.collision_instants == 0
    assert all(SINCE + HOUR <= minute < SINCE + HOUR + timedelta(minutes=10) for minute, _ in result.minutes)


def test_a_known_phase_is_used_as_it_is() -> None:
    planned = [Planned("a", cron("0 13 * * *", jitter="10m"), phase=timedelta(minutes=3))]
    assert forecast(planned, SINCE, SINCE + 2 * HOUR).minutes == ((SINCE + HOUR + timedelta(minutes=3), 1),)


def test_what_counts_from_a_runs_end_is_known_once() -> None:
    planned = [Planned("a", every("5m", after_completion=True), SINCE + timedelta(minutes=2))]
    assert forecast(planned, SINCE, SINCE + HOUR).total == 1
    assert forecast([Planned("a", every("5m", after_completion=True))], SINCE, SINCE + HOUR).total == 0


def test_hours_without_fires_are_there_too() -> None:
    result = forecast([Planned("a", cron("0 15 * * *"))], SINCE, SINCE + 4 * HOUR)
    assert [count for _, count in result.hours()] == [0, 0, 0, 1]


def test_nothing_ahead_is_an_answer() -> None:
    result = forecast([], SINCE, SINCE + HOUR)
    assert (result.total, result.triggers, result.minutes) == (0, 0, ())
