"""Lengths of time as people write them: ``90s``, ``5m``, ``1h30m``, ``2d``, ``500ms``."""

import re
from datetime import timedelta
from fractions import Fraction

from tocsin.domain.errors import BadInput

LONGEST = timedelta(days=36_525)

_UNITS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
_PART = re.compile(r" ?([0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|us|w|d|h|m|s)")
_WRITTEN = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str | int | float | timedelta) -> timedelta:
    """The length of time written; a bare number counts seconds. To the microsecond, never negative.

    Raises: BadInput, for anything else, and for more than 100 years.
    """
    length = _length(text)
    if length < timedelta(0):
        raise BadInput(f"duration {text!r}: must not be negative")
    if length > LONGEST:
        raise BadInput(f"duration {text!r}: must be at most 100 years")
    return length


def format_duration(length: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as this length, such as ``1h30m``."""
    rest = length // timedelta(microseconds=1)
    if rest < 0:
        raise BadInput(f"duration {length!r}: must not be negative")
    written = ""
    for unit, size in _UNITS.items():
        if unit == "w":  # days read better than weeks
            continue
        count, rest = divmod(rest, size)
        if count:
            written += f"{count}{unit}"
    return written or "0s"


def _length(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return timedelta(microseconds=_microseconds(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unreadable(value)
    if not abs(value) <= LONGEST.total_seconds():  # so that NaN is refused too
        raise BadInput("duration: must be a number of seconds, at most 100 years")
    return timedelta(seconds=value)


def _microseconds(text: str) -> int:
    stripped = text.strip(" ")
    if len(stripped) > 200 or not _WRITTEN.fullmatch(stripped):
        raise _unreadable(text)
    total = sum(Fraction(number) * _UNITS[unit] for number, unit in _PART.findall(stripped))
    if total > LONGEST // timedelta(microseconds=1):
        raise BadInput(f"duration {text!r}: must be at most 100 years")
    return round(total)


def _unreadable(value: object) -> BadInput:
    return BadInput(f"duration {value!r}: must be a number of seconds, or text such as '90s', '5m' or '1h30m'")
