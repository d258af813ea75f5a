"""Ended attempts become settled runs, many in one statement.

Reads: its buffer. Writes: one statement that closes every attempt whose fence still stands, with its
transition, its telling, the trigger's last success and the runs it asked for. If the process dies
before the commit, the attempts are still running in the database and are swept when the lease ends;
after it, all is done. If only the answer is lost, the same statement is sent again and says the same.
"""

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.errors import StatementRefused
from tocsin.domain.run import Failed, RunState, Settlement
from tocsin.engine.hands import Hand, Hands
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.attempts import Attempts, Ended
from tocsin.telemetry import Log

BATCH: Final = 500
LINGER: Final = 0.002
"""Seconds given to attempts that are about to end, so that they share a commit."""

FEW: Final = 32

MOST_WAIT: Final = 0.03
"""Seconds for which ends let a batch of beginnings go first."""


class Settler:
    name = "settler"

    def __init__(
        self,
        *,
        attempts: Attempts,
        hands: Hands,
        clock: Clock,
        log: Log,
        settled: Callable[[Sequence[tuple[Hand | None, Ended]]], None],
        wake: Callable[[], None] = lambda: None,
        beginning: Callable[[], bool] = lambda: False,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._attempts = attempts
        self._hands = hands
        self._clock = clock
        self._log = log
        self._settled = settled
        self._wake = wake
        self._beginning = beginning
        self._observer = observer
        self._buffer: list[tuple[Hand | None, Ended]] = []

    def rest(self) -> float | None:
        return None

    def __len__(self) -> int:
        return len(self._buffer)

    def put(self, hand: Hand | None, ended: Ended) -> None:
        """An attempt has ended; its settlement is written at the next step. None: a stray of ours."""
        self._buffer.append((hand, ended))
        if len(self._buffer) == 1:
            # While there is more in it, the step in hand or its next try comes for that by itself.
            self._wake()

    async def run_once(self) -> bool:
        if not self._buffer:
            return False
        if len(self._buffer) < FEW and len(self._hands) > len(self._buffer):
            await self._clock.sleep(LINGER)
        await self._let_begin()
        # What is being written stays in the buffer until the database has answered.
        batch = self._next_batch()
        try:
            await self._write(batch)
        except StatementRefused:
            await self._write_one_by_one(batch)
        del self._buffer[: len(batch)]
        return bool(self._buffer)

    async def _let_begin(self) -> None:
        """In a burst beginning is more urgent than ending, for a while and up to a batch of ends."""
        waited = 0.0
        while self._beginning() and len(self._buffer) < BATCH and waited < MOST_WAIT:
            await self._clock.sleep(LINGER)
            waited += LINGER

    def _next_batch(self) -> list[tuple[Hand | None, Ended]]:
        """The oldest ends. The answer names runs without their fences, so a run stands in a batch once."""
        seen: set[UUID] = set()
        for place, (_, ended) in enumerate(self._buffer[:BATCH]):
            if ended.run_id in seen:
                return self._buffer[:place]
            seen.add(ended.run_id)
        return self._buffer[:BATCH]

    async def _write(self, batch: list[tuple[Hand | None, Ended]]) -> None:
        ours = await self._attempts.settle([ended for _, ended in batch])
        for hand, ended in batch:
            if hand is not None:
                self._hands.drop(hand)
            if ended.run_id not in ours:
                self._log.warning("run.fenced", run_id=str(ended.run_id), fence=ended.fence)
            elif self._log.is_info or ended.settlement.state is RunState.FAILED:
                self._tell(hand, ended)
        taken = [(hand, ended) for hand, ended in batch if ended.run_id in ours]
        self._observer.ended(taken, at=self._clock.monotonic())
        if len(taken) < len(batch):
            self._observer.fenced([ended for _, ended in batch if ended.run_id not in ours])
        self._settled(taken)

    async def _write_one_by_one(self, batch: list[tuple[Hand | None, Ended]]) -> None:
        """One attempt's values are refused by the database; the others must not wait for it."""
        for hand, ended in batch:
            try:
                await self._write([(hand, ended)])
            except StatementRefused as error:
                failure = Failed("Unstorable", str(error)[:1_000], final=True)
                plain = Ended(
                    run_id=ended.run_id,
                    fence=ended.fence,
                    settlement=Settlement(RunState.FAILED, reason="fatal", error=failure),
                )
                await self._write([(hand, plain)])

    def _tell(self, hand: Hand | None, ended: Ended) -> None:
        settlement = ended.settlement
        fields: dict[str, object] = {"run_id": str(ended.run_id), "fence": ended.fence}
        if hand is not None:
            fields["trigger"] = hand.assignment.trigger
        if settlement.reason is not None:
            fields["reason"] = settlement.reason
        if settlement.error is not None:
            fields["error"] = f"{settlement.error.kind}: {settlement.error.message}"
        if settlement.state is RunState.FAILED:
            self._log.warning("run.failed", **fields)
        else:
            self._log.info("run.settled", state=settlement.state.value, **fields)
