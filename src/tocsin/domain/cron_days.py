"""Which days of a month a cron expression's two day fields choose.

A month is known by its length and the weekday of its first day: 28 shapes in all, each of
which the Gregorian calendar's cycle of 400 years meets. A rule that chooses no day in any
shape of its months can therefore never match.
"""

from dataclasses import dataclass

#: The shortest and the longest that each month may be; month 1 is at index 1.
_LENGTHS = ((), (31,), (28, 29), (31,), (30,), (31,), (30,), (31,), (31,), (30,), (31,), (30,), (31,))
_WEEKLY = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28
_WHOLE_WEEK = 0x7F
_EVERY_MONTH_HAS = (1 << 29) - 2
_SATURDAY, _SUNDAY = 6, 0


@dataclass(frozen=True, slots=True)
class DayRule:
    """The days two fields choose; bit n of a set stands for n, and Sunday is weekday 0.

    ``last_offsets`` holds n of ``L-n``, ``nearest`` n of ``nW``; ``nth`` is empty or holds the
    weekdays of ``d#1`` to ``d#5``; ``both``: a day must satisfy the two fields, not only one.
    """

    dates: int
    last_offsets: int
    nearest: int
    last_workday: bool
    weekdays: int
    nth: tuple[int, ...]
    last_weekdays: int
    both: bool

    def in_month(self, length: int, first: int) -> int:
        """The days chosen in a month of this length that begins on this weekday, as bits 1 to 31."""
        whole = (2 << length) - 2
        dates = self.dates & whole
        if self.last_offsets or self.nearest or self.last_workday:
            dates |= self._special_dates(length, first)
        weekdays = whole if self.weekdays == _WHOLE_WEEK else self._on_weekdays(length, first) & whole
        return dates & weekdays if self.both else dates | weekdays

    def can_match(self, months: int) -> bool:
        """Whether any of these months has, in some year, a day that is chosen."""
        if self.dates & _EVERY_MONTH_HAS and self.weekdays:
            return True
        lengths = {length for month in _members(months) for length in _LENGTHS[month]}
        return any(self.in_month(length, first) for length in lengths for first in range(7))

    def _special_dates(self, length: int, first: int) -> int:
        days = 0
        for offset in _members(self.last_offsets):
            if offset < length:
                days |= 1 << (length - offset)
        for date in _members(self.nearest):
            if date <= length:  # a month without that date is left out, as it is for the date alone
                days |= 1 << _nearest_workday(date, length, first)
        if self.last_workday:
            days |= 1 << _nearest_workday(length, length, first)
        return days

    def _on_weekdays(self, length: int, first: int) -> int:
        days = 0
        for weekday in _members(self.weekdays):
            days |= _WEEKLY << _first_date(weekday, first)
        for week, weekdays in enumerate(self.nth):
            for weekday in _members(weekdays):
                days |= 1 << (_first_date(weekday, first) + 7 * week)
        for weekday in _members(self.last_weekdays):
            date = _first_date(weekday, first)
            days |= 1 << (date + (length - date) // 7 * 7)
        return days


def _first_date(weekday: int, first: int) -> int:
    return 1 + (weekday - first) % 7


def _nearest_workday(date: int, length: int, first: int) -> int:
    """Monday to Friday nearest to a date, without leaving its month."""
    weekday = (first + date - 1) % 7
    if weekday == _SATURDAY:
        return date - 1 if date > 1 else date + 2
    if weekday == _SUNDAY:
        return date + 1 if date < length else date - 2
    return date


def _members(bits: int) -> list[int]:
    return [value for value in range(bits.bit_length()) if bits >> value & 1]
