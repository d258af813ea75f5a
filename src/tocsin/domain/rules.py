"""The rules a schedule is made of: what makes an instant due, and what takes it away.

Every value here is checked when it is built, so that what exists can be evaluated.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from tocsin.domain.cron_walk import CronWalk, Fold, Gap, walk
from tocsin.domain.duration import LONGEST
from tocsin.domain.errors import InvalidSchedule
from tocsin.domain.zone import EPOCH, zone

MICROSECOND = timedelta(microseconds=1)
MAX_INSTANTS = 10_000
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATES = re.compile(rf"{_DATE.pattern}(?:/{_DATE.pattern})?")
_EPOCH_ORDINAL = EPOCH.toordinal()


def in_utc(field: str, value: object) -> datetime:
    """The same instant in UTC.

    Raises: InvalidSchedule, naming the field, for anything but an aware datetime.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidSchedule(field, value, "must be a datetime with a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidSchedule(field, value, "must lie in the years 1–9999 of UTC") from None


@dataclass(frozen=True, slots=True)
class Cron:
    """Due when the clock on the wall of a zone reads what the expression says."""

    expr: str
    tz: str = "UTC"
    gap: Gap = "shift"
    fold: Fold = "first"

    def __post_init__(self) -> None:
        find_walk(self.expr, self.tz, self.gap, self.fold)

    def next_after(self, instant: datetime) -> datetime | None:
        """The first instant due strictly after this one."""
        return walk(self.expr, self.tz, self.gap, self.fold).next_after(instant)


@dataclass(frozen=True, slots=True)
class Every:
    """Due each time a period has passed: since the anchor, or since the last run's end."""

    period: timedelta
    after_completion: bool = False

    def __post_init__(self) -> None:
        check_kind("every", self.period, timedelta)
        check_kind("after_completion", self.after_completion, bool)
        if not timedelta(seconds=1) <= self.period <= LONGEST:
            raise InvalidSchedule("every", self.period, "must be from 1 s to 100 years")

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """The first instant due strictly after this one, a whole number of periods from the anchor."""
        return self.at_index(self.index_of(instant, anchor) + 1, anchor)

    def at_index(self, index: int, anchor: datetime) -> datetime | None:
        """The instant this many periods from the anchor; None past the calendar's end."""
        try:
            return anchor + index * self.period
        except OverflowError:
            return None

    def index_of(self, instant: datetime, anchor: datetime) -> int:
        """How many whole periods lie between the anchor and an instant; negative before it."""
        return (instant - anchor) // self.period


@dataclass(frozen=True, slots=True)
class At:
    """Due at each of these instants; kept in UTC, in order, each once."""

    instants: tuple[datetime, ...]

    def __post_init__(self) -> None:
        check_kind("at", self.instants, tuple)
        if not 1 <= len(self.instants) <= MAX_INSTANTS:
            raise InvalidSchedule("at", self.instants, f"must be 1 to {MAX_INSTANTS:,} instants")
        ordered = tuple(sorted({in_utc("at", instant) for instant in self.instants}))
        object.__setattr__(self, "instants", ordered)

    def next_after(self, instant: datetime) -> datetime | None:
        """The first instant strictly after this one."""
        index = bisect_right(self.instants, instant)
        return self.instants[index] if index < len(self.instants) else None


@dataclass(frozen=True, slots=True)
class ExceptDates:
    """Takes away what falls on these dates of a zone, the first and the last included."""

    first: date
    last: date
    tz: str = "UTC"

    def __post_init__(self) -> None:
        for value in (self.first, self.last):
            check_kind("except", value, date)
            if isinstance(value, datetime):
                raise InvalidSchedule("except", value, "must be a date without a time")
        if self.last < self.first:
            raise InvalidSchedule("except", f"{self.first}/{self.last}", "must not run backwards")
        zone(self.tz)

    def clear_from(self, instant: datetime) -> datetime:
        """The instant itself when it may stay; otherwise a later one, to go on from."""
        today = instant.toordinal()
        if not self.first.toordinal() - 1 <= today <= self.last.toordinal() + 1:
            return instant
        first, after = (day.toordinal() - _EPOCH_ORDINAL for day in (self.first, self.last))
        return zone(self.tz).leave_days(instant, first, after + 1)


@dataclass(frozen=True, slots=True)
class ExceptCron:
    """Takes away what falls in a minute (with six fields: a second) that the expression matches.

    The clock on the wall is compared as it reads: in a fold both copies are taken away, and
    an occurrence moved out of a gap is judged by the time to which it was moved.
    """

    expr: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        find_walk(self.expr, self.tz, "skip", "both")

    def clear_from(self, instant: datetime) -> datetime:
        """The instant itself when it may stay; otherwise a later one, to go on from."""
        return walk(self.expr, self.tz, "skip", "both").clear_from(instant)


Rule = Cron | Every | At
Except = ExceptDates | ExceptCron
ExceptInput = str | date | tuple[date, date] | Except


def read_excepts(given: ExceptInput | Sequence[ExceptInput], tz: str) -> tuple[Except, ...]:
    """The exceptions an author wrote, one or several, read in this zone.

    Raises: InvalidSchedule, naming the field.
    """
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, date) for part in given):
        return (_read_except(given, tz),)
    if isinstance(given, list | tuple):
        return tuple(_read_except(one, tz) for one in given)
    return (_read_except(given, tz),)


def read_date(value: object) -> date:
    """The date of a text such as ``2026-12-25``.

    Raises: InvalidSchedule, field ``except``.
    """
    if isinstance(value, str) and _DATE.fullmatch(value):
        with suppress(ValueError):  # 2026-02-30 is refused like any other text that is no date
            return date.fromisoformat(value)
    raise InvalidSchedule("except", value, "must be a date, such as '2026-12-25'")


def check_kind(field: str, value: object, *kinds: type) -> None:
    """The value is of one of these types.

    Raises: InvalidSchedule, naming the field.
    """
    if not isinstance(value, kinds):
        raise InvalidSchedule(field, value, f"must be a {' or '.join(kind.__name__ for kind in kinds)}")


def find_walk(expr: str, tz: str, gap: Gap, fold: Fold) -> CronWalk:
    """The walk of an expression, whatever was passed.

    Raises: InvalidSchedule, also for values that are not even strings.
    """
    try:
        return walk(expr, tz, gap, fold)
    except TypeError:  # one of them cannot be hashed, so it is no string
        for field, value in (("cron", expr), ("tz", tz), ("gap", gap), ("fold", fold)):
            if not isinstance(value, str):
                raise InvalidSchedule(field, value, "must be a string") from None
        raise


def _read_except(given: object, tz: str) -> Except:
    match given:
        case ExceptDates() | ExceptCron():
            return given
        case (date() as first, date() as last):
            return ExceptDates(first, last, tz)
        case date():
            return ExceptDates(given, given, tz)
        case str() if _DATES.fullmatch(given):
            written = given.split("/")
            return ExceptDates(read_date(written[0]), read_date(written[-1]), tz)
        case str():
            return ExceptCron(given, tz)
        case _:
            raise InvalidSchedule("except", given, "must be a date, a pair of dates, or a cron expression")
