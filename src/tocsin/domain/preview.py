"""The instants ahead of a schedule, with what the clocks' changes do to each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from tocsin.domain.rules import MICROSECOND, Cron
from tocsin.domain.schedule import Schedule
from tocsin.domain.zone import DAY, second_of, zone

MOST: Final = 1_000


@dataclass(frozen=True, slots=True)
class Preview:
    """One instant. local: on the wall's clock of ``tz``; notes: what daylight saving has to do with it."""

    at: datetime
    local: datetime
    tz: str
    notes: tuple[str, ...]


def preview(schedule: Schedule, after: datetime, count: int) -> Iterator[Preview]:
    """The next ``count`` instants after one, oldest first, at most ``MOST``."""
    before: Preview | None = None
    at = schedule.next_after(after)
    for _ in range(min(count, MOST)):
        if at is None:
            return
        found = _seen(schedule, at, before)
        yield found
        before = found
        at = schedule.next_after(at)


def _seen(schedule: Schedule, at: datetime, before: Preview | None) -> Preview:
    rules = [rule for rule in schedule.rules if isinstance(rule, Cron)]
    due = [rule for rule in rules if _is_due(rule, at)]
    # An instant of no cron rule is shown where the first of them is read: that is the reader's own clock.
    tz = (due or rules)[0].tz if rules else "UTC"
    local = _local(at, tz)
    notes = [note for rule in due for note in _notes(rule, at)]
    if before is not None and before.tz == tz and local.utcoffset() != before.local.utcoffset():
        notes.append(f"the clocks changed since the one before, from {_offset(before.local)} to {_offset(local)}")
    return Preview(at, local, tz, tuple(dict.fromkeys(notes)))


def _notes(rule: Cron, at: datetime) -> Iterator[str]:
    second = second_of(at)
    span = zone(rule.tz).span_at(second)
    local = second + span.offset
    if rule.gap == "shift" and not _is_due(replace(rule, gap="skip"), at):
        gap = f"{_clock(span.missing_from)} to {_clock(span.start + span.offset)}"
        yield f"moved: the clocks of {rule.tz} skip {gap} on this day, and it is due at the first instant after that"
    if local >= span.seen_again_from:
        yield f"{_clock(local)} comes twice on this day in {rule.tz}: this is the first"
    elif local < span.first_seen_from:
        yield f"{_clock(local)} comes twice on this day in {rule.tz}: this is the second"


def _is_due(rule: Cron, at: datetime) -> bool:
    try:
        return rule.next_after(at - MICROSECOND) == at
    except OverflowError:
        return False


def _local(at: datetime, tz: str) -> datetime:
    """The instant on the wall's clock; in UTC where that clock has passed the calendar's end."""
    try:
        return at.astimezone(zone(tz).info)
    except OverflowError:
        return at


def _clock(local: int) -> str:
    of_day = local % DAY
    return f"{of_day // 3600:02}:{of_day // 60 % 60:02}" + (f":{of_day % 60:02}" if of_day % 60 else "")


def _offset(local: datetime) -> str:
    minutes = round((local.utcoffset() or timedelta(0)).total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
