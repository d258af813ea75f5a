"""When a trigger is due: a union of rules, minus exceptions, cut by bounds.

A schedule is one pure function, ``next_after(t) > t``, used alike for firing, preview,
backfill, forecast and simulation. Build one with `cron`, `every` or `at`, and join
schedules with ``|``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import pairwise

from tocsin.domain import schedule_json
from tocsin.domain.cron_walk import Fold, Gap, walk
from tocsin.domain.duration import LONGEST, parse_duration
from tocsin.domain.errors import BadInput, InvalidSchedule
from tocsin.domain.rules import (
    MICROSECOND,
    At,
    Cron,
    Every,
    Except,
    ExceptCron,
    ExceptDates,
    ExceptInput,
    Rule,
    check_kind,
    find_walk,
    in_utc,
    read_excepts,
)
from tocsin.domain.zone import EPOCH, LAST_INSTANT

MAX_RULES = 100
MAX_EXCEPTS = 1_000
MAX_OCCURRENCES = 100_000
#: So many removed stretches in a row, or so long a time, end a schedule: its exceptions leave nothing.
MAX_REMOVALS = 10_000
LONGEST_REMOVAL = timedelta(days=36_525)
_PERIODS_SAMPLED = 32
#: The year from which on an instant and its jitter may lie beyond the calendar.
_LATE = LAST_INSTANT.year - 100


@dataclass(frozen=True, slots=True)
class Schedule:
    """Instants in UTC, to the microsecond; ``start_at`` and ``end_at`` are themselves included.

    ``max_occurrences`` counts from ``start_at``, which it requires. ``every`` counts from
    ``start_at``, else from the epoch. An ``every`` rule that counts ``after_completion``
    stands alone, and is asked with the end of the last run.
    """

    rules: tuple[Rule, ...]
    excepts: tuple[Except, ...] = ()
    start_at: datetime | None = None
    end_at: datetime | None = None
    max_occurrences: int | None = None
    jitter: timedelta = timedelta(0)
    # What max_occurrences comes to, found when first asked for.
    _counted_last: datetime | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_parts("rules", self.rules, (Cron, Every, At), at_least=1, at_most=MAX_RULES)
        _check_parts("except", self.excepts, (ExceptDates, ExceptCron), at_least=0, at_most=MAX_EXCEPTS)
        for name in ("start_at", "end_at"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, in_utc(name, value))
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise InvalidSchedule("end_at", self.end_at.isoformat(), "must not be before start_at")
        check_kind("jitter", self.jitter, timedelta)
        if not timedelta(0) <= self.jitter <= LONGEST:
            raise InvalidSchedule("jitter", self.jitter, "must be from 0 to 100 years")
        self._check_counts()

    def next_after(self, t: datetime) -> datetime | None:
        """The first occurrence strictly after an aware instant, in UTC; None when there is no more.

        Raises: InvalidSchedule, field ``after``, for an instant without a time zone.
        """
        found = self._first_after(t if type(t) is datetime and t.tzinfo is UTC else in_utc("after", t))
        # What jitter would move out of the calendar is never due; nor is its last instant, the store's infinity.
        if found is not None and found.year >= _LATE and found >= LAST_INSTANT - self.jitter:
            return None
        if found is None or (self.max_occurrences is None and self.end_at is None):
            return found
        last = self._last()
        return found if last is not None and found <= last else None

    def occurrences(self, after: datetime, until: datetime, limit: int = MAX_OCCURRENCES) -> Iterator[datetime]:
        """The occurrences in ``after < t <= until``, oldest first, at most ``limit`` of them."""
        end = in_utc("until", until)
        at = self.next_after(after)
        while at is not None and at <= end and limit > 0:
            yield at
            limit -= 1
            at = self.next_after(at) if limit else None

    def count(self, after: datetime, until: datetime, limit: int = MAX_OCCURRENCES) -> int:
        """How many occurrences lie in ``after < t <= until``; ``limit`` when there are more.

        Arithmetic for a single ``every`` without exceptions; otherwise counted one by one.
        """
        rule = self.rules[0]
        if len(self.rules) > 1 or self.excepts or not isinstance(rule, Every) or rule.after_completion:
            return sum(1 for _ in self.occurrences(after, until, limit))
        low, high = in_utc("after", after), in_utc("until", until)
        if self.start_at is not None:
            low = max(low, self.start_at - MICROSECOND)
        last = self._last()
        if last is not None:
            high = min(high, last)
        anchor = self.start_at or EPOCH
        return min(max(rule.index_of(high, anchor) - rule.index_of(low, anchor), 0), max(limit, 0))

    def period_at(self, t: datetime) -> timedelta | None:
        """The time between the next two occurrences after an instant; None when fewer are left."""
        first = self.next_after(t)
        second = self.next_after(first) if first is not None else None
        return second - first if first is not None and second is not None else None

    def phase(self, key: bytes | str) -> timedelta:
        """The delay of this key: stable, and spread evenly within min(jitter, shortest period).

        The shortest period is that of the first 32 occurrences from ``start_at``, else the epoch.
        """
        if not self.jitter:
            return timedelta(0)
        period = _shortest_period(self)
        width = self.jitter if period is None else min(self.jitter, period)
        digest = blake2b(key.encode() if isinstance(key, str) else key, digest_size=8).digest()
        return timedelta(microseconds=int.from_bytes(digest) * (width // MICROSECOND) >> 64)

    def to_json(self) -> dict[str, object]:
        """The canonical JSON form, without what has its default; `from_json` reads it back."""
        return schedule_json.dump(self)

    @classmethod
    def from_json(cls, obj: object) -> "Schedule":
        """The schedule of a JSON form.

        Raises: InvalidSchedule, naming the field, for any other shape, type, key or size.
        """
        return cls(**schedule_json.load(obj))

    def __or__(self, other: object) -> "Schedule":
        """Due whenever either is; both must have the same exceptions, bounds and jitter.

        Raises: InvalidSchedule, when they differ in more than their rules.
        """
        if not isinstance(other, Schedule):
            return NotImplemented
        if replace(other, rules=self.rules) != self:
            raise InvalidSchedule("rules", "|", "joins schedules with equal exceptions, bounds and jitter only")
        return replace(self, rules=tuple(dict.fromkeys(self.rules + other.rules)))

    def _check_counts(self) -> None:
        if self.max_occurrences is not None:
            if type(self.max_occurrences) is not int or not 1 <= self.max_occurrences <= MAX_OCCURRENCES:
                raise InvalidSchedule(
                    "max_occurrences",
                    self.max_occurrences,
                    f"must be a whole number from 1 to {MAX_OCCURRENCES:,}",
                )
            if self.start_at is None:
                raise InvalidSchedule("max_occurrences", self.max_occurrences, "needs start_at, from where it counts")
        if any(isinstance(rule, Every) and rule.after_completion for rule in self.rules):
            if len(self.rules) > 1:
                raise InvalidSchedule("after_completion", True, "must be the schedule's only rule")
            if self.max_occurrences is not None:
                raise InvalidSchedule("max_occurrences", self.max_occurrences, "cannot be known after_completion")

    def _last(self) -> datetime | None:
        """The last instant that the bounds allow; None when they allow any."""
        if self.max_occurrences is None:
            return self.end_at
        if self._counted_last is None:
            object.__setattr__(self, "_counted_last", self._nth(self.max_occurrences))
        counted = self._counted_last
        return counted if self.end_at is None or counted is None else min(counted, self.end_at)

    def _nth(self, number: int) -> datetime:
        """The occurrence with this number from ``start_at``, or the last instant of the calendar."""
        assert self.start_at is not None, "checked when the schedule was built"
        rule = self.rules[0]
        if len(self.rules) == 1 and isinstance(rule, Every) and not self.excepts:
            return rule.at_index(number - 1, self.start_at) or LAST_INSTANT
        at: datetime | None = self.start_at - MICROSECOND
        for _ in range(number):
            at = self._first_after(at) if at is not None else None
        return at if at is not None else LAST_INSTANT

    def _first_after(self, t: datetime) -> datetime | None:
        """The first occurrence after an instant in UTC, before ``end_at`` and the count are looked at."""
        rule = self.rules[0]
        if isinstance(rule, Every) and rule.after_completion:
            return self._after_completion(rule, t)
        if self.start_at is not None and t < self.start_at:
            t = self.start_at - MICROSECOND
        found = self._rule_after(t)
        if not self.excepts:
            return found
        for _ in range(MAX_REMOVALS):
            if found is None or found - t > LONGEST_REMOVAL:
                return None
            later = self._clear_from(found)
            if later == found:
                return found
            found = self._rule_after(later - MICROSECOND)
        return None

    def _after_completion(self, rule: Every, t: datetime) -> datetime | None:
        """A period after the last run's end; one that is taken away waits for its exception's end."""
        if self.start_at is not None and t < self.start_at:
            found: datetime | None = self.start_at
        else:
            found = rule.next_after(t, t)
        for _ in range(MAX_REMOVALS):
            if found is None or found - t > LONGEST_REMOVAL + rule.period:
                return None
            later = self._clear_from(found)
            if later == found:
                return found
            found = later
        return None

    def _rule_after(self, t: datetime) -> datetime | None:
        rule = self.rules[0]
        if len(self.rules) == 1 and isinstance(rule, Cron):
            return rule.next_after(t)
        anchor = self.start_at or EPOCH
        found = [rule.next_after(t, anchor) if isinstance(rule, Every) else rule.next_after(t) for rule in self.rules]
        return min((at for at in found if at is not None), default=None)

    def _clear_from(self, found: datetime) -> datetime:
        return max((rule.clear_from(found) for rule in self.excepts), default=found)


def cron(
    expr: str,
    tz: str = "UTC",
    *,
    gap: Gap = "shift",
    fold: Fold = "first",
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    max_occurrences: int | None = None,
    jitter: str | float | timedelta = 0,
    except_: ExceptInput | Sequence[ExceptInput] = (),
) -> Schedule:
    """A schedule of one cron expression in one zone; dates and cron in ``except_`` are read there too.

    Raises: InvalidSchedule, naming the field, for what is malformed or can never match.
    """
    return Schedule(
        (Cron(expr, tz, gap, fold),),
        read_excepts(except_, tz),
        start_at,
        end_at,
        max_occurrences,
        _length("jitter", jitter),
    )


def every(
    period: str | float | timedelta,
    *,
    after_completion: bool = False,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    max_occurrences: int | None = None,
    jitter: str | float | timedelta = 0,
    except_: ExceptInput | Sequence[ExceptInput] = (),
) -> Schedule:
    """A schedule of elapsed time, such as ``every("90s")``: since its anchor or the last run's end.

    Raises: InvalidSchedule, naming the field, for a period under 1 s and for whatever is malformed.
    """
    rule = _every(period, after_completion)
    return Schedule((rule,), read_excepts(except_, "UTC"), start_at, end_at, max_occurrences, _length("jitter", jitter))


def at(*instants: datetime | str, jitter: str | float | timedelta = 0) -> Schedule:
    """A schedule of single instants: aware datetimes, or ISO 8601 text with an offset.

    Raises: InvalidSchedule, field ``at``, for none at all and for one without an offset.
    """
    rule = At(tuple(schedule_json.instant("at", one) if isinstance(one, str) else one for one in instants))
    return Schedule((rule,), jitter=_length("jitter", jitter))


def next_after(expr: str, tz: str, after: datetime, *, gap: Gap = "shift", fold: Fold = "first") -> datetime | None:
    """The first instant strictly after ``after`` at which a cron expression is due in a zone, in UTC.

    ``after`` is aware, in any zone. None when nothing is due within 400 years or before the year 10000.

    Raises: InvalidSchedule, naming the field, for whatever is malformed or can never match.
    """
    try:
        found = walk(expr, tz, gap, fold)
    except TypeError:
        found = find_walk(expr, tz, gap, fold)
    return found.next_after(after)


def _check_parts(field: str, parts: object, kinds: tuple[type, ...], *, at_least: int, at_most: int) -> None:
    if not isinstance(parts, tuple) or not at_least <= len(parts) <= at_most:
        raise InvalidSchedule(field, parts, f"must be a tuple of {at_least} to {at_most:,}")
    for part in parts:
        check_kind(field, part, *kinds)


def _every(period: str | float | timedelta, after_completion: bool) -> Every:
    try:
        return Every(_length("every", period), after_completion)
    except InvalidSchedule as fault:
        # The period as it was written reads better than the length that was understood.
        raise InvalidSchedule("every", period, fault.reason) if fault.field == "every" else fault from None


def _length(field: str, value: str | float | timedelta) -> timedelta:
    try:
        return parse_duration(value)
    except BadInput as fault:
        raise InvalidSchedule(field, value, str(fault)) from fault


def _shortest_period(schedule: Schedule) -> timedelta | None:
    rule = schedule.rules[0]
    if isinstance(rule, Every) and len(schedule.rules) == 1:
        return rule.period
    start = (schedule.start_at or EPOCH) - MICROSECOND
    found = list(schedule.occurrences(start, LAST_INSTANT, _PERIODS_SAMPLED))
    return min((later - earlier for earlier, later in pairwise(found)), default=None)
