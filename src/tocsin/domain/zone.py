"""A time zone as spans of constant offset, in whole seconds since the epoch.

Between two changes of offset, local time is UTC plus a constant, so a search may
run in integers and ask the zone only where a span ends. Spans are found by probing
``zoneinfo``, lazily, one stretch of about a year at a time, and kept.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import metadata, resources
from zoneinfo import ZoneInfo

from tocsin.domain.errors import InvalidSchedule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400
FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
LAST_INSTANT = datetime.max.replace(tzinfo=UTC)

_STRETCH = 1 << 25  # about 388 days
# The offset changes of the IANA database lie almost a week apart or further; a probe
# every three days therefore meets each of them on its own.
_PROBE = 1 << 18
# A fold or a gap is at most a day long: whatever touches a stretch begins this near it.
_MARGIN = 2 * DAY
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")
_NOT_A_PLACE = frozenset({"localtime", "posixrules", "factory", "posix", "right"})
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds ``start <= s < stop`` of UTC with one offset; the other three are local seconds."""

    start: int
    stop: int
    offset: int
    #: Local times before this one have already happened once, under the offset before.
    first_seen_from: int
    #: Local times from this one on will happen once more, under the offset after.
    seen_again_from: int
    #: Local times from this one up to the span's own start never happen at all.
    missing_from: int


class Zone:
    """The spans of one IANA zone; found once, then remembered.

    info: the same rules as the datetime module takes them. ``ZoneInfo(key)`` may be of another release.
    """

    __slots__ = ("_stretches", "info", "key")

    def __init__(self, key: str, info: ZoneInfo) -> None:
        self.key = key
        self.info = info
        self._stretches: dict[int, tuple[Span, ...]] = {}

    def span_at(self, second: int) -> Span:
        """The span that holds this second of UTC."""
        index = second // _STRETCH
        spans = self._stretches.get(index)
        if spans is None:
            spans = self._stretches[index] = self._survey(index * _STRETCH)
        for span in spans:
            if second < span.stop:
                return span
        raise AssertionError("a stretch covers all of its seconds")

    def leave_days(self, instant: datetime, first: int, after: int) -> datetime:
        """This instant when it lies outside the local days ``first <= day < after``; otherwise a later one.

        Days are counted from 1970-01-01.
        """
        span = self.span_at(second_of(instant))
        day = (second_of(instant) + span.offset) // DAY
        if not first <= day < after:
            return instant
        return instant_of(min(after * DAY - span.offset, span.stop))

    def offset_at(self, second: int) -> int:
        """Local time minus UTC, in seconds; beyond the calendar's ends, that of its nearest day."""
        inside = min(max(second, FIRST_SECOND + DAY), LAST_SECOND - DAY)
        offset = self.info.fromutc((EPOCH + timedelta(seconds=inside)).replace(tzinfo=self.info)).utcoffset()
        assert offset is not None, "a ZoneInfo has an offset at every instant"
        return offset.days * DAY + offset.seconds

    def _survey(self, low: int) -> tuple[Span, ...]:
        """The spans of one stretch, cut to it, each knowing the changes on both its sides."""
        high = low + _STRETCH
        changes = self._changes(low - _MARGIN, high + _MARGIN)
        spans = []
        before = changes[0][1]
        for (start, offset), (stop, after) in zip(changes, [*changes[1:], (_NEVER, changes[-1][1])], strict=True):
            if stop > low and start < high:
                cut = max(start, low)
                spans.append(
                    Span(
                        start=cut,
                        stop=min(stop, high),
                        offset=offset,
                        first_seen_from=start + max(before, offset),
                        seen_again_from=stop + min(after, offset),
                        missing_from=start + min(before, offset) if start == cut else cut + offset,
                    )
                )
            before = offset
        return tuple(spans)

    def _changes(self, low: int, high: int) -> list[tuple[int, int]]:
        """From ``low`` and from each change on, the offset that then holds."""
        known = self.offset_at(low)
        found = [(low, known)]
        at = low
        while at < high:
            probe = min(at + _PROBE, high)
            offset = self.offset_at(probe)
            if offset != known:
                found.append((self._bisect(at, probe, known), offset))
                known = offset
            at = probe
        return found

    def _bisect(self, before: int, after: int, offset: int) -> int:
        while after - before > 1:
            middle = (before + after) // 2
            if self.offset_at(middle) == offset:
                before = middle
            else:
                after = middle
        return after


def second_of(instant: datetime) -> int:
    """Whole seconds from the epoch to an aware instant, rounded down."""
    elapsed = instant - EPOCH
    return elapsed.days * DAY + elapsed.seconds


def instant_of(second: int) -> datetime:
    """The instant that many seconds from the epoch, in UTC, or the calendar's last."""
    return EPOCH + timedelta(0, second) if second <= LAST_SECOND else LAST_INSTANT


def release() -> str:
    """Which release of the zones this process reads its instants from."""
    return metadata.version("tzdata")


@lru_cache(maxsize=1024)
def zone(key: str) -> Zone:
    """The zone of an IANA key such as ``Europe/Paris``.

    Raises: InvalidSchedule, field ``tz``, for anything else, a path or ``localtime`` included.
    """
    refusal = InvalidSchedule("tz", key, "must be the name of an IANA time zone, such as 'Europe/Paris'")
    if not _is_key(key):
        raise refusal
    try:
        return Zone(key, _read(key))
    except (LookupError, ValueError, OSError) as fault:  # a directory on the search path is an OSError
        raise refusal from fault


def _read(key: str) -> ZoneInfo:
    """The rules of the tzdata package that we depend on, whatever release the host has.

    zoneinfo alone prefers the host's files, and two replicas on two hosts would disagree on what is due.
    """
    with resources.files("tzdata").joinpath("zoneinfo", *key.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=key)


def _is_key(key: object) -> bool:
    if not isinstance(key, str) or len(key) > 64 or not _KEY.fullmatch(key):
        return False
    return key.partition("/")[0].lower() not in _NOT_A_PLACE
