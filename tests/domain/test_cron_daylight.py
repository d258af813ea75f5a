"""Clocks that go forward, back, by half an hour, at midnight, and across a day."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tocsin.domain.cron_walk import Fold, Gap
from tocsin.domain.schedule import next_after


def coming(expression: str, tz: str, after: str, number: int, *, gap: Gap = "shift", fold: Fold = "first") -> list[str]:
    at: datetime | None = datetime.fromisoformat(after).replace(tzinfo=UTC)
    found = []
    for _ in range(number):
        assert at is not None
        at = next_after(expression, tz, at, gap=gap, fold=fold)
        found.append("none" if at is None else at.strftime("%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "tz", "after", "expected"),
    [
        # A fixed time in the gap: at the first instant after it, once.
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["08 07:00", "09 06:30"]),
        ("0,15,30 2 * * *", "America/New_York", "2026-03-07T12:00", ["08 07:00", "09 06:00"]),
        ("0 2,3 * * *", "America/New_York", "2026-03-07T12:00", ["08 07:00", "09 06:00", "09 07:00"]),
        ("30 1 * * *", "Europe/London", "2026-03-28T12:00", ["29 01:00", "30 00:30"]),
        ("30 1 * * *", "Europe/Dublin", "2026-03-28T12:00", ["29 01:00", "30 00:30"]),
        # In the fold: the first time.
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["01 05:30", "02 06:30"]),
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00", ["25 00:30", "26 01:30"]),
        ("30 1 * * *", "Europe/Dublin", "2026-10-24T12:00", ["25 00:30", "26 01:30"]),
        ("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00", ["15 01:30", "16 02:30"]),
        ("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00", ["22 02:00", "23 01:30"]),
        # A wildcard or a step follows real instants.
        ("0 * * * *", "America/New_York", "2026-03-08T05:30", ["08 06:00", "08 07:00", "08 08:00"]),
        ("0 */2 * * *", "America/New_York", "2026-03-08T04:00", ["08 05:00", "08 08:00", "08 10:00"]),
        ("30 */2 * * *", "America/New_York", "2026-03-08T05:00", ["08 05:30", "08 08:30"]),
        ("30 * * * *", "America/New_York", "2026-11-01T05:00", ["01 05:30", "01 06:30", "01 07:30"]),
        ("*/30 1 * * *", "America/New_York", "2026-11-01T04:59",
         ["01 05:00", "01 05:30", "01 06:00", "01 06:30", "02 06:00"]),
        ("*/30 2 * * *", "America/New_York", "2026-03-08T00:00", ["09 06:00", "09 06:30"]),
        # Half an hour.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["03 15:30", "04 15:15"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["04 14:45", "05 15:15"]),
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30",
         ["04 14:45", "04 15:00", "04 15:15", "04 15:30"]),
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["03 15:30", "04 15:00"]),
        # At midnight.
        ("0 0 * * *", "America/Santiago", "2026-09-05T12:00", ["06 04:00", "07 03:00"]),
        ("30 23 * * *", "America/Santiago", "2026-04-04T12:00", ["05 02:30", "06 03:30"]),
        ("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00", ["28 22:00", "29 21:00"]),
        ("30 23 * * *", "Asia/Beirut", "2026-10-24T12:00", ["24 20:30", "25 21:30"]),
        ("0 0 * * sun", "America/Santiago", "2026-09-05T12:00", ["06 04:00", "13 03:00"]),
        # A day that never was: 30 December 2011.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T00:00", ["29 19:00", "30 10:00", "30 19:00", "31 19:00"]),
        ("0 9 30 12 *", "Pacific/Apia", "2011-12-29T00:00", ["30 10:00", "29 19:00"]),
        ("0 * * * *", "Pacific/Apia", "2011-12-30T08:30", ["30 09:00", "30 10:00", "30 11:00"]),
    ],
)  # fmt: skip
def test_by_default(expression: str, tz: str, after: str, expected: list[str]) -> None:
    assert coming(expression, tz, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        ("first", ["01 05:30", "02 06:30", "03 06:30"]),
        ("last", ["01 06:30", "02 06:30", "03 06:30"]),
        ("both", ["01 05:30", "01 06:30", "02 06:30"]),
    ],
)
def test_a_fixed_time_in_the_fold_fires_as_chosen(fold: Fold, expected: list[str]) -> None:
    assert coming("30 1 * * *", "America/New_York", "2026-10-31T12:00", 3, fold=fold) == expected


def test_the_fold_is_the_same_from_inside_it() -> None:
    assert coming("30 1 * * *", "America/New_York", "2026-11-01T05:30", 1) == ["02 06:30"]
    assert coming("30 1 * * *", "America/New_York", "2026-11-01T05:45", 1) == ["02 06:30"]
    assert coming("30 1 * * *", "America/New_York", "2026-11-01T05:45", 1, fold="both") == ["01 06:30"]


def test_a_fixed_time_in_the_gap_may_be_dropped() -> None:
    assert coming("30 2 * * *", "America/New_York", "2026-03-07T12:00", 2, gap="skip") == ["09 06:30", "10 06:30"]
    assert coming("0 9 * * *", "Pacific/Apia", "2011-12-29T20:00", 1, gap="skip") == ["30 19:00"]
    assert coming("0 0 * * *", "America/Santiago", "2026-09-05T12:00", 1, gap="skip") == ["07 03:00"]


def test_a_wildcard_takes_no_notice_of_the_options() -> None:
    for fold in ("first", "last", "both"):
        found = coming("30 * * * *", "America/New_York", "2026-11-01T05:00", 2, fold=fold, gap="skip")
        assert found == ["01 05:30", "01 06:30"]


def test_seconds_of_one_fixed_minute_in_the_gap_are_one_occurrence() -> None:
    assert coming("*/10 30 2 * * *", "America/New_York", "2026-03-07T12:00", 2) == ["08 07:00", "09 06:30"]


def test_a_rule_that_only_ever_falls_in_a_dropped_gap_ends() -> None:
    assert coming("30 2 8-14 3 */7", "America/New_York", "2026-01-01T00:00", 1, gap="skip") == ["none"]


def test_offsets_with_seconds_are_followed() -> None:
    after = datetime(1850, 1, 1, tzinfo=UTC)
    assert next_after("0 12 * * *", "Europe/Paris", after) == datetime(1850, 1, 1, 11, 50, 39, tzinfo=UTC)


def test_the_instant_asked_from_may_be_in_any_zone_and_between_seconds() -> None:
    tokyo = timezone(timedelta(hours=9))
    after = datetime(2026, 1, 1, 8, 59, 59, 999_999, tzinfo=tokyo)
    assert next_after("0 0 * * *", "UTC", after) == datetime(2026, 1, 1, tzinfo=UTC)
    assert next_after("0 0 * * *", "UTC", after + timedelta(microseconds=1)) == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_ends_of_the_calendar_are_no_error() -> None:
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))
    assert next_after("* * * * *", "Asia/Tokyo", datetime.max.replace(tzinfo=UTC)) is None
    assert next_after("0 0 * * *", "Asia/Tokyo", datetime.max.replace(tzinfo=west)) is None
    assert next_after("0 0 29 2 *", "Asia/Tokyo", datetime(9997, 1, 1, tzinfo=UTC)) is None
    first = next_after("* * * * *", "UTC", datetime.min.replace(tzinfo=east))
    assert first == datetime.min.replace(tzinfo=UTC)
