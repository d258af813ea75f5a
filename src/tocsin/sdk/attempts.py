"""Attempts being executed: begun, asked to stop, cut, and left behind. Lives on the agents' loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from tocsin.clock import Clock
from tocsin.domain.payload import plain
from tocsin.domain.run import Failed, Outcome, Stopped, StopReason
from tocsin.engine.executor import Executor
from tocsin.sdk.hands import Hand
from tocsin.telemetry import Log

AFTER_INTERRUPT: Final = 5.0
"""Seconds that work has to end which is interrupted, or is not ours any more, before it is cut."""

UNWIND: Final = 1.0
"""Seconds that work which is cut has for leaving, before it is left behind without its run."""

URGENT: Final = frozenset({StopReason.INTERRUPTED, StopReason.LEASE_LOST, StopReason.FENCED})


class Attempts:
    """What is being executed, ours or not. ended: told of each end once, when its slot is free."""

    def __init__(
        self, *, executors: Sequence[Executor], ended: Callable[[Hand, Outcome], None], clock: Clock, log: Log
    ) -> None:
        self._executors = {agent: executor for executor in executors for agent in executor.agents}
        # An executor answers for itself when it does not know an agent.
        self._any = executors[0]
        self._ended = ended
        self._clock = clock
        self._log = log
        self._active: set[Hand] = set()
        self._left_behind: set[asyncio.Task[None]] = set()
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._active)

    def begin(self, hand: Hand) -> None:
        """The attempt runs in a task of its own."""
        self._active.add(hand)
        self.idle.clear()
        if hand.limit is not None:
            hand.timer = self._clock.call_later(hand.limit, lambda: self.ask_to_stop(hand, StopReason.TIMEOUT))
        hand.task = hand.stop.task = asyncio.get_running_loop().create_task(self._attempt(hand))
        if self._log.is_info:
            assignment = hand.assignment
            self._log.info(
                "run.started",
                run_id=hand.run_id,
                trigger=assignment.trigger,
                fence=hand.fence,
                attempt=assignment.attempt,
            )

    def ask_to_stop(self, hand: Hand, reason: StopReason) -> None:
        """The attempt has been asked to stop, and is cut if it does not in its time. A second time changes nothing."""
        if hand.stop.reason is not None or hand not in self._active:
            return
        seconds = min(hand.within, AFTER_INTERRUPT) if reason in URGENT else hand.within
        self._clock.call_later(seconds, lambda: self._cut(hand))
        hand.stop.request(reason)

    def interrupt_all(self) -> None:
        for hand in list(self._active):
            self.ask_to_stop(hand, StopReason.INTERRUPTED)

    def cut_all(self) -> None:
        """All that runs is cancelled, and left behind unless it ends within UNWIND."""
        for hand in list(self._active):
            hand.stop.request(StopReason.INTERRUPTED)
            self._cut(hand)

    async def _attempt(self, hand: Hand) -> None:
        """The agent has run to its end."""
        outcome: Outcome = Stopped()
        executor = self._executors.get(hand.assignment.agent, self._any)
        try:
            outcome = await executor.execute(hand.assignment, hand.reports, hand.stop)
        except asyncio.CancelledError:
            # Cut after it would not stop: its outcome is that it was stopped, and this task ends here.
            hand.stop.request(StopReason.INTERRUPTED)
        except Exception as error:  # an executor that breaks its word ends its attempt, and nothing else
            outcome = Failed(type(error).__name__, plain(str(error))[:1_000])
        finally:
            self._end(hand, outcome)

    def _end(self, hand: Hand, outcome: Outcome) -> None:
        """The attempt has ended, once; the slot is free."""
        if hand not in self._active:
            return
        self._active.discard(hand)
        if hand.timer is not None:
            hand.timer.cancel()
        if not self._active:
            self.idle.set()
        self._ended(hand, outcome)
        if self._log.is_info:
            self._log.info(
                "run.ended",
                run_id=hand.run_id,
                trigger=hand.assignment.trigger,
                fence=hand.fence,
                outcome=type(outcome).__name__.lower(),
                stop=hand.stop.reason,
            )

    def _cut(self, hand: Hand) -> None:
        if hand.task is not None and hand in self._active:
            hand.task.cancel()
            self._clock.call_later(UNWIND, lambda: self._leave(hand))

    def _leave(self, hand: Hand) -> None:
        """Whatever it still does, it does without its run."""
        if hand.task is not None and hand in self._active:
            # The event loop itself would hold its task weakly.
            self._left_behind.add(hand.task)
            hand.task.add_done_callback(self._left_behind.discard)
            self._end(hand, Stopped())
