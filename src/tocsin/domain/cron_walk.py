"""The search for the next instant of a cron expression in a time zone.

Everything runs in whole seconds. A rule with a wildcard or a step in minutes or hours
follows real instants: within a span of constant offset local time is UTC plus a constant,
and what a span lacks (a gap) or repeats (a fold) is lacking or repeated. A fixed rule is
due exactly once per local time that matches: one in a gap is moved to the first instant
after it (``shift``) or dropped (``skip``), one in a fold is taken the first time, the last
time, or both times.

The walk remembers the day, the month and the span it last stood in. They only save work: an
answer never depends on them, and each is replaced as one value, so threads may share a walk.
"""

from bisect import bisect_left, bisect_right
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Literal

from tocsin.domain.cron import CronSpec, parse
from tocsin.domain.errors import InvalidSchedule
from tocsin.domain.zone import DAY, EPOCH, FIRST_SECOND, LAST_SECOND, Span, Zone, instant_of, second_of, zone

Gap = Literal["shift", "skip"]
Fold = Literal["first", "last", "both"]

#: No local time is further than this from its UTC, on either side.
_FURTHEST_OFFSET = DAY
#: The Gregorian calendar repeats itself after 400 years: 146,097 days, 4,800 months.
_CYCLE_DAYS = 146_097
_CYCLE_MONTHS = 4_800
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_SIXTY = (1 << 60) - 1
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# (first day, day after the last, chosen days from bit 0, months since year 0)
_Month = tuple[int, int, int, int]


class CronWalk:
    """One expression in one zone: ``next_after`` and, in integers, ``first_from``."""

    __slots__ = (
        "_covers_hours",
        "_covers_minutes",
        "_days",
        "_first_second",
        "_fold",
        "_is_dense",
        "_is_fixed",
        "_month",
        "_months",
        "_seconds",
        "_shifts",
        "_span",
        "_starts",
        "_today",
        "_zone",
    )

    def __init__(self, spec: CronSpec, where: Zone, gap: Gap, fold: Fold) -> None:
        self._days = spec.days
        self._months = spec.months
        self._seconds = spec.seconds
        self._first_second = _lowest(spec.seconds)
        self._starts = _minute_starts(spec.hours, spec.minutes)
        self._covers_minutes = not spec.has_seconds or spec.seconds == _SIXTY
        self._covers_hours = spec.minutes == _SIXTY
        self._is_fixed = spec.is_fixed
        self._shifts = spec.is_fixed and gap == "shift"
        self._fold = fold
        self._zone = where
        # A day with several times, all at a full minute, is worth standing in.
        self._is_dense = len(self._starts) > 1 and spec.seconds == 1
        self._today = (0, -1, 0)
        self._span = Span(0, 0, 0, 0, 0, 0)
        self._month: _Month = (0, 0, 0, 0)

    def next_after(self, after: datetime) -> datetime | None:
        """The first instant strictly after an aware one, in UTC; None when there is none.

        Raises: InvalidSchedule, field ``after``, for anything but an aware datetime.
        """
        try:
            elapsed = after - EPOCH
        except TypeError:
            raise InvalidSchedule("after", after, "must be a datetime with a time zone") from None
        second = elapsed.days * DAY + elapsed.seconds + 1
        low, high, midnight = self._today
        if low <= second <= high:
            return EPOCH + timedelta(0, midnight + self._starts[bisect_left(self._starts, second - midnight)])
        found = self.first_from(second if second > FIRST_SECOND else FIRST_SECOND)
        return None if found is None else EPOCH + timedelta(0, found)

    def clear_from(self, instant: datetime) -> datetime:
        """The instant itself when its local minute does not match; otherwise a later one, to go on from.

        With six fields it is the local second that is compared.
        """
        second = second_of(instant)
        span = self._zone.span_at(second)
        local = second + span.offset
        while local - span.offset < span.stop:
            end = self._match_end(local)
            if end == local:
                return instant_of(local - span.offset) if local > second + span.offset else instant
            local = end
        return instant_of(span.stop)

    def _match_end(self, local: int) -> int:
        """Where the matching day, hour, minute or second around a local second ends; itself when none is."""
        day, time = divmod(local, DAY)
        start = time - time % 60
        index = bisect_left(self._starts, start)
        if index == len(self._starts) or self._starts[index] != start or self._day_from(day) != day:
            return local
        if not self._covers_minutes:
            return local + 1 if self._seconds >> (time % 60) & 1 else local
        length = 60 if not self._covers_hours else 3600 if len(self._starts) < 1440 else DAY
        return local - local % length + length

    def first_from(self, second: int) -> int | None:
        """The first second of UTC that is due, this one or later; None past the calendar's end.

        The search covers 400 years: what has not come by then, never does.
        """
        span = self._span
        if not span.start <= second < span.stop:
            span = self._span = self._zone.span_at(second)
        found = self._within(span, second)
        if found is None:
            found = self._beyond(span.stop)
        elif self._is_dense:
            self._stand_in(span, found)
        return found if found is None or found <= LAST_SECOND else None

    def _stand_in(self, span: Span, second: int) -> None:
        """Until this day's last time that no change of offset touches, its table of times holds alone."""
        midnight = second - (second + span.offset) % DAY
        low = max(midnight, span.start + 1, span.first_seen_from - span.offset)
        stop = min(span.stop, span.seen_again_from - span.offset, LAST_SECOND + 1)
        index = bisect_left(self._starts, stop - midnight)
        if index:
            self._today = (low, midnight + self._starts[index - 1], midnight)

    def _beyond(self, second: int) -> int | None:
        last = min(second + _CYCLE_DAYS * DAY, LAST_SECOND)
        while second <= last:
            # Over years without a match it is the calendar that is searched, not the zone.
            day = self._day_from((second - _FURTHEST_OFFSET) // DAY)
            if day is None:
                return None
            second = max(second, day * DAY - _FURTHEST_OFFSET)
            if second > last:
                return None
            span = self._zone.span_at(second)
            found = self._within(span, second)
            if found is not None:
                self._span = span
                return found
            second = span.stop
        return None

    def _within(self, span: Span, second: int) -> int | None:
        """The first second that is due in what is left of a span."""
        low = second + span.offset
        high = span.stop + span.offset
        if self._is_fixed:
            if self._shifts and second == span.start and self._is_any_missed(span):
                return second
            if self._fold == "first":
                low = max(low, span.first_seen_from)
            elif self._fold == "last":
                high = min(high, span.seen_again_from)
        local = self._local_from(low)
        return local - span.offset if local is not None and local < high else None

    def _is_any_missed(self, span: Span) -> bool:
        begin = span.start + span.offset
        if span.missing_from == begin:
            return False
        local = self._local_from(span.missing_from)
        return local is not None and local < begin

    def _local_from(self, local: int) -> int | None:
        """The first local second that matches, this one or later."""
        day, time = divmod(local, DAY)
        first, end, chosen, _ = self._month
        if not (first <= day < end and chosen >> (day - first) & 1):
            found = self._day_from(day)
            if found is None:
                return None
            if found != day:
                return found * DAY + self._starts[0] + self._first_second
        later = self._time_from(time)
        if later is not None:
            return day * DAY + later
        following = self._day_from(day + 1)
        return None if following is None else following * DAY + self._starts[0] + self._first_second

    def _time_from(self, time: int) -> int | None:
        """The first second of the day that matches, this one or later."""
        starts = self._starts
        if self._seconds == 1:
            index = bisect_left(starts, time)
            return starts[index] if index < len(starts) else None
        index = bisect_right(starts, time)
        if index:
            passed = time - starts[index - 1]
            later = self._seconds >> passed if passed < 60 else 0
            if later:
                return time + _lowest(later)
        return starts[index] + self._first_second if index < len(starts) else None

    def _day_from(self, day: int) -> int | None:
        """The first day that is chosen, counted from 1970-01-01, this one or later."""
        month = self._month
        if not month[0] <= day < month[1]:
            month = self._month_of(day)
        for _ in range(_CYCLE_MONTHS):
            first, end, chosen, _index = month
            later = chosen >> (day - first)
            if later:
                self._month = month
                return day + (later & -later).bit_length() - 1
            day = end
            month = self._month_after(month)
        return None

    def _month_of(self, day: int) -> _Month:
        # Days outside the years 1 to 9999 are folded into them by whole cycles.
        cycles, ordinal = divmod(day + _EPOCH_ORDINAL - 1, _CYCLE_DAYS)
        that = date.fromordinal(ordinal + 1)
        return self._shape(day - that.day + 1, (that.year + 400 * cycles) * 12 + that.month - 1)

    def _month_after(self, month: _Month) -> _Month:
        return self._shape(month[1], month[3] + 1)

    def _shape(self, first: int, index: int) -> _Month:
        year, month = divmod(index, 12)
        length = _LENGTHS[month]
        if month == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
            length = 29
        chosen = 0
        if self._months >> (month + 1) & 1:
            weekday = (first + 4) % 7  # 1970-01-01 was a Thursday, and Sunday is 0
            chosen = self._days.in_month(length, weekday) >> 1
        return first, first + length, chosen, index


@lru_cache(maxsize=4096)
def walk(expression: str, tz: str, gap: Gap = "shift", fold: Fold = "first") -> CronWalk:
    """The walk of an expression in a zone, parsed once.

    Raises: InvalidSchedule, naming the field, for an expression, zone or option that is refused.
    """
    spec = parse(expression)
    where = zone(tz)
    if gap not in ("shift", "skip"):
        raise InvalidSchedule("gap", gap, "must be 'shift' or 'skip'")
    if fold not in ("first", "last", "both"):
        raise InvalidSchedule("fold", fold, "must be 'first', 'last' or 'both'")
    return CronWalk(spec, where, gap, fold)


@lru_cache(maxsize=256)
def _minute_starts(hours: int, minutes: int) -> tuple[int, ...]:
    """The seconds of the day at which a matching minute begins, in order."""
    return tuple(
        hour * 3600 + minute * 60
        for hour in range(24)
        if hours >> hour & 1
        for minute in range(60)
        if minutes >> minute & 1
    )


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
