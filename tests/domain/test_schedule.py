"""Schedules: rules joined, cut and excepted; intervals, single instants, jitter, durations."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.domain.duration import LONGEST, format_duration, parse_duration
from tocsin.domain.errors import BadInput, InvalidSchedule
from tocsin.domain.rules import At, Cron, Every
from tocsin.domain.schedule import Schedule, at, cron, every

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
steady = settings(deadline=None, derandomize=True, database=None)


def coming(schedule: Schedule, number: int = 3, after: datetime = NEW_YEAR) -> list[str]:
    return [one.strftime("%m-%d %H:%M:%S") for one in schedule.occurrences(after, LATER, number)]


def test_every_counts_elapsed_time_from_the_epoch_or_from_its_start() -> None:
    assert coming(every("7m")) == ["01-01 00:07:00", "01-01 00:14:00", "01-01 00:21:00"]
    started = every("7m", start_at=datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC))
    assert coming(started, 2) == ["01-01 12:00:30", "01-01 12:07:30"]
    assert every(1.5).next_after(NEW_YEAR) == NEW_YEAR + 1.5 * SECOND


def test_every_may_count_from_the_end_of_the_last_run() -> None:
    schedule = every("5m", after_completion=True, start_at=NEW_YEAR)
    assert schedule.next_after(NEW_YEAR - SECOND) == NEW_YEAR
    assert schedule.next_after(NEW_YEAR + 3 * SECOND) == NEW_YEAR + timedelta(minutes=5, seconds=3)
    spared = every("5m", after_completion=True, except_="2026-01-01")
    assert spared.next_after(NEW_YEAR) == datetime(2026, 1, 2, tzinfo=UTC)


def test_at_is_ordered_and_each_instant_is_taken_once() -> None:
    schedule = at("2026-03-01T09:00:00+01:00", datetime(2026, 2, 1, tzinfo=UTC), "2026-03-01T08:00:00Z")
    assert coming(schedule) == ["02-01 00:00:00", "03-01 08:00:00"]


def test_schedules_join_and_a_shared_instant_is_one_occurrence() -> None:
    joined = cron("0 */12 * * *") | every("8h") | at("2026-01-01T01:00:00Z")
    assert coming(joined, 5) == [
        "01-01 01:00:00", "01-01 08:00:00", "01-01 12:00:00", "01-01 16:00:00", "01-02 00:00:00",
    ]  # fmt: skip
    with pytest.raises(InvalidSchedule):
        cron("0 0 * * *") | cron("0 1 * * *", end_at=LATER)


def test_both_bounds_are_included() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    schedule = cron("0 * * * *", start_at=noon, end_at=noon + timedelta(hours=2))
    assert coming(schedule, 9) == ["01-01 12:00:00", "01-01 13:00:00", "01-01 14:00:00"]


def test_the_number_of_occurrences_is_counted_from_the_start() -> None:
    schedule = cron("0 9 * * mon-fri", "Europe/Paris", start_at=NEW_YEAR, max_occurrences=3, except_="2026-01-02")
    assert coming(schedule, 9) == ["01-01 08:00:00", "01-05 08:00:00", "01-06 08:00:00"]
    assert schedule.next_after(datetime(2026, 1, 6, 8, tzinfo=UTC)) is None
    assert every("1h", start_at=NEW_YEAR, max_occurrences=4).count(NEW_YEAR, LATER) == 3
    assert every(LONGEST, start_at=NEW_YEAR, max_occurrences=100_000).next_after(NEW_YEAR) is not None


def test_dates_ranges_and_cron_are_taken_away_in_their_zone() -> None:
    daily = cron("0 9 * * *", "Europe/Paris", except_=["2026-01-02", (date(2026, 1, 4), date(2026, 1, 6))])
    assert coming(daily, 4) == ["01-01 08:00:00", "01-03 08:00:00", "01-07 08:00:00", "01-08 08:00:00"]
    awake = every("10m", except_=["* 0-6 * * *"])
    assert coming(awake, 2) == ["01-01 07:00:00", "01-01 07:10:00"]
    assert coming(every("7s", except_="*/2 * * * * *"), 3) == ["01-01 00:00:07", "01-01 00:00:21", "01-01 00:00:35"]
    # Both copies of an hour that comes twice.
    fold = cron("30 * * * *", "America/New_York", except_="30 1 * * *")
    assert coming(fold, 2, datetime(2026, 11, 1, 4, tzinfo=UTC)) == ["11-01 04:30:00", "11-01 07:30:00"]


@pytest.mark.parametrize("taken", ["* * * * *", "* * * * * *", "0-59 0-23 * * *"])
def test_exceptions_that_leave_nothing_end_the_schedule(taken: str) -> None:
    assert every("1s", except_=taken).next_after(NEW_YEAR) is None
    assert cron("*/5 * * * *", "Europe/Paris", except_=taken).next_after(NEW_YEAR) is None
    assert every("1s", after_completion=True, except_=taken).next_after(NEW_YEAR) is None


@settings(steady, max_examples=100)
@given(st.integers(1_000_000, 10**10), st.integers(-(10**12), 10**12), st.integers(0, 10**12), st.booleans())
def test_counting_an_interval_is_the_same_as_walking_it(period: int, after: int, length: int, has_start: bool) -> None:
    start = NEW_YEAR if has_start else None
    schedule = every(timedelta(microseconds=period), start_at=start, end_at=NEW_YEAR + timedelta(days=9))
    low = NEW_YEAR + timedelta(microseconds=after)
    high = low + timedelta(microseconds=length)
    walked = list(schedule.occurrences(low, high, 50))
    assert schedule.count(low, high, 50) == len(walked)
    assert all(later - earlier == timedelta(microseconds=period) for earlier, later in pairwise(walked))
    assert all(low < one <= high for one in walked)


def test_the_period_is_the_time_between_the_next_two() -> None:
    weekdays = cron("0 9 * * mon-fri")
    assert weekdays.period_at(NEW_YEAR) == timedelta(days=1)
    assert weekdays.period_at(datetime(2026, 1, 2, 8, tzinfo=UTC)) == timedelta(days=3)
    assert at("2026-02-01T00:00:00Z").period_at(NEW_YEAR) is None


def test_a_phase_is_stable_and_within_jitter_and_period() -> None:
    schedule = every("1m", jitter="10m")
    phases = [schedule.phase(f"trigger-{number}") for number in range(500)]
    assert phases == [schedule.phase(f"trigger-{number}".encode()) for number in range(500)]
    assert all(timedelta(0) <= phase < timedelta(minutes=1) for phase in phases)
    assert min(phases) < 3 * SECOND
    assert max(phases) > 57 * SECOND
    assert cron("0,10 9 * * *", jitter="1h").phase("a") < timedelta(minutes=10)
    assert every("1m").phase("a") == timedelta(0)


@pytest.mark.parametrize(
    "schedule",
    [
        cron("0 9 * * *"),
        cron("0 9 * * *", "Europe/Paris", gap="skip", fold="both", jitter="90s", except_=["2026-12-25", "* * * * sun"]),
        every(1.5, start_at=NEW_YEAR, end_at=LATER, max_occurrences=10),
        every("5m", after_completion=True),
        at("2026-03-01T09:00:00.000001Z", "2027-03-01T09:00:00+05:30"),
        cron("0 9 * * *") | every("1h") | at("2026-03-01T09:00:00Z"),
    ],
)  # fmt: skip
def test_the_json_form_is_read_back_as_the_same_schedule(schedule: Schedule) -> None:
    form = schedule.to_json()
    again = Schedule.from_json(form)
    assert again == schedule
    assert again.to_json() == form


def test_the_json_form_leaves_out_defaults() -> None:
    schedule = cron("0 9 * * *", "Europe/Paris", start_at=NEW_YEAR, jitter=30, except_="2026-12-24/2026-12-26")
    assert schedule.to_json() == {
        "rules": [{"cron": "0 9 * * *", "tz": "Europe/Paris"}],
        "except": [{"from": "2026-12-24", "to": "2026-12-26", "tz": "Europe/Paris"}],
        "start_at": "2026-01-01T00:00:00Z",
        "jitter_seconds": 30,
    }


RULE = {"cron": "0 9 * * *"}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (None, "schedule"), ([], "schedule"), ("x", "schedule"), ({}, "rules"), ({1: 2}, "schedule"),
        ({"rules": [RULE], "timezone": "UTC"}, "schedule"),
        ({"rules": []}, "rules"), ({"rules": RULE}, "rules"), ({"rules": "x"}, "rules"), ({"rules": [5]}, "rules"),
        ({"rules": [{}]}, "rules"), ({"rules": [{"tz": "UTC"}]}, "rules"), ({"rules": [RULE] * 101}, "rules"),
        ({"rules": [RULE | {"at": []}]}, "at"), ({"rules": [{"cron": 5}]}, "cron"), ({"rules": [{"cron": []}]}, "cron"),
        ({"rules": [RULE | {"tz": None}]}, "tz"), ({"rules": [RULE | {"tz": {}}]}, "tz"),
        ({"rules": [RULE | {"gap": 1}]}, "gap"), ({"rules": [RULE | {"fold": "x"}]}, "fold"),
        ({"rules": [{"cron": "61 * * * *"}]}, "minute"),
        ({"rules": [{"every_seconds": 0.5}]}, "every"), ({"rules": [{"every_seconds": -1}]}, "every_seconds"),
        ({"rules": [{"every_seconds": True}]}, "every_seconds"),
        ({"rules": [{"every_seconds": "60"}]}, "every_seconds"),
        ({"rules": [{"every_seconds": float("nan")}]}, "every_seconds"),
        ({"rules": [{"every_seconds": float("inf")}]}, "every_seconds"),
        ({"rules": [{"every_seconds": 10**400}]}, "every_seconds"),
        ({"rules": [{"every_seconds": 10**5000}]}, "every_seconds"), ({"rules": 10**5000}, "rules"),
        ({"rules": [{"every_seconds": 1e300}]}, "every_seconds"),
        ({"rules": [{"every_seconds": 60, "after_completion": 1}]}, "after_completion"),
        ({"rules": [{"every_seconds": 60, "after_completion": True}, RULE]}, "after_completion"),
        ({"rules": [{"every_seconds": 60, "tz": "UTC"}]}, "tz"),
        ({"rules": [{"at": []}]}, "at"), ({"rules": [{"at": "2026-01-01T00:00:00Z"}]}, "at"),
        ({"rules": [{"at": ["2026-01-01T00:00:00"]}]}, "at"), ({"rules": [{"at": [1767225600]}]}, "at"),
        ({"rules": [{"at": ["2026-02-30T00:00:00Z"]}]}, "at"),
        ({"rules": [{"at": ["0001-01-01T00:00:00+14:00"]}]}, "at"),
        ({"rules": [{"at": ["2026-01-01T00:00:00+25:00"]}]}, "at"),
        ({"rules": [RULE], "except": {}}, "except"), ({"rules": [RULE], "except": [{"to": "2026-01-01"}]}, "except"),
        ({"rules": [RULE], "except": [{"from": "2026-01-02", "to": "2026-01-01"}]}, "except"),
        ({"rules": [RULE], "except": [{"from": "2026-02-30"}]}, "except"),
        ({"rules": [RULE], "except": [{"from": 5}]}, "except"),
        ({"rules": [RULE], "except": [{"cron": "x"}]}, "cron"), ({"rules": [RULE], "start_at": 5}, "start_at"),
        ({"rules": [RULE], "start_at": "soon"}, "start_at"), ({"rules": [RULE], "end_at": []}, "end_at"),
        ({"rules": [RULE], "start_at": "2026-01-02T00:00:00Z", "end_at": "2026-01-01T00:00:00Z"}, "end_at"),
        ({"rules": [RULE], "max_occurrences": 3}, "max_occurrences"),
        ({"rules": [RULE], "max_occurrences": 0, "start_at": "2026-01-01T00:00:00Z"}, "max_occurrences"),
        ({"rules": [RULE], "max_occurrences": True, "start_at": "2026-01-01T00:00:00Z"}, "max_occurrences"),
        ({"rules": [RULE], "max_occurrences": 10**9, "start_at": "2026-01-01T00:00:00Z"}, "max_occurrences"),
        ({"rules": [RULE], "jitter_seconds": -1}, "jitter_seconds"),
        ({"rules": [RULE], "jitter_seconds": "1"}, "jitter_seconds"),
        ({"rules": [RULE], "jitter_seconds": 10**400}, "jitter_seconds"),
    ],
)  # fmt: skip
def test_a_malformed_json_form_is_refused_by_field(form: object, field: str) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        Schedule.from_json(form)
    assert refusal.value.field == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
rule_forms = st.dictionaries(
    st.sampled_from(["cron", "tz", "gap", "fold", "every_seconds", "after_completion", "at", "from", "to"]),
    json_values,
    max_size=3,
)
forms = st.fixed_dictionaries(
    {"rules": st.lists(rule_forms, max_size=2) | json_values},
    optional={
        "except": st.lists(rule_forms, max_size=2) | json_values,
        "start_at": json_values,
        "end_at": json_values,
        "max_occurrences": json_values,
        "jitter_seconds": json_values,
    },
)


@settings(steady, max_examples=300)
@given(forms | json_values)
def test_any_json_is_a_schedule_or_refused(form: object) -> None:
    try:
        schedule = Schedule.from_json(form)
    except InvalidSchedule:
        return
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_what_authors_get_wrong_is_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 — without a zone, on purpose
    for build in (
        at,
        lambda: at(naive),
        lambda: at("2026-01-01"),
        lambda: every("0.5s"),
        lambda: every("soon"),
        lambda: every(True),
        lambda: every("1m", start_at=naive),
        lambda: every("1m", jitter=-1),
        lambda: every("1m", after_completion=True, start_at=NEW_YEAR, max_occurrences=2),
        lambda: cron("0 0 * * *", except_=NEW_YEAR),
        lambda: cron("0 0 * * *", except_=cast(date, 5)),
        lambda: Schedule(()),
        lambda: Schedule(cast(tuple[Cron, ...], ("0 0 * * *",))),
        lambda: every("1m").next_after(naive),
    ):
        with pytest.raises(InvalidSchedule):
            build()


def test_a_schedule_is_a_value() -> None:
    assert cron("0 0 * * *") == Schedule((Cron("0 0 * * *"),))
    assert hash(every("60s")) == hash(Schedule((Every(timedelta(minutes=1)),)))
    assert replace(at("2026-01-02T00:00:00Z"), jitter=SECOND).rules == (At((NEW_YEAR + timedelta(days=1),)),)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400), ("2d", 172_800), ("1w", 604_800),
     ("500ms", 0.5), ("1.5s", 1.5), ("25us", 0.000025), ("0s", 0), (90, 90), (0.25, 0.25), (timedelta(1), 86_400)],
)  # fmt: skip
def test_durations_are_read(text: str | float | timedelta, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "s", "-5s", "+5s", "5 s", "5x", "1h-30m", "1_0s", "٣s", "1e3s", "nan", "1.s", ".5s", "200y",
     "99999999d", "9" * 400 + "s", -1, True, float("nan"), float("inf"), 1e300, 10**400, timedelta(-1),
     timedelta(days=40_000), None, [], b"5s"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(BadInput):
        parse_duration(cast(str, text))


@settings(steady, max_examples=200)
@given(st.timedeltas(min_value=timedelta(0), max_value=LONGEST))
def test_a_duration_is_written_as_it_is_read(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length


def test_a_refusal_shows_instants_and_lengths_as_a_person_writes_them() -> None:
    with pytest.raises(InvalidSchedule, match=r"^at '0001-01-01T00:00:00\+14:00': must lie in the years"):
        at("0001-01-01T00:00:00+14:00")
    with pytest.raises(InvalidSchedule, match=r"^every '0:00:00': must be from 1 s"):
        Schedule.from_json({"rules": [{"every_seconds": 0}]})
