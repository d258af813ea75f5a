"""A cron expression, read into bit sets.

Five fields (minute, hour, day of month, month, day of week) or six with the seconds in
front. Days follow Debian's cron: a day matches when the day of month OR the day of week
does, but both must when either field starts with ``*`` (or is ``?``).

Source: Debian crontab(5); ``L``, ``W`` and ``#`` as in Quartz.
"""

import re
from dataclasses import dataclass

from tocsin.domain.cron_days import DayRule
from tocsin.domain.errors import InvalidSchedule

MAX_LENGTH = 1_000

_SPACE = re.compile(r"[ \t\r\n\f\v]+")
_ITEM = re.compile(r"(?:\*|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]+))?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class _Field:
    """One field's bounds; its names stand for ``low`` and up, ``kinds`` for what else it takes."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    kinds: str = ""

    @property
    def bounds(self) -> str:
        words = f" or {self.names[0]}–{self.names[-1]}" if self.names else ""
        return f"must be {self.low}–{self.high}{words}{self.kinds}"


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31, kinds=", L, L-n, LW or nW")
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 0, 7, _WEEKDAYS, ", d#n or dL")


@dataclass(frozen=True, slots=True)
class CronSpec:
    """What an expression matches: bit n of a set stands for the value n.

    ``is_fixed`` holds when neither minutes nor hours have a wildcard or a step: such a rule
    names times of day, and every one of them is due exactly once whatever the clocks do.
    """

    seconds: int
    minutes: int
    hours: int
    months: int
    days: DayRule
    is_fixed: bool
    has_seconds: bool


def parse(expression: str) -> CronSpec:
    """The bit sets of an expression.

    Raises: InvalidSchedule, naming the field, for one that is malformed or can never match.
    """
    texts = _split(expression)
    second, minute, hour, day, month, weekday = texts if len(texts) == 6 else ["0", *texts]
    spec = CronSpec(
        seconds=1 if second == "0" else _set(_SECOND, second),
        minutes=_set(_MINUTE, minute),
        hours=_set(_HOUR, hour),
        months=_set(_MONTH, month),
        days=_days(day, weekday),
        is_fixed=not any(mark in text for text in (minute, hour) for mark in "*/"),
        has_seconds=len(texts) == 6,
    )
    if not spec.days.can_match(spec.months):
        raise InvalidSchedule("day of month", day, f"never falls on a day that month {month!r} has")
    return spec


def _split(expression: str) -> list[str]:
    """Five or six fields, in lower case."""
    if not isinstance(expression, str):
        raise InvalidSchedule("cron", expression, "must be a string of five or six fields")
    if len(expression) > MAX_LENGTH:
        raise InvalidSchedule("cron", expression[:40] + "…", f"must be at most {MAX_LENGTH:,} characters")
    if not expression.isascii():
        strange = next(char for char in expression if not char.isascii())
        raise InvalidSchedule("cron", expression, f"must be plain ASCII, without {strange!r}")
    text = expression.strip(" \t\r\n\f\v").lower()
    if text.startswith("@"):
        text = _macro(text)
    texts = _SPACE.split(text) if text else []
    if len(texts) not in (5, 6):
        raise InvalidSchedule("cron", expression, f"must have five fields, or six with seconds, not {len(texts)}")
    return texts


def _macro(text: str) -> str:
    if text == "@reboot":
        raise InvalidSchedule("cron", text, "names no time; run on start instead")
    if text not in _MACROS:
        raise InvalidSchedule("cron", text, f"must be one of {', '.join(_MACROS)}")
    return _MACROS[text]


def _set(which: _Field, text: str) -> int:
    """The bits of a field that is a list of values, ranges and steps."""
    if text == "*":
        return (2 << which.high) - (1 << which.low)
    bits = 0
    for item in text.split(","):
        bits |= _item(which, item)
    return bits


def _item(which: _Field, item: str) -> int:
    found = _ITEM.fullmatch(item)
    if found is None:
        raise _unreadable(which, item)
    first, last, step = found.groups()
    start = which.low if first is None else _value(which, first)
    if last is not None:
        stop = _range_end(which, start, last)
    else:
        # ``5/15`` runs from 5 to the end of the field.
        stop = start if step is None and first is not None else which.high
    if stop < start:
        raise InvalidSchedule(which.name, item, "must not run backwards; write two ranges")
    if step is None:
        return (2 << stop) - (1 << start)
    if not int(step):
        raise InvalidSchedule(which.name, item, "must have a step of 1 or more")
    bits = 0
    for value in range(start, stop + 1, int(step)):
        bits |= 1 << value
    return bits


def _value(which: _Field, text: str) -> int:
    if text in which.names:
        return which.low + which.names.index(text)
    value = int(text) if text.isdigit() else -1
    if not which.low <= value <= which.high:
        raise InvalidSchedule(which.name, text, which.bounds)
    return value


def _range_end(which: _Field, start: int, text: str) -> int:
    """Sunday at the end of a range is day 7, so that ``sat-sun`` is a weekend."""
    if text == "sun" and start and which is _WEEKDAY:
        return 7
    return _value(which, text)


def _unreadable(which: _Field, item: str) -> InvalidSchedule:
    if not item:
        return InvalidSchedule(which.name, item, "must not be empty, nor hold an empty item")
    if item == "?" and which in (_DAY, _WEEKDAY):
        return InvalidSchedule(which.name, item, "must stand alone in its field")
    if item.startswith("?"):
        return InvalidSchedule(which.name, item, "must be in a day field, and alone there")
    return InvalidSchedule(which.name, item, which.bounds)


def _days(day: str, weekday: str) -> DayRule:
    dates, last_offsets, nearest = _dates(day)
    weekdays, nth, last_weekdays = _weekdays(weekday)
    return DayRule(
        dates=dates,
        last_offsets=last_offsets,
        nearest=nearest,
        last_workday="lw" in day.split(","),
        weekdays=weekdays,
        nth=nth,
        last_weekdays=last_weekdays,
        both=day[0] in "*?" or weekday[0] in "*?",
    )


def _dates(text: str) -> tuple[int, int, int]:
    """Dates, distances from the month's last day (``L-n``), and dates of ``nW``."""
    if text == "?":
        text = "*"
    if "l" not in text and "w" not in text:
        return _set(_DAY, text), 0, 0
    dates = last_offsets = nearest = 0
    for item in text.split(","):
        if item == "l":
            last_offsets |= 1
        elif item.startswith("l-") and item[2:].isdigit():
            last_offsets |= 1 << _offset(item)
        elif item.endswith("w") and item[:-1].isdigit():
            nearest |= 1 << _value(_DAY, item[:-1])
        elif item != "lw":
            dates |= _item(_DAY, item)
    return dates, last_offsets, nearest


def _offset(item: str) -> int:
    distance = int(item[2:])
    if distance > 30:
        raise InvalidSchedule(_DAY.name, item, "must be L-0 to L-30")
    return distance


def _weekdays(text: str) -> tuple[int, tuple[int, ...], int]:
    """Days of the week; those of ``d#1`` … ``d#5``; those of ``dL``. Sunday is 0."""
    if text == "?":
        text = "*"
    if "#" not in text and "l" not in text:
        return _sunday_is_zero(_set(_WEEKDAY, text)), (), 0
    weekdays = last = 0
    nth = [0] * 5
    for item in text.split(","):
        name, mark, count = item.partition("#")
        if mark:
            if count not in {"1", "2", "3", "4", "5"}:
                raise InvalidSchedule(_WEEKDAY.name, item, "must be d#1 to d#5")
            nth[int(count) - 1] |= 1 << _value(_WEEKDAY, name)
        elif item.endswith("l") and item != "l":
            last |= 1 << _value(_WEEKDAY, item[:-1])
        else:
            weekdays |= _item(_WEEKDAY, item)
    return _sunday_is_zero(weekdays), tuple(_sunday_is_zero(bits) for bits in nth), _sunday_is_zero(last)


def _sunday_is_zero(bits: int) -> int:
    return (bits | bits >> 7) & 0x7F
