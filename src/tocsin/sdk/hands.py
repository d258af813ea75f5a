"""What this process has in hand, ended or not, until the hub has answered for it.

Changed on the agents' loop, read by the link's thread for Hello and beats. Three moments need a lock:
a Hello says all that is held, so no assignment of a former stream may be admitted after it; a lease
that has ended takes everything out of our hands at once, whatever the agents' loop is doing; and a
run that is dropped must not be one that somebody else has put there since.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, ClassVar

from tocsin.clock import Timer
from tocsin.domain.assignment import Assignment
from tocsin.engine.run_reports import RunReports
from tocsin.run import StopSignal
from tocsin.v1 import agent_pb2 as pb


class Counted:
    """A run's reports, and how many there were."""

    _lock: ClassVar = Lock()

    count: int = 0

    def __init__(self, reports: RunReports) -> None:
        self.kept = reports

    def progress(self, message: str, fraction: float | None) -> None:
        self._grow()
        self.kept.progress(message, fraction)

    def usage(self, figures: dict[str, Any]) -> None:
        self._grow()
        self.kept.usage(figures)

    def log(self, line: str) -> None:
        self._grow()
        self.kept.log(line)

    def follow_up(self, at: datetime | None, after: timedelta | None, payload: Any) -> None:
        self._grow()
        self.kept.follow_up(at, after, payload)

    def _grow(self) -> None:
        with self._lock:
            self.count += 1


class Hand:
    """One attempt in hand. result: how it ended, until that is answered.

    within: seconds that it has for stopping when it is asked to; limit: after so many it is, None for never.
    """

    task: "asyncio.Task[None] | None" = None
    timer: Timer | None = None
    result: pb.Result | None = None

    def __init__(
        self,
        run_id: str,
        assignment: Assignment,
        *,
        within: float,
        limit: float | None,
        changed: Callable[[RunReports], None],
    ) -> None:
        self.run_id = run_id
        self.fence = assignment.fence
        self.assignment = assignment
        self.within = within
        self.limit = limit
        self.reports = Counted(RunReports(assignment.run_id, assignment.fence, changed))
        self.stop = StopSignal()

    @property
    def held(self) -> pb.Held:
        return pb.Held(run_id=self.run_id, fence=self.fence, progress=self.reports.count)


class Hands:
    """Attempts in hand by run id."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._hands: dict[str, Hand] = {}
        self._stream = 0

    def __len__(self) -> int:
        return len(self._hands)

    def __contains__(self, hand: Hand) -> bool:
        return self._hands.get(hand.run_id) is hand

    def all(self) -> list[Hand]:
        """A snapshot, from any thread."""
        return list(self._hands.values())

    def held(self) -> list[pb.Held]:
        """All that is in hand, for a beat; from any thread."""
        return [hand.held for hand in self.all()]

    def get(self, run_id: str, fence: int) -> Hand | None:
        hand = self._hands.get(run_id)
        return hand if hand is not None and hand.fence == fence else None

    def open(self, stream: int) -> list[pb.Held]:
        """All that is in hand, for a Hello; from now on only what this stream assigns is admitted."""
        with self._lock:
            self._stream = stream
            return [hand.held for hand in self._hands.values()]

    def disown(self) -> list[Hand]:
        """Nothing is in hand any more, and nothing is admitted until another stream is open. What was."""
        with self._lock:
            lost, self._hands, self._stream = self._hands, {}, 0
        return list(lost.values())

    def admit(self, stream: int, hands: Sequence[Hand]) -> tuple[list[Hand], list[Hand]]:
        """(what is in hand now, what it has fenced): nothing that an older stream assigned, nothing twice."""
        admitted: list[Hand] = []
        fenced: list[Hand] = []
        with self._lock:
            if stream != self._stream:
                return admitted, fenced
            for hand in hands:
                former = self._hands.get(hand.run_id)
                if former is not None and former.fence >= hand.fence:
                    continue
                if former is not None:
                    fenced.append(former)
                self._hands[hand.run_id] = hand
                admitted.append(hand)
        return admitted, fenced

    def drop(self, hand: Hand) -> bool:
        """The attempt is answered, or not ours any more; False when it was not in hand."""
        with self._lock:
            if self._hands.get(hand.run_id) is not hand:
                return False
            del self._hands[hand.run_id]
            return True
