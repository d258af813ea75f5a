"""What waits to be written to one stream. Runs and verdicts of one turn of the loop go in one message.

Nothing here grows without bound: assignments are within the credit, cancels within the runs in hand, of beats
the latest is answered, and whoever answers a message waits for ``room`` first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import StopReason
from tocsin.edges.grpc import wire
from tocsin.v1 import agent_pb2 as pb

MOST: Final = 1_000
"""Messages and verdicts that wait, above which nothing more is read."""

RUNS_A_MESSAGE: Final = 200
BYTES_A_MESSAGE: Final = 1024 * 1024
MOST_A_RUN: Final = 4 * 1024 * 1024
"""Bytes of one assignment; inputs and outputs have a quarter of that when they are taken."""


class Outgoing:
    """Outbox and Post of one stream. now: the database's instant, as far as it is known."""

    def __init__(
        self, *, now: Callable[[], datetime | None], lost: Callable[[], None], revoked: Callable[[str], None]
    ) -> None:
        self.lost = lost
        self.revoked = revoked
        self._now = now
        # Lists: an idle stream costs a tenth of what it would with deques, and there may be a thousand.
        self._others: list[pb.FromHub] = []
        self._assigned: list[pb.Assignment] = []
        self._verdicts: list[pb.Verdict] = []
        self._beat_taken = 0
        self._assigns_first = False
        self._waits = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def waiting(self) -> int:
        """What is still to be written."""
        return len(self._others) + len(self._verdicts) + len(self._assigned) + bool(self._beat_taken)

    async def room(self) -> None:
        """The process reads what is written to it."""
        await self._has_room.wait()

    async def write_all(self, write: Callable[[pb.FromHub], Awaitable[None]], *, within: float) -> None:
        """Whatever comes is written, until this is cancelled or the stream breaks.

        Raises: TimeoutError, when one message is not taken within so many seconds.
        """
        while True:
            await self._waits.wait()
            self._waits.clear()
            while (message := self._next()) is not None:
                async with asyncio.timeout(within):
                    await write(message)
            self._has_room.set()

    def drain(self) -> None:
        """What is assigned goes before answers to beats from now on, which so tell that nothing more comes."""
        self._assigns_first = True

    def send(self, message: pb.FromHub) -> None:
        self._others.append(message)
        self._announce()

    # --- Outbox

    def assign(self, assignment: Assignment, policy: AgentSpec) -> bool:
        """A last output that has grown too large for a message is left out: PostgreSQL writes 1e300 as 301 digits."""
        message = wire.assignment_message(assignment, policy, now=self._now())
        if message.ByteSize() > MOST_A_RUN:
            message.ClearField("last")
        if message.ByteSize() > MOST_A_RUN:
            return False
        self._assigned.append(message)
        self._announce()
        return True

    def cancel(self, assignment: Assignment, reason: StopReason, policy: AgentSpec) -> None:
        self.send(wire.cancel_message(assignment.run_id, assignment.fence, reason, policy.cancel_within))

    # --- Post

    def settled(self, run_id: UUID, fence: int, *, fenced: bool) -> None:
        self._verdicts.append(pb.Verdict(run_id=str(run_id), fence=fence, fenced=fenced))
        self._announce()

    def beat_taken(self, seq: int) -> None:
        self._beat_taken = max(seq, self._beat_taken)
        self._announce()

    def fenced(self, run_id: UUID, fence: int) -> None:
        self.send(wire.cancel_message(run_id, fence, StopReason.FENCED, wire.NO_TIME))

    def probe(self) -> None:
        self.send(pb.FromHub(probe=pb.Probe()))

    def _announce(self) -> None:
        self._waits.set()
        if len(self._others) + len(self._verdicts) > MOST:
            self._has_room.clear()

    def _next(self) -> pb.FromHub | None:
        """Beats and what stops a run go before new work."""
        if self._assigned and self._assigns_first:
            return pb.FromHub(assign=pb.Assign(runs=self._next_runs()))
        if self._beat_taken:
            seq, self._beat_taken = self._beat_taken, 0
            return pb.FromHub(beat_taken=pb.BeatTaken(seq=seq))
        if self._others:
            return self._others.pop(0)
        if self._verdicts:
            taken = self._verdicts[:RUNS_A_MESSAGE]
            del self._verdicts[:RUNS_A_MESSAGE]
            return pb.FromHub(settled=pb.Settled(verdicts=taken))
        return pb.FromHub(assign=pb.Assign(runs=self._next_runs())) if self._assigned else None

    def _next_runs(self) -> list[pb.Assignment]:
        count, size = (
            1,
            self._assigned[0].ByteSize(),
        )  # with the trigger's last output, which may be as large as an input
        for message in self._assigned[1:RUNS_A_MESSAGE]:
            size += message.ByteSize()
            if size > BYTES_A_MESSAGE:
                break
            count += 1
        runs = self._assigned[:count]
        del self._assigned[:count]
        return runs
