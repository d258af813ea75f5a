"""What one replica counts of itself, as it happens: plain numbers, in no library's form.

Told in batches on the event loop; whoever reads takes a snapshot there, too. Only a lost lease is told on another
thread, which alone writes that count. There is one metric for each field; see docs/how-to/monitoring.md.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Final, Self, TypeVar

from tocsin.clock import host_now
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import RunKind, RunState, SkipReason, StopReason
from tocsin.engine.hands import Hand
from tocsin.engine.observer import Unobserved
from tocsin.store.attempts import Ended
from tocsin.store.runs import Swept
from tocsin.store.trigger_rows import Decision

K = TypeVar("K")

OTHER: Final = "other"
"""What stands for all that would be one too many."""

WAITS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LENGTHS: Final = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REASONS: Final = frozenset(
    {"", "overran", "deadline", "error", "fatal", "retry", "retry_after", "lost", "poisoned", "withdrawn"}
    | {reason.value for reason in (*StopReason, *SkipReason)}
)
"""Of ends; whatever else comes up is ``other``."""


class Bounded:
    """Names as labels: the first so many that come up, and ``other`` for the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        label = self._known.get(name)
        if label is None:
            if len(self._known) >= self._limit:
                return OTHER
            label = self._known[name] = name
        return label


@dataclass(slots=True)
class Spread:
    """How often a figure was no more than each bound, and the sum of all. The last place is for what is beyond."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, figures: list[float]) -> None:
        """figures: sorted by this. What two clocks make negative is none."""
        figures.sort()
        below = 0
        for place, bound in enumerate(self.bounds):
            if below == len(figures):
                break
            upto = bisect_right(figures, bound, below)
            self.counts[place] += upto - below
            below = upto
        self.counts[-1] += len(figures) - below
        self.sum += sum(figures) if figures[0] >= 0 else sum(max(0.0, figure) for figure in figures)

    def __copy__(self) -> "Spread":
        return Spread(self.bounds, list(self.counts), self.sum)


@dataclass(slots=True)
class Counts:
    """Everything that is counted, by its labels."""

    lateness: dict[tuple[str, str], Spread] = field(default_factory=dict)
    trigger_lateness: dict[str, tuple[int, float]] = field(default_factory=dict)
    waits: dict[str, Spread] = field(default_factory=dict)
    durations: dict[str, Spread] = field(default_factory=dict)
    lag: Spread = field(default_factory=lambda: Spread(LAGS))
    ended: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    requeued: Counter[tuple[str, str]] = field(default_factory=Counter)
    swept: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: int = 0
    fenced: int = 0
    leases: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    hook_calls: Counter[str] = field(default_factory=Counter)
    successes: dict[str, float] = field(default_factory=dict)

    def snapshot(self) -> Self:
        """The same as of now, which nothing changes any more."""
        kept = copy(self)
        for one in fields(self):
            setattr(kept, one.name, copy(getattr(self, one.name)))
        for spreads in (kept.lateness, kept.waits, kept.durations):
            for labels, spread in spreads.items():
                spreads[labels] = copy(spread)  # type: ignore[index]  # each dictionary's own keys
        return kept


class Tally(Unobserved):
    """An observer. limit: how many triggers, and how many agents, are told apart."""

    def __init__(self, *, limit: int) -> None:
        self.counts = Counts()
        self.triggers = Bounded(limit)
        self.agents = Bounded(limit)

    def decided(self, decisions: Sequence[Decision]) -> None:
        counts, label = self.counts, self.triggers.of
        for decision in decisions:
            if decision.broken_reason is not None:
                self.broken(decision.trigger.name)
            elif decision.plan is not None:
                if decision.run_ids:
                    counts.fired[label(decision.trigger.name)] += len(decision.run_ids)
                for skip in decision.plan.skips:
                    self.skipped(decision.trigger.name, skip.reason.value, skip.count)

    def begun(self, assignments: Sequence[Assignment]) -> None:
        """In groups of what has the same labels: a batch may have hundreds of runs, and mostly of one trigger."""
        alike: dict[tuple[str, str, str, str], list[float]] = {}
        for one in assignments:
            available_at = one.available_at
            if available_at is None or available_at != one.effective_at or one.fence > 1:
                self._begun(one)
                continue
            key = (one.trigger, one.agent, one.kind, one.lane)
            waits = alike.get(key)
            if waits is None:
                waits = alike[key] = []
            waits.append((one.started_at - available_at).total_seconds())
        for (trigger, agent, kind, lane), waits in alike.items():
            _spread(self.counts.waits, self.agents.of(agent), WAITS).add(waits)
            self._late(trigger, kind, lane, waits)

    def _begun(self, one: Assignment) -> None:
        """It had waited for something else than its instant: a retry, or caught up."""
        if one.available_at is not None:
            wait = (one.started_at - one.available_at).total_seconds()
            _spread(self.counts.waits, self.agents.of(one.agent), WAITS).add([wait])
        if one.fence == 1:
            self._late(one.trigger, one.kind, one.lane, [(one.started_at - one.effective_at).total_seconds()])

    def _late(self, trigger: str, kind: str, lane: str, seconds: list[float]) -> None:
        if kind == RunKind.BACKFILL:
            return
        counts, label = self.counts, self.triggers.of(trigger)
        _spread(counts.lateness, (kind, lane), WAITS).add(seconds)
        times, total = counts.trigger_lateness.get(label, (0, 0.0))
        counts.trigger_lateness[label] = times + len(seconds), total + sum(seconds)

    def ended(self, ends: Sequence[tuple[Hand | None, Ended]], *, at: float) -> None:
        """In groups, too."""
        alike: dict[tuple[str, str, RunState, str | None], list[float]] = {}
        for hand, end in ends:
            settlement = end.settlement
            if hand is None or hand.task is None:
                self._given_back(hand, end)
                continue
            one = hand.assignment
            key = (one.trigger, one.agent, settlement.state, settlement.reason)
            lengths = alike.get(key)
            if lengths is None:
                lengths = alike[key] = []
            lengths.append(at - hand.begun_at)
        now = host_now().timestamp()
        for (trigger, agent, state, reason), lengths in alike.items():
            label, of_agent = self.triggers.of(trigger), self.agents.of(agent)
            _spread(self.counts.durations, of_agent, LENGTHS).add(lengths)
            self._ended(label, of_agent, state, _reason(reason), len(lengths))
            if state is RunState.SUCCEEDED and label != OTHER:
                self.counts.successes[label] = now

    def _given_back(self, hand: Hand | None, end: Ended) -> None:
        """It was not begun here, or nobody knows."""
        label = OTHER if hand is None else self.triggers.of(hand.assignment.trigger)
        agent = OTHER if hand is None else self.agents.of(hand.assignment.agent)
        self._ended(label, agent, end.settlement.state, _reason(end.settlement.reason))

    def _ended(self, trigger: str, agent: str, state: str, reason: str, count: int = 1) -> None:
        if state == RunState.QUEUED:
            self.counts.requeued[agent, reason] += count
        else:
            self.counts.ended[trigger, agent, str(state), reason] += count

    def fenced(self, ends: Sequence[Ended]) -> None:
        self.counts.fenced += len(ends)

    def broken(self, trigger: str) -> None:
        self.counts.broken += 1

    def fired(self, trigger: str) -> None:
        self.counts.fired[self.triggers.of(trigger)] += 1

    def skipped(self, trigger: str, reason: str, count: int = 1) -> None:
        self.counts.skipped[self.triggers.of(trigger), _reason(reason)] += count

    def swept(self, runs: Sequence[Swept]) -> None:
        for run in runs:
            reason = _reason(run.reason)
            self.counts.swept[reason] += 1
            self._ended(self.triggers.of(run.trigger), self.agents.of(run.agent), run.state, reason)

    def lease_lost(self, how: str) -> None:
        self.counts.leases[how] += 1

    def judged(self, verdict: str) -> None:
        self.counts.verdicts[verdict] += 1

    def hooked(self, answer: str) -> None:
        """A webhook's call was answered: accepted, duplicate, or with the code of a refusal."""
        self.counts.hook_calls[answer] += 1

    def lagged(self, seconds: float) -> None:
        self.counts.lag.add([seconds])


def _spread(spreads: dict[K, Spread], key: K, bounds: tuple[float, ...]) -> Spread:
    found = spreads.get(key)
    if found is None:
        found = spreads[key] = Spread(bounds)
    return found


def _reason(reason: str | None) -> str:
    return (reason or "") if (reason or "") in REASONS else OTHER
