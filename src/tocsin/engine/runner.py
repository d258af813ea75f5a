"""Claim, execute, settle, for one executor.

Reads: queued runs of the executor's agents, by lane and priority, skipping what a peer has locked.
Writes: one claim statement (fence + 1, our lease); the settler writes the ends. If the process dies
after the claim, the runs are running in our name and are swept when our session or lease ends. If
only the claim's answer is lost, the keeper finds the strays and gives them back.

No database session is held while an agent is awaited.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from tocsin.clock import Clock, Timer
from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import StatementRefused
from tocsin.domain.run import AttemptEnd, Failed, Lane, Outcome, RunState, Settlement, Stopped, StopReason, decide
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.executor import Detached, Executor
from tocsin.engine.hands import Hand, Hands
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.reports import Reporter
from tocsin.engine.settler import Settler
from tocsin.engine.shares import Shares
from tocsin.engine.stalls import watch
from tocsin.store.attempts import Attempts, Claimed, Ended, Quota
from tocsin.telemetry import Log

LATE: Final = Lane.LATE.value

MOST_AWAITED: Final = 256
"""Instants that are waited for precisely; what lies behind them is found by the next look."""

AFTER_INTERRUPT: Final = 5.0
"""Seconds that interrupted work has to end before it is cut."""

UNWIND: Final = 1.0
"""Seconds that work which is cut has for leaving, before it is left behind without its run."""


class Runner:
    def __init__(
        self,
        *,
        executor: Executor,
        attempts: Attempts,
        hands: Hands,
        settler: Settler,
        reporter: Reporter,
        clock: Clock,
        time: DatabaseTime,
        log: Log,
        batch: int,
        wake: Callable[[], None],
        expired: Callable[[], bool] = lambda: False,
        rearm: Callable[[], None] = lambda: None,
        passed_on: Callable[[], None] = lambda: None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.name = f"runner-{executor.name}"
        self.accepting = True
        self.held_back = False
        self._executor = executor
        self.agents = list(executor.agents)
        self._attempts = attempts
        self._hands = hands
        self._settler = settler
        self._reporter = reporter
        self._clock = clock
        self._time = time
        self._log = log
        self._batch = batch
        self._shares = Shares(self.agents)
        self._wake = wake
        self._expired = expired
        self._rearm = rearm
        self._passed_on = passed_on
        self._observer = observer
        self.claiming = False
        self._active = 0
        self._kept = 0
        self._saturated = False
        self._turned_away = False
        self._woken = False
        self._late = 0
        self._awaited: list[datetime] = []
        self._left_behind: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """Attempts that are being executed."""
        return self._active

    @property
    def kept(self) -> int:
        """Slots that are kept for runs whose insert is under way."""
        return self._kept

    @property
    def has_room(self) -> bool:
        """Whether it would claim if it were woken."""
        return self.accepting and self._active + self._kept < self._executor.slots and not self._expired()

    def keep(self) -> bool:
        """A slot is kept for a run that is about to be inserted, if work does not queue for one already."""
        spare = self._executor.slots - self._active - self._kept
        if not self.accepting or self._saturated or self.held_back or spare <= 0 or self._expired():
            return False
        self._kept += 1
        return True

    def give_back(self, slots: int) -> None:
        """So many kept slots are free again, or taken by what was begun."""
        self._kept -= slots
        self._make_room()

    @property
    def slots(self) -> int:
        return self._executor.slots

    def begin(self, assignments: Sequence[Assignment], *, resumed: bool = False) -> None:
        """Runs that were claimed for us are executed, or go on being executed by whoever has brought them along."""
        refused = not self.accepting or self._expired()
        if assignments and not (refused or resumed):
            self._observer.begun(assignments)
        now = self._clock.monotonic()
        policies, reports_for, put = self._executor.agents, self._reporter.reports_for, self._hands.put
        for assignment in assignments:
            hand = Hand(
                assignment,
                policies[assignment.agent],
                reports_for(assignment.run_id, assignment.fence),
                self._cut_later,
            )
            hand.begun_at = now
            if resumed:
                self._resume(hand)
            put(hand)
            if refused:
                self._give_back(hand)
            else:
                self._begin(hand)

    def _resume(self, hand: Hand) -> None:
        """It has been executed since its claim."""
        hand.assignment.resumed = True
        age = (self._time.now() or hand.assignment.started_at) - hand.assignment.started_at
        hand.begun_at -= max(0.0, age.total_seconds())

    def expect(self, ready_at: datetime) -> bool:
        """Queued work becomes available at this instant; True when that is sooner than we would wake."""
        sooner = not self._awaited or ready_at < self._awaited[0]
        if ready_at not in self._awaited:
            heapq.heappush(self._awaited, ready_at)
        if len(self._awaited) > MOST_AWAITED:
            self._awaited.remove(max(self._awaited))
            heapq.heapify(self._awaited)
        return sooner

    def rest(self) -> float | None:
        if not self._awaited or self._active >= self._executor.slots:
            return None
        return self._time.until(self._awaited[0])

    async def run_once(self) -> bool:
        self._woken = False
        # While one half is being executed, the database is busy with the claim of the other.
        half = ceil(self._executor.slots / 2)
        free = min(self._executor.slots - self._active - self._kept, self._batch, half)
        # Unwritten ends are work in hand too: while the database takes no settlements, claim no more.
        self.held_back = len(self._settler) > 2 * max(1, self._executor.slots)
        # Whatever filled the slots, a claim or an insert: the next end makes room for what may be queued.
        self._turned_away = free <= 0
        if not self.accepting or free <= 0 or self.held_back or self._expired():
            return False
        while self._awaited and not self._time.until(self._awaited[0]):
            heapq.heappop(self._awaited)
        quotas = self._shares.quotas(free, slots=self._executor.slots, late=self._late)
        claimed = await self._claim(quotas, free)
        self._tell_skipped(claimed)
        more = self._shares.is_more(claimed, quotas, free, has_room=self._active < self._executor.slots)
        self._saturated = more or self._active >= self._executor.slots
        if self._saturated and claimed.assignments:
            self._passed_on()
        return more

    async def _claim(self, quotas: list[Quota], free: int) -> Claimed:
        """One claim for all agents, begun; or one for each, when the database refuses a row of somebody's."""
        self.claiming = True
        try:
            claimed = await self._attempts.claim(quotas, free=free)
            self.begin(claimed.assignments)
        except StatementRefused as error:
            self._log.error("claim.refused", agents=self.agents, error=str(error))
            claimed = await self._claim_one_by_one(quotas)
        finally:
            self.claiming = False
        return claimed

    async def _claim_one_by_one(self, quotas: list[Quota]) -> Claimed:
        every = Claimed([], [])
        for quota in quotas:
            try:
                claimed = await self._attempts.claim([quota], free=1)
            except StatementRefused as error:
                self._log.error("claim.refused", agents=[quota.agent], error=str(error))
                continue
            self.begin(claimed.assignments)
            every.assignments.extend(claimed.assignments)
            every.skipped.extend(claimed.skipped)
        return every

    def _begin(self, hand: Hand) -> None:
        assignment = hand.assignment
        self._active += 1
        if assignment.lane == LATE:
            self._late += 1
        if hand.policy.timeout is not None or assignment.deadline_at is not None:
            hand.timer = self._limit(hand)
        if hand.policy.stall_after is not None:
            watch(hand, hand.policy.stall_after, clock=self._clock, log=self._log)
        hand.task = hand.stop.task = asyncio.get_running_loop().create_task(self._attempt(hand))
        if self._log.is_info:
            self._log.info(
                "run.started",
                run_id=str(assignment.run_id),
                trigger=assignment.trigger,
                fence=assignment.fence,
                attempt=assignment.attempt,
            )

    async def _attempt(self, hand: Hand) -> None:
        """The agent has run to its end, and that end is on its way to the database."""
        outcome: Outcome = Stopped()
        settles = True
        try:
            outcome = await self._executor.execute(hand.assignment, hand.reports, hand.stop)
        except Detached:
            settles = False
        except asyncio.CancelledError:
            # Cut after it would not stop: its outcome is that it was stopped, and this task ends here.
            hand.stop.request(StopReason.INTERRUPTED)
        except Exception as error:  # an executor that breaks its word ends its attempt, and nothing else
            outcome = Failed(type(error).__name__, str(error)[:1_000])
        finally:
            if settles:
                self._end(hand, outcome)
            else:
                self._forget(hand)

    def _forget(self, hand: Hand) -> None:
        """It goes on without us: its holder takes it along."""
        if not hand.ended:
            self._close(hand)
            self._hands.drop(hand)

    def _close(self, hand: Hand) -> None:
        """The attempt has no slot and no limit any more."""
        hand.ended = True
        if hand.timer is not None:
            hand.timer.cancel()
        self._active -= 1
        if hand.assignment.lane == LATE:
            self._late -= 1

    def _limit(self, hand: Hand) -> Timer:
        """A timer for the attempt's limit: its timeout or the rest of the run's deadline, whichever is sooner."""
        limits = [hand.policy.timeout] if hand.policy.timeout else []
        if hand.assignment.deadline_at is not None:
            limits.append(hand.assignment.deadline_at - hand.assignment.started_at)
        hand.assignment.due_by = hand.assignment.started_at + min(limits)
        seconds = min(limits).total_seconds()
        if hand.assignment.resumed:
            seconds = max(0.0, self._time.until(hand.assignment.due_by))
        return self._clock.call_later(seconds, lambda: hand.ask_to_stop(StopReason.TIMEOUT))

    def _cut_later(self, hand: Hand, reason: StopReason) -> None:
        """An attempt that will not stop in its time is cut, and left behind if that is of no use either."""
        seconds = hand.policy.cancel_within.total_seconds()
        if reason in (StopReason.INTERRUPTED, StopReason.LEASE_LOST, StopReason.FENCED):
            seconds = min(seconds, AFTER_INTERRUPT)

        def cut() -> None:
            if hand.task is not None and not hand.ended:
                hand.task.cancel()
                self._clock.call_later(UNWIND, lambda: self._leave(hand))

        self._clock.call_later(seconds, cut)

    def leave_all(self) -> None:
        """What has not ended is left behind, now."""
        for hand in self._hands.all():
            if hand.assignment.agent in self._executor.agents:
                self._leave(hand)

    def _leave(self, hand: Hand) -> None:
        """Whatever it still does, it does without its run."""
        if hand.task is not None and not hand.ended:
            # The event loop itself would hold its task weakly.
            self._left_behind.add(hand.task)
            hand.task.add_done_callback(self._left_behind.discard)
            self._end(hand, Stopped())

    def _give_back(self, hand: Hand) -> None:
        """It was claimed and is not begun: queued again, uncounted, whatever its policy."""
        hand.ended = True
        settlement = Settlement(RunState.QUEUED, reason=StopReason.INTERRUPTED.value, counted=False)
        self._settler.put(
            hand, Ended(run_id=hand.assignment.run_id, fence=hand.assignment.fence, settlement=settlement)
        )

    def _end(self, hand: Hand, outcome: Outcome) -> None:
        """The attempt's outcome becomes a settlement, once; the slot is free."""
        if hand.ended:
            return
        self._close(hand)
        assignment, reports = hand.assignment, hand.reports
        settlement = decide(
            AttemptEnd(
                policy=hand.policy,
                attempt=assignment.attempt,
                max_attempts=assignment.max_attempts,
                outcome=outcome,
                stop=hand.stop.reason,
                time_left=self._time_left(assignment),
                chance=random.random(),
            )
        )
        self._settler.put(
            hand,
            Ended(
                run_id=assignment.run_id,
                fence=assignment.fence,
                settlement=settlement,
                usage=reports.usage_json(),
                log=reports.log_text(),
                follow_ups=reports.follow_ups if settlement.state is RunState.SUCCEEDED else (),
            ),
        )
        self._make_room()

    def _make_room(self) -> None:
        """Where work may be queued for a slot, the next step comes at once."""
        if (self._saturated or self._turned_away) and not self._woken:
            self._woken = True
            self._wake()

    def _time_left(self, assignment: Assignment) -> timedelta | None:
        if assignment.deadline_at is None:
            return None
        return assignment.deadline_at - (self._time.now() or assignment.started_at)

    def _tell_skipped(self, claimed: Claimed) -> None:
        for skipped in claimed.skipped:
            self._observer.skipped(skipped.trigger, skipped.reason)
            self._log.info("run.skipped", run_id=str(skipped.run_id), trigger=skipped.trigger, reason=skipped.reason)
        if any(skipped.rearms for skipped in claimed.skipped):
            self._rearm()
