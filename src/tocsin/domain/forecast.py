"""The load ahead: how many fires fall where, from the schedules alone.

Pure and bounded: no more occurrences are looked at than the caller allows, shared fairly, so that one
trigger of every second does not hide the others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from tocsin.domain.rules import Every
from tocsin.domain.schedule import Schedule

MOST_OCCURRENCES: Final = 200_000
HERD: Final = 50
"""So many fires within one second are a herd."""

NAMES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Planned:
    """A trigger as the forecast needs it. next_at: its first undecided occurrence, when it has one.

    phase: its share of its jitter; None takes one that is as good as any.
    """

    name: str
    schedule: Schedule
    next_at: datetime | None = None
    phase: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Crowd:
    """Fires that fall together. names: some of the triggers, the first by name; count: of all fires."""

    at: datetime
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """minutes: fires of each minute that has any, oldest first. collisions: same instant, fullest first.

    herds: seconds with at least ``HERD`` fires. cut: names of triggers that were not followed to the
    end, because the whole would have been more than ``MOST_OCCURRENCES``.
    """

    since: datetime
    until: datetime
    triggers: int
    total: int
    minutes: tuple[tuple[datetime, int], ...]
    collisions: tuple[Crowd, ...]
    collision_instants: int
    herds: tuple[Crowd, ...]
    cut: tuple[str, ...]

    def busiest(self, count: int) -> list[tuple[datetime, int]]:
        """The fullest minutes, the fullest first."""
        return sorted(self.minutes, key=lambda minute: (-minute[1], minute[0]))[:count]

    def hours(self) -> list[tuple[datetime, int]]:
        """Fires of each hour from the first to the last, also of those that have none."""
        counts: Counter[datetime] = Counter()
        for minute, fires in self.minutes:
            counts[minute.replace(minute=0)] += fires
        hour = self.since.replace(minute=0, second=0, microsecond=0)
        found = []
        while hour < self.until:
            found.append((hour, counts[hour]))
            hour += timedelta(hours=1)
        return found


def forecast(
    planned: Iterable[Planned],
    since: datetime,
    until: datetime,
    *,
    limit: int = MOST_OCCURRENCES,
    herd: int = HERD,
    shown: int = 10,
) -> Forecast:
    """What is due in ``since < t <= until``. limit: occurrences looked at; shown: crowds that are named."""
    triggers = list(planned)
    fires, cut = _fires(triggers, since, until, limit)
    minutes: Counter[datetime] = Counter()
    seconds: dict[datetime, list[str]] = {}
    for at, names in fires.items():
        minutes[at.replace(second=0, microsecond=0)] += len(names)
        seconds.setdefault(at.replace(microsecond=0), []).extend(names)
    together = [(at, names) for at, names in fires.items() if len(names) > 1]
    return Forecast(
        since=since,
        until=until,
        triggers=len(triggers),
        total=sum(minutes.values()),
        minutes=tuple(sorted(minutes.items())),
        collisions=_crowds(together, shown),
        collision_instants=len(together),
        herds=_crowds([(at, names) for at, names in seconds.items() if len(names) >= herd], shown),
        cut=cut,
    )


def _fires(
    triggers: Sequence[Planned], since: datetime, until: datetime, limit: int
) -> tuple[dict[datetime, list[str]], tuple[str, ...]]:
    """Names by instant, at most ``limit`` in all, and the triggers that were not followed to the end.

    All have the same share; what some leave over is shared again among those that want more.
    """
    fires: dict[datetime, list[str]] = {}
    going = [(trigger.name, _instants(trigger, since, until)) for trigger in triggers]
    left = limit
    while left and going:
        share = max(1, left // len(going))
        more = []
        for name, instants in going:
            taken = 0
            for at in islice(instants, min(share, left)):
                fires.setdefault(at, []).append(name)
                taken += 1
            left -= taken
            if taken == share or not left:
                more.append((name, instants))
        going = more
    return fires, tuple(name for name, instants in going if next(instants, None) is not None)


def _instants(trigger: Planned, since: datetime, until: datetime) -> Iterator[datetime]:
    """Effective instants, jitter included."""
    schedule = trigger.schedule
    phase = trigger.phase if trigger.phase is not None else schedule.phase(trigger.name)
    rule = schedule.rules[0]
    if isinstance(rule, Every) and rule.after_completion:
        # Its instants hang on how long its runs take; only the next one is known.
        if trigger.next_at is not None and since < trigger.next_at <= until:
            yield trigger.next_at
        return
    for at in schedule.occurrences(since - phase, until - phase, MOST_OCCURRENCES + 1):
        yield at + phase


def _crowds(groups: Sequence[tuple[datetime, list[str]]], shown: int) -> tuple[Crowd, ...]:
    fullest = sorted(groups, key=lambda group: (-len(group[1]), group[0]))[:shown]
    return tuple(Crowd(at, len(names), tuple(sorted(set(names))[:NAMES_SHOWN])) for at, names in fullest)
