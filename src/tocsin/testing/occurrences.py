"""When a schedule is due, found the slow way: a second opinion that shares no code with the first.

It reads a schedule's JSON form and nothing else of the product. Cron is found by looking at every
quarter of an hour of a zone (no zone changes its clocks in between) and asking which of its minutes
match; ``every`` is arithmetic; ``at`` is a list. Minutes, hours, days, months and weekdays may be
numbers, ``*``, ranges, steps, lists and English weekday names, and seconds may stand in front: what the tests
use.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER: Final = timedelta(minutes=15)
MINUTE: Final = timedelta(minutes=1)
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def enumerate_schedule(form: Mapping[str, Any], after: datetime, until: datetime) -> list[datetime]:
    """Every instant in ``after < t <= until`` at which the schedule is due, in order.

    form: the canonical JSON form; rules that count after_completion have no instants of their own.
    """
    start = _instant(form["start_at"]) if "start_at" in form else None
    bound = _instant(form["end_at"]) if "end_at" in form else None
    number = form.get("max_occurrences")
    low = start - timedelta(microseconds=1) if start is not None and (number or start > after) else after
    found: set[datetime] = set()
    for rule in form["rules"]:
        found.update(_rule(rule, start or EPOCH, low, until))
    kept = sorted(at for at in found if not any(_is_excepted(at, one) for one in form.get("except", [])))
    if number is not None:
        kept = kept[:number]
    return [at for at in kept if after < at <= until and (bound is None or at <= bound)]


def _rule(rule: Mapping[str, Any], anchor: datetime, after: datetime, until: datetime) -> Iterator[datetime]:
    if "at" in rule:
        yield from (at for at in map(_instant, rule["at"]) if after < at <= until)
    elif "every_seconds" in rule:
        period = timedelta(seconds=rule["every_seconds"])
        at = anchor + ((after - anchor) // period + 1) * period
        while at <= until:
            yield at
            at += period
    else:
        yield from _cron(rule, after, until)


@dataclass(frozen=True, slots=True)
class Fields:
    """A cron expression of five fields, or six with seconds in front, as sets of numbers."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    dates: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both_days: bool
    fixed: bool

    @classmethod
    def read(cls, text: str) -> "Fields":
        *seconds, minutes, hours, dates, months, weekdays = text.lower().split()
        return cls(
            seconds=_numbers(seconds[0] if seconds else "0", 0, 59),
            minutes=_numbers(minutes, 0, 59),
            hours=_numbers(hours, 0, 23),
            dates=_numbers(dates, 1, 31),
            months=_numbers(months, 1, 12),
            weekdays=frozenset(day % 7 for day in _numbers(weekdays, 0, 7)),
            both_days=dates.startswith("*") or weekdays.startswith("*"),
            fixed=not any(sign in minutes + hours for sign in "*/"),
        )

    def has_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.dates, day.isoweekday() % 7 in self.weekdays
        return by_date and by_weekday if self.both_days else by_date or by_weekday


def _numbers(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        body, _, step = item.partition("/")
        first, _, last = body.partition("-")
        if first == "*":
            bounds = (low, high)
        else:
            begin = _number(first)
            bounds = (begin, _number(last) if last else high if step else begin)
        found.update(range(bounds[0], bounds[1] + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str) -> int:
    return _WEEKDAYS.index(text) if text in _WEEKDAYS else int(text)


@dataclass(frozen=True, slots=True)
class Quarter:
    """Fifteen minutes of a zone: when they begin, what the wall's clock then reads, and how it is told apart.

    repeated: the same reading came once before; again: it will come once more; skipped: the readings
    between the quarter before and this one that the wall's clock never showed.
    """

    start: datetime
    local: datetime
    repeated: bool
    again: bool
    skipped: tuple[datetime, ...]


@lru_cache(maxsize=32)
def quarters(tz: str, first: date, last: date) -> tuple[Quarter, ...]:
    """Every quarter of an hour of a zone from one day of UTC to another, both included."""
    zone = ZoneInfo(tz)
    at = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
    before = (at - QUARTER).astimezone(zone).replace(tzinfo=None)
    found: list[Quarter] = []
    while at < end:
        here = at.astimezone(zone)
        local = here.replace(tzinfo=None)
        other = here.replace(fold=1 - here.fold).astimezone(UTC)
        twice = other != at and other.astimezone(zone).replace(tzinfo=None) == local
        missing = (local - before) // QUARTER - 1
        skipped = tuple(before + QUARTER * step for step in range(1, missing + 1))
        found.append(Quarter(at, local, twice and other < at, twice and other > at, skipped))
        before, at = local, at + QUARTER
    return tuple(found)


def _cron(rule: Mapping[str, Any], after: datetime, until: datetime) -> Iterator[datetime]:
    fields = Fields.read(rule["cron"])
    shifts, fold = fields.fixed and rule.get("gap", "shift") == "shift", rule.get("fold", "first")
    by_quarter = {quarter: sorted(m for m in fields.minutes if m // 15 == quarter) for quarter in range(4)}
    days: dict[date, bool] = {}

    def minutes(local: datetime) -> list[int]:
        if local.hour not in fields.hours:
            return []
        day = local.date()
        if day not in days:
            days[day] = fields.has_day(day)
        return by_quarter[local.minute // 15] if days[day] else []

    if after >= until:
        return
    for quarter in quarters(rule.get("tz", "UTC"), after.date(), until.date()):
        if shifts and any(minutes(one) for one in quarter.skipped) and after < quarter.start <= until:
            yield quarter.start
        if fields.fixed and ((quarter.repeated and fold == "first") or (quarter.again and fold == "last")):
            continue
        for minute in minutes(quarter.local):
            begin = quarter.start + MINUTE * (minute - quarter.local.minute)
            for second in fields.seconds:
                at = begin + timedelta(seconds=second)
                if after < at <= until:
                    yield at


def _is_excepted(at: datetime, rule: Mapping[str, Any]) -> bool:
    local = at.astimezone(ZoneInfo(rule.get("tz", "UTC")))
    if "cron" in rule:
        fields = Fields.read(rule["cron"])
        return local.minute in fields.minutes and local.hour in fields.hours and fields.has_day(local.date())
    return date.fromisoformat(rule["from"]) <= local.date() <= date.fromisoformat(rule.get("to", rule["from"]))


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
