"""The runs that a replica has in hand: from the claim until their settlement is committed.

The runner puts them in, the settler takes them out, and the keeper, on a thread of its own, reads
them to renew. Every change is one dictionary operation, which is atomic between threads.
"""

import asyncio
from collections.abc import Callable, Iterable
from uuid import UUID

from tocsin.clock import Timer
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import StopReason
from tocsin.engine.run_reports import RunReports
from tocsin.run import StopSignal


class Hand:
    """One attempt in hand. ended: it waits for its settlement only. begun_at: on the monotonic clock."""

    task: "asyncio.Task[None] | None" = None
    timer: Timer | None = None
    ended: bool = False
    begun_at: float = 0.0

    def __init__(
        self,
        assignment: Assignment,
        policy: AgentSpec,
        reports: RunReports,
        cut_later: Callable[["Hand", StopReason], None],
    ) -> None:
        self.assignment = assignment
        self.policy = policy
        self.reports = reports
        self.stop = StopSignal()
        self._cut_later = cut_later

    def ask_to_stop(self, reason: StopReason) -> None:
        """The attempt has been asked to stop, and is cut if it does not in its time. A second time changes nothing."""
        if self.stop.reason is None:
            self._cut_later(self, reason)
            self.stop.request(reason)


class Hands:
    """Attempts in hand by run id. Changed on the event loop that runs agents; read from any thread."""

    def __init__(self) -> None:
        self._hands: dict[UUID, Hand] = {}
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._watchers: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._hands)

    def all(self) -> list[Hand]:
        """A snapshot, from any thread."""
        return list(self._hands.values())

    def get(self, run_id: UUID) -> Hand | None:
        return self._hands.get(run_id)

    def put(self, hand: Hand) -> None:
        """A claim of ours; an older one of the same run is fenced by it."""
        former = self._hands.get(hand.assignment.run_id)
        if former is not None:
            former.ask_to_stop(StopReason.FENCED)
        self._hands[hand.assignment.run_id] = hand
        if len(self._hands) == 1:
            self._emptied.clear()

    def drop(self, hand: Hand) -> None:
        """The attempt is settled, or no longer ours."""
        if self._hands.get(hand.assignment.run_id) is hand:
            del self._hands[hand.assignment.run_id]
        if not self._hands:
            self._emptied.set()

    async def empty(self) -> None:
        """Nothing is in hand."""
        await self._emptied.wait()

    def held(self) -> list[tuple[UUID, int]]:
        """(run, fence) of all that is in hand."""
        return [(hand.assignment.run_id, hand.assignment.fence) for hand in list(self._hands.values())]

    def stop(self, runs: Iterable[tuple[UUID, int]], reason: StopReason) -> None:
        """These attempts, each (run, fence), have been asked to stop; not a newer one that was claimed meanwhile."""
        for run_id, fence in runs:
            hand = self._hands.get(run_id)
            if hand is None or hand.ended or hand.assignment.fence != fence:
                continue
            hand.ask_to_stop(reason)

    def stop_all(self, reason: StopReason) -> None:
        self.stop(self.held(), reason)
