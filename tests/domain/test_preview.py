"""What is told of the instants ahead, above all where clocks change."""

from datetime import UTC, datetime

import pytest

from tocsin.domain.preview import preview
from tocsin.domain.schedule import Schedule, at, cron, every

MARCH = datetime(2026, 3, 28, 12, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 24, 12, tzinfo=UTC)


def notes(schedule: Schedule, after: datetime, count: int = 2) -> list[tuple[str, ...]]:
    return [one.notes for one in preview(schedule, after, count)]


def test_an_instant_that_was_moved_out_of_a_gap_says_so() -> None:
    (moved, after) = preview(cron("30 2 * * *", "Europe/Paris"), MARCH, 2)
    assert (moved.at, moved.local.isoformat()) == (
        datetime(2026, 3, 29, 1, tzinfo=UTC),
        "2026-03-29T03:00:00+02:00",
    )
    assert moved.notes == (
        "moved: the clocks of Europe/Paris skip 02:00 to 03:00 on this day, "
        "and it is due at the first instant after that",
    )
    assert after.notes == ()


def test_a_time_that_comes_twice_says_which_it_is() -> None:
    first, second = notes(cron("30 2 * * *", "Europe/Paris", fold="both"), OCTOBER)
    assert first == ("02:30 comes twice on this day in Europe/Paris: this is the first",)
    assert second == (
        "02:30 comes twice on this day in Europe/Paris: this is the second",
        "the clocks changed since the one before, from UTC+02:00 to UTC+01:00",
    )


def test_a_change_of_the_clocks_in_between_is_told() -> None:
    assert notes(cron("0 9 * * *", "Europe/Paris"), datetime(2026, 3, 28, tzinfo=UTC)) == [
        (),
        ("the clocks changed since the one before, from UTC+01:00 to UTC+02:00",),
    ]


@pytest.mark.parametrize("schedule", [cron("30 2 * * *"), every("1d"), at(datetime(2026, 12, 1, tzinfo=UTC))])
def test_utc_has_nothing_to_tell(schedule: Schedule) -> None:
    assert not any(notes(schedule, MARCH, 300))


def test_half_an_hour_is_a_gap_too() -> None:
    (moved,) = notes(cron("15 2 * * *", "Australia/Lord_Howe"), datetime(2026, 10, 3, 12, tzinfo=UTC), 1)
    assert moved[0].startswith("moved: the clocks of Australia/Lord_Howe skip 02:00 to 02:30")


def test_the_calendar_ends() -> None:
    assert [one.at.year for one in preview(cron("0 0 1 1 *"), datetime(9997, 6, 1, tzinfo=UTC), 5)] == [9998, 9999]
