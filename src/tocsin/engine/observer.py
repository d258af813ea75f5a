"""Who is told what a replica does, at the moment it does it: for metrics and traces, of which the engine knows nothing.

An observer is told in batches, returns at once, and never raises. It is told on the event loop of the replica, but of
lost leases, which is on the keeper's thread.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from tocsin.domain.assignment import Assignment
from tocsin.engine.hands import Hand
from tocsin.store.attempts import Ended
from tocsin.store.runs import Swept
from tocsin.store.trigger_rows import Decision


class Observer(Protocol):
    def decided(self, decisions: Sequence[Decision]) -> None:
        """The planner has written these."""
        ...

    def begun(self, assignments: Sequence[Assignment]) -> None:
        """Attempts begin, and are handed to their agents next. It may give them the traceparent that these are told."""
        ...

    def ended(self, ends: Sequence[tuple[Hand | None, Ended]], *, at: float) -> None:
        """These ends are written. Without a hand: given back unseen. at: now, on the monotonic clock."""
        ...

    def fenced(self, ends: Sequence[Ended]) -> None:
        """These came too late, and count for nothing."""
        ...

    def fired(self, trigger: str) -> None:
        """An event has called for a run."""
        ...

    def broken(self, trigger: str) -> None:
        """A trigger that listens was quarantined."""
        ...

    def skipped(self, trigger: str, reason: str, count: int = 1) -> None:
        """Calls of a trigger came to nothing, apart from those that the planner decided upon."""
        ...

    def swept(self, runs: Sequence[Swept]) -> None:
        """These were taken from holders that are gone, or would not stop."""
        ...

    def lease_lost(self, how: str) -> None:
        """The replica's own: ``expired`` by its own reckoning, or ``ended`` by a peer."""
        ...

    def judged(self, verdict: str) -> None:
        """An agent process elsewhere is ``suspect``, ``stalled``, ``lost`` or ``fenced``."""
        ...

    def lagged(self, seconds: float) -> None:
        """By so much the event loop was late for a timer."""
        ...


class Unobserved:
    """Nobody is told anything."""

    def decided(self, decisions: Sequence[Decision]) -> None: ...
    def begun(self, assignments: Sequence[Assignment]) -> None: ...
    def ended(self, ends: Sequence[tuple[Hand | None, Ended]], *, at: float) -> None: ...
    def fenced(self, ends: Sequence[Ended]) -> None: ...
    def fired(self, trigger: str) -> None: ...
    def broken(self, trigger: str) -> None: ...
    def skipped(self, trigger: str, reason: str, count: int = 1) -> None: ...
    def swept(self, runs: Sequence[Swept]) -> None: ...
    def lease_lost(self, how: str) -> None: ...
    def judged(self, verdict: str) -> None: ...
    def lagged(self, seconds: float) -> None: ...


UNOBSERVED: Final = Unobserved()


class Both:
    """Two observers, each told everything."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._all = (first, second)

    def decided(self, decisions: Sequence[Decision]) -> None:
        for one in self._all:
            one.decided(decisions)

    def begun(self, assignments: Sequence[Assignment]) -> None:
        for one in self._all:
            one.begun(assignments)

    def ended(self, ends: Sequence[tuple[Hand | None, Ended]], *, at: float) -> None:
        for one in self._all:
            one.ended(ends, at=at)

    def fenced(self, ends: Sequence[Ended]) -> None:
        for one in self._all:
            one.fenced(ends)

    def fired(self, trigger: str) -> None:
        for one in self._all:
            one.fired(trigger)

    def broken(self, trigger: str) -> None:
        for one in self._all:
            one.broken(trigger)

    def skipped(self, trigger: str, reason: str, count: int = 1) -> None:
        for one in self._all:
            one.skipped(trigger, reason, count)

    def swept(self, runs: Sequence[Swept]) -> None:
        for one in self._all:
            one.swept(runs)

    def lease_lost(self, how: str) -> None:
        for one in self._all:
            one.lease_lost(how)

    def judged(self, verdict: str) -> None:
        for one in self._all:
            one.judged(verdict)

    def lagged(self, seconds: float) -> None:
        for one in self._all:
            one.lagged(seconds)
