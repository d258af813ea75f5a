"""The load ahead: how many fires fall where, from the schedules alone.

Pure and bounded: no more occurrences are looked at than the caller allows, shared fairly, so that one
trigger of every second does not hide the others.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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
    fires: dict[datetime, list[str]] = {}
    cut: list[str] = []
    left = limit
    for index, trigger in enumerate(triggers):
        # What the first ones leave over goes to those behind them.
        share = left // (len(triggers) - index)
        instants = _instants(trigger, since, until, share + 1)
        if len(instants) > share:
            instants = instants[:share]
            cut.append(trigger.name)
        left -= len(instants)
        for at in instants:
            fires.setdefault(at, []).append(trigger.name)
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
        cut=tuple(cut),
    )


def _instants(trigger: Planned, since: datetime, until: datetime, limit: int) -> list[datetime]:
    """Effective instants, jitter included, at most ``limit`` of them."""
    schedule = trigger.schedule
    phase = trigger.phase if trigger.phase is not None else schedule.phase(trigger.name)
    rule = schedule.rules[0]
    if isinstance(rule, Every) and rule.after_completion:
        # Its instants hang on how long its runs take; only the next one is known.
        return [trigger.next_at] if trigger.next_at is not None and since < trigger.next_at <= until else []
    return [at + phase for at in schedule.occurrences(since - phase, until - phase, limit)]


def _crowds(groups: Sequence[tuple[datetime, list[str]]], shown: int) -> tuple[Crowd, ...]:
    fullest = sorted(groups, key=lambda group: (-len(group[1]), group[0]))[:shown]
    return tuple(Crowd(at, len(names), tuple(sorted(set(names))[:NAMES_SHOWN])) for at, names in fullest)
