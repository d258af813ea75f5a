"""Due triggers become occurrences.

Reads: due triggers, oldest first, locked and skipping what a peer has locked. Writes, in the same
transaction and one statement: runs (unique by trigger and nominal instant), accounts of skips, and
the triggers' cursors, each only if it still stands where we read it. Where this replica has a slot
to spare for the agent, the run is inserted as claimed, so that it begins one commit after its instant.

If the process dies before the commit, nothing has happened and the locks are gone; after it, all
has, and what was begun in our name is swept like any other claim. There is no statement between the
insert and the cursor's move. Every replica does this; there is no leader. A batch costs the same
number of statements however many triggers are in it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput, StatementRefused
from tocsin.domain.planning import Cursor, Plan, plan
from tocsin.domain.run import Lane, SkipReason
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine import resting
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.desk import Desk, Kept
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.phase import phase_of
from tocsin.store.database import Database
from tocsin.store.trigger_rows import Decision, DueTrigger, read_spec
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log

EARLY: Final = 0.0003
"""Seconds added to a rest: a wake-up before the instant would only ask the database once more."""


DECIDE_WITHIN: Final = 0.75
"""Seconds given to the decisions of one batch; the database takes the locks away after twice that."""


class Planner:
    name = "planner"

    def __init__(
        self,
        *,
        database: Database,
        triggers: Triggers,
        clock: Clock,
        time: DatabaseTime,
        log: Log,
        batch: int,
        fired: Callable[[], None],
        desk: Desk | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._database = database
        self._triggers = triggers
        self._clock = clock
        self._time = time
        self._log = log
        self._batch = batch
        self._fired = fired
        self._desk = desk
        self._observer = observer
        self._wake_at: datetime | None = None
        self._alike: dict[tuple[object, ...], Plan] = {}
        self.claiming = False

    def rest(self) -> float | None:
        if self._wake_at is None:
            return None
        return self._time.until(self._wake_at) + EARLY

    def expect(self, wake_at: datetime | None) -> bool:
        """A look has seen when the next trigger is due; True when that is sooner than we would wake."""
        sooner = wake_at is not None and (self._wake_at is None or wake_at < self._wake_at)
        self._wake_at = wake_at
        return sooner

    async def run_once(self) -> bool:
        try:
            count = await self._step(self._batch)
        except StatementRefused:
            # One row's values poison the whole batch: one by one, each poison meets only itself.
            count = await self._one_by_one()
        if count == self._batch:
            return True
        await self._look_ahead()
        return False

    async def _step(self, batch: int) -> int:
        self.claiming = True
        try:
            return await self._decide_batch(batch)
        finally:
            self.claiming = False

    async def _decide_batch(self, batch: int) -> int:
        with Kept(self._desk) as kept:
            async with self._database.transaction() as session:
                now, due = await self._triggers.lock_due(session, batch=batch)
                if now is None:
                    return 0
                rested = [
                    trigger.name for trigger in due if trigger.resumes_at is not None and trigger.resumes_at <= now
                ]
                if rested:
                    # Those go on first, in a transaction of their own; then the batch is looked at anew.
                    for name in rested:
                        await resting.end_pauses(session, self._triggers, name)
                    return batch
                decisions = self._decide_some(due, now, kept)
                begun = await self._triggers.materialise(session, decisions)
            self._tell(decisions)
            kept.begin(begun)
        if sum(len(decision.run_ids) for decision in decisions) > len(begun):
            self._fired()
        return len(due) if len(decisions) == len(due) else batch

    def _decide_some(self, due: list[DueTrigger], now: datetime, kept: Kept) -> list[Decision]:
        """As many as can be decided while the locks on them are ours; at least one."""
        ends_at = self._clock.monotonic() + DECIDE_WITHIN
        decisions = []
        self._alike.clear()
        for trigger in due:
            decisions.append(self.decide(trigger, now, kept))
            if self._clock.monotonic() > ends_at:
                break
        return decisions

    async def _one_by_one(self) -> int:
        done = 0
        while done < self._batch:
            try:
                count = await self._step(1)
            except StatementRefused as error:
                count = await self._quarantine_first(str(error))
            if not count:
                break
            done += count
        return done

    async def _quarantine_first(self, reason: str) -> int:
        async with self._database.transaction() as session:
            now, due = await self._triggers.lock_due(session, batch=1)
            if now is None:
                return 0
            decisions = [Decision(trigger, None, None, broken_reason=reason) for trigger in due]
            await self._triggers.materialise(session, decisions)
        self._tell(decisions)
        return len(due)

    async def _look_ahead(self) -> None:
        asked_at = self._clock.monotonic()
        self._wake_at, now = await self._triggers.next_wake()
        self._time.learn(now, asked_at=asked_at)

    def decide(self, trigger: DueTrigger, now: datetime, kept: Kept) -> Decision:
        """What becomes of one locked trigger. One that cannot be read or evaluated is quarantined."""
        try:
            spec = read_spec(trigger.agent, trigger.schedule, trigger.policy)
            if spec.schedule is None:
                raise BadInput("it is due but has no schedule")
            planned = self._plan(trigger, spec, spec.schedule, now)
        except (BadInput, ValueError, OverflowError, ArithmeticError, RecursionError, LookupError) as error:
            return Decision(trigger, None, None, broken_reason=str(error) or type(error).__name__)
        # A single on-time occurrence of an agent that is served here with a slot to spare begins here.
        single = len(planned.occurrences) == 1 and planned.occurrences[0].lane is Lane.LIVE
        begins = single and kept.keep(trigger.agent)
        return Decision(trigger, spec, planned, [uuid7() for _ in planned.occurrences], begins=begins)

    def _plan(self, trigger: DueTrigger, spec: TriggerSpec, schedule: Schedule, now: datetime) -> Plan:
        """Triggers of one batch that say the same and stand at the same instant share one plan."""
        gap = None
        if trigger.gap_reason is not None and trigger.gap_from is not None:
            gap = (SkipReason(trigger.gap_reason), trigger.gap_from)
        if trigger.resumes_at is not None:
            planned = plan(spec, schedule, self._cursor(trigger, schedule, gap), now)
            if planned.wake_at is not None:
                planned.wake_at = min(planned.wake_at, trigger.resumes_at)
            return planned
        if gap is not None or schedule.jitter:
            return plan(spec, schedule, self._cursor(trigger, schedule, gap), now)
        key = (id(spec), trigger.next_at, trigger.paused, now)
        shared = self._alike.get(key)
        if shared is None:
            shared = self._alike[key] = plan(spec, schedule, self._cursor(trigger, schedule, None), now)
        return shared

    @staticmethod
    def _cursor(trigger: DueTrigger, schedule: Schedule, gap: tuple[SkipReason, datetime] | None) -> Cursor:
        phase = phase_of(schedule, trigger.id) if schedule.jitter else timedelta(0)
        return Cursor(next_at=trigger.next_at, phase=phase, paused=trigger.paused, gap=gap)

    def _tell(self, decisions: list[Decision]) -> None:
        self._observer.decided(decisions)
        for decision in decisions:
            name = decision.trigger.name
            if decision.broken_reason is not None:
                self._log.warning("trigger.broken", trigger=name, reason=decision.broken_reason)
            elif decision.plan is not None and self._log.is_info:
                for run_id, occurrence in zip(decision.run_ids, decision.plan.occurrences, strict=True):
                    self._log.info(
                        "trigger.fired", trigger=name, run_id=str(run_id), nominal_at=occurrence.nominal_at.isoformat()
                    )
                for skip in decision.plan.skips:
                    self._log.info("trigger.skipped", trigger=name, reason=skip.reason.value, count=skip.count)
