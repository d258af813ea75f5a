"""Which expressions are read, what days they choose, and how the others are refused."""

from datetime import UTC, datetime
from itertools import islice
from typing import cast

import pytest

from tocsin.domain.errors import InvalidSchedule
from tocsin.domain.schedule import cron, next_after

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(9999, 1, 1, tzinfo=UTC)


def coming(expression: str, number: int = 3, after: datetime = NEW_YEAR) -> list[str]:
    return [at.strftime("%Y-%m-%d %H:%M:%S") for at in islice(cron(expression).occurrences(after, END), number)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["2026-01-01 00:20:00", "2026-01-01 00:40:00", "2026-01-01 01:00:00"]),
        ("5/25 * * * *", ["2026-01-01 00:05:00", "2026-01-01 00:30:00", "2026-01-01 00:55:00"]),
        ("1-30/10 4 * * *", ["2026-01-01 04:01:00", "2026-01-01 04:11:00", "2026-01-01 04:21:00"]),
        ("*/61 * * * *", ["2026-01-01 01:00:00", "2026-01-01 02:00:00", "2026-01-01 03:00:00"]),
        ("*/30 0 0 * * *", ["2026-01-01 00:00:30", "2026-01-02 00:00:00", "2026-01-02 00:00:30"]),
        ("15,45 59 23 * * *", ["2026-01-01 23:59:15", "2026-01-01 23:59:45", "2026-01-02 23:59:15"]),
        (" \t0  0 1\t1 * \n", ["2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"]),
        ("0 0 * FEB-mar Mon", ["2026-02-02 00:00:00", "2026-02-09 00:00:00", "2026-02-16 00:00:00"]),
        ("0 0 * * 0", ["2026-01-04 00:00:00", "2026-01-11 00:00:00", "2026-01-18 00:00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00:00", "2026-01-11 00:00:00", "2026-01-18 00:00:00"]),
        ("0 0 * * sat-sun", ["2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-10 00:00:00"]),
        ("0 0 * * 6-7", ["2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-10 00:00:00"]),
        ("0 0 ? * ?", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
        ("@hourly", ["2026-01-01 01:00:00", "2026-01-01 02:00:00", "2026-01-01 03:00:00"]),
        ("@Midnight", ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"]),
        ("@weekly", ["2026-01-04 00:00:00", "2026-01-11 00:00:00", "2026-01-18 00:00:00"]),
        ("@monthly", ["2026-02-01 00:00:00", "2026-03-01 00:00:00", "2026-04-01 00:00:00"]),
        ("@annually", ["2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"]),
    ],
)
def test_lists_ranges_steps_names_and_macros(expression: str, expected: list[str]) -> None:
    assert coming(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # Either field will do, unless one begins with a star.
        ("0 0 13 * fri", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 */2 * fri", ["2026-01-09", "2026-01-23", "2026-02-13"]),
        ("0 0 13 * */5", ["2026-02-13", "2026-03-13", "2026-09-13"]),
        ("0 0 ? * fri", ["2026-01-02", "2026-01-09", "2026-01-16"]),
        ("0 0 13,*/31 * fri", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 31 2 mon", ["2026-02-02", "2026-02-09", "2026-02-16"]),
        ("0 0 31 * *", ["2026-01-31", "2026-03-31", "2026-05-31"]),
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 29 2 */7", ["2032-02-29", "2060-02-29", "2088-02-29"]),
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 L-2 * *", ["2026-01-29", "2026-02-26", "2026-03-29"]),
        ("0 0 L-28 2 *", ["2028-02-01", "2032-02-01", "2036-02-01"]),
        ("0 0 L,15 * *", ["2026-01-15", "2026-01-31", "2026-02-15"]),
        ("0 0 LW * *", ["2026-01-30", "2026-02-27", "2026-03-31"]),
        ("0 0 1W * *", ["2026-02-02", "2026-03-02", "2026-04-01"]),
        ("0 0 15w * *", ["2026-01-15", "2026-02-16", "2026-03-16"]),
        ("0 0 31W * *", ["2026-01-30", "2026-03-31", "2026-05-29"]),
        ("0 0 * * 5#2", ["2026-01-09", "2026-02-13", "2026-03-13"]),
        ("0 0 * * sun#5", ["2026-03-29", "2026-05-31", "2026-08-30"]),
        ("0 0 * * mon#1,fri#3", ["2026-01-05", "2026-01-16", "2026-02-02"]),
        ("0 0 * 2 mon#5", ["2044-02-29", "2072-02-29", "2112-02-29"]),
        ("0 0 * * friL", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * 7L", ["2026-01-25", "2026-02-22", "2026-03-29"]),
    ],
)
def test_the_two_day_fields(expression: str, expected: list[str]) -> None:
    assert [at[:10] for at in coming(expression)] == expected


@pytest.mark.parametrize(
    ("expression", "field", "value", "reason"),
    [
        ("99 * * * *", "minute", "99", "must be 0–59"),
        ("60 * * * * *", "second", "60", "must be 0–59"),
        ("* 24 * * *", "hour", "24", "must be 0–23"),
        ("* * 0 * *", "day of month", "0", "must be 1–31, L, L-n, LW or nW"),
        ("* * * 13 *", "month", "13", "must be 1–12 or jan–dec"),
        ("* * * * 8", "day of week", "8", "must be 0–7 or sun–sat, d#n or dL"),
        ("5-1 * * * *", "minute", "5-1", "must not run backwards; write two ranges"),
        ("* * * * fri-mon", "day of week", "fri-mon", "must not run backwards; write two ranges"),
        ("*/0 * * * *", "minute", "*/0", "must have a step of 1 or more"),
        ("1,,2 * * * *", "minute", "", "must not be empty, nor hold an empty item"),
        ("? * * * *", "minute", "?", "must be in a day field, and alone there"),
        ("* * ?,1 * *", "day of month", "?", "must stand alone in its field"),
        ("0 0 30 2 *", "day of month", "30", "never falls on a day that month '2' has"),
        ("0 0 31 4,6 ?", "day of month", "31", "never falls on a day that month '4,6' has"),
        ("0 0 31W 4 *", "day of month", "31w", "never falls on a day that month '4' has"),
        ("0 0 L-29 feb *", "day of month", "l-29", "never falls on a day that month 'feb' has"),
        ("0 0 L-31 * *", "day of month", "l-31", "must be L-0 to L-30"),
        ("* * * * 1#6", "day of week", "1#6", "must be d#1 to d#5"),
        ("@reboot", "cron", "@reboot", "names no time; run on start instead"),
        ("* * * *", "cron", "* * * *", "must have five fields, or six with seconds, not 4"),
        ("", "cron", "", "must have five fields, or six with seconds, not 0"),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(expression: str, field: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        next_after(expression, "UTC", NEW_YEAR)
    assert (refusal.value.field, refusal.value.value, refusal.value.reason) == (field, value, reason)


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * * * *", "-1 * * * *", "1- * * * *", "-5 * * * *", "** * * * *", ", * * * *", "1, * * * *",
        "+5 * * * *", "1_0 * * * *", "1.5 * * * *", "0x5 * * * *", "٣ * * * *", "* * * * ſun", "5 5 5 5 5\u00a0",
        "*/ * * * *", "/5 * * * *", "*/-1 * * * *", "*/a * * * *", "1/2/3 * * * *", "1-2-3 * * * *", "*-5 * * * *",
        "0-60 * * * *", "0 0-24 * * *", "* * 32 * *", "* * 1-32 * *", "* * * 0 *", "* * * 1-13 *", "* * * * 1-8",
        "L * * * *", "* L * * *", "* * * L *", "* * * * L", "* * W * *", "* * 32W * *", "* * 0W * *", "* * 1-5W * *",
        "* * WL * *", "* * L/2 * *", "* * L-3W * *", "* * L- * *", "* * LL * *", "* * 1L * *", "* * * * 0#0",
        "* * * * #1", "* * * * 1#", "* * * * 1#1#1", "* * * * 1-3#1", "* * * * mon#1-3", "* * * * 5W",
        "* * * * L5", "* * * * 8L", "* * * * 1-5L", "* * * mon *", "* * * * jan", "* * jan * *", "* * * january *",
        "* * * * monday", "mon * * * *", "* ? * * *", "* * * ? *", "* * ?/2 * *", "* * ?? * *", "H * * * *",
        "@", "@foo", "@every 5m", "@reboot now", "@daily 5", "TZ=UTC * * * * *", "a b c d e", "* * * * * x",
        "0 0 30,31 feb *", "0 0 */30 2 mon#5L", "0\x000 * * * *", "* " * 2000, "9" * 999 + " * * * *",
        None, 5, True, 1.5, [], {}, b"* * * * *", ("*",) * 5, object(),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_and_nothing_else_is_raised(expression: object) -> None:
    with pytest.raises(InvalidSchedule):
        next_after(cast(str, expression), "UTC", NEW_YEAR)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("after", {"after": datetime(2026, 1, 1)}),  # noqa: DTZ001 — without a zone, on purpose
        ("after", {"after": None}),
        ("after", {"after": "2026-01-01T00:00:00Z"}),
        ("after", {"after": NEW_YEAR.date()}),
        ("gap", {"gap": "later"}),
        ("gap", {"gap": None}),
        ("fold", {"fold": "twice"}),
        ("fold", {"fold": ["first"]}),
        ("tz", {"tz": "Mars/Olympus"}),
        ("tz", {"tz": UTC}),
    ],
)
def test_a_bad_argument_is_named(field: str, arguments: dict[str, object]) -> None:
    given: dict[str, object] = {"tz": "UTC", "after": NEW_YEAR, **arguments}
    with pytest.raises(InvalidSchedule) as refusal:
        next_after("* * * * *", **given)  # type: ignore[arg-type]  # what no checker would let pass
    assert refusal.value.field == field
