"""Who wakes whom: hints, looks and ends become wake-ups of the loops that they concern.

Reads and writes nothing but the services' expectations. All of it is a hint: whoever is not woken finds its
work with the next look.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from tocsin.domain.run import RunState, StopReason
from tocsin.engine.crowd import Crowd
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.hands import Hand
from tocsin.engine.planner import Planner
from tocsin.engine.runner import Runner
from tocsin.engine.service import Loop
from tocsin.engine.sweeper import Sweeper
from tocsin.store.attempts import Ended
from tocsin.store.leases import Incarnation, Look
from tocsin.telemetry import Log


class Exchange:
    """The loops of one replica by their services' names; a service whose loop has not begun is not woken.

    released: runs that had begun and that were given back.
    """

    def __init__(self, *, who: Incarnation, time: DatabaseTime, log: Log, crowd: Crowd) -> None:
        self.released = 0
        self._crowd = crowd
        self._who = who
        self._time = time
        self._log = log
        self._loops: dict[str, Loop] = {}

    def join(self, *, planner: Planner, runners: Sequence[Runner], sweeper: Sweeper, renew: Callable[[], None]) -> None:
        """These are told what to expect. renew: the keeper asks at once what of ours is to be cancelled.

        They are made with this exchange's ears, so they can join only once they stand.
        """
        self._planner, self._runners, self._sweeper, self._renew = planner, runners, sweeper, renew

    def attend(self, loop: Loop) -> None:
        """From now on the loop is woken for what concerns its service."""
        self._loops[loop.service.name] = loop

    def wake(self, name: str) -> None:
        loop = self._loops.get(name)
        if loop is not None:
            loop.wake()

    def wake_runners(self) -> None:
        for runner in self._runners:
            self.wake(runner.name)
        self._crowd.wake()

    def wake_from_any_thread(self, name: str, here: asyncio.AbstractEventLoop) -> None:
        here.call_soon_threadsafe(self.wake, name)

    def hear(self, hint: str) -> None:
        """A hint is WHAT ACTOR. That we have put or begun runs is no news; what of ours is to be cancelled is."""
        what, _, actor = hint.partition(" ")
        ours = actor == self._who.actor
        match what:
            case "runs" | "begun" if ours:
                pass
            case "runs":
                self.wake_runners()
                self._suspect()
            case "begun":
                self._suspect()
            case "events":
                self.wake("matcher")
            case "later":
                # Runs that wait for an instant: the look says for which.
                self.wake("lookout")
            case "triggers":
                self.wake(self._planner.name)
                self.wake("lookout")
            case "cancel" | "keys":
                self._renew()
            case _:
                self._log.debug("hint.unknown", hint=hint)

    def _suspect(self) -> None:
        """A peer has work in hand."""
        if self._sweeper.suspect():
            self.wake(self._sweeper.name)

    def on_look(self, look: Look) -> None:
        if self._planner.expect(look.wake_at):
            self.wake(self._planner.name)
        for runner in self._runners:
            sooner = look.next_ready_at is not None and runner.expect(look.next_ready_at)
            if sooner or look.ready_at is not None:
                self.wake(runner.name)
        if look.next_ready_at is not None:
            self._crowd.expect(look.next_ready_at)
        if look.ready_at is not None:
            self._crowd.wake()
        if look.unmatched:
            self.wake("matcher")
        self._sweeper.expect(others_run=look.others_run, cancelling=look.cancelling, waiting=look.waiting)
        if look.others_run or look.cancelling or look.waiting:
            self.wake(self._sweeper.name)

    def on_settled(self, ends: Sequence[tuple[Hand | None, Ended]]) -> None:
        freed = any(runner.held_back for runner in self._runners) or self._crowd.held_back()
        rearms = False
        follows = []
        for hand, ended in ends:
            if hand is not None:
                freed |= hand.assignment.scoped
                rearms |= hand.assignment.rearms
            if ended.settlement.state is RunState.QUEUED or ended.follow_ups:
                follows.append(ended)
                began = hand is not None and hand.task is not None
                self.released += began and ended.settlement.reason == StopReason.INTERRUPTED.value
        if follows:
            self._expect(follows)
        if freed:
            self.wake_runners()
        if rearms:
            self.on_rearm()

    def on_rearm(self) -> None:
        """A run has ended that its trigger counts from."""
        self._sweeper.expect_rearm()
        self.wake(self._sweeper.name)

    def on_freed(self) -> None:
        """A sweep has queued runs again, or given triggers their next instant."""
        self.wake_runners()
        self.wake("lookout")

    def on_called(self, instants: Sequence[datetime]) -> None:
        """Events have come to runs, to be begun at these instants."""
        for instant in instants:
            for runner in self._runners:
                runner.expect(instant)
            self._crowd.expect(instant)
        self.wake_runners()

    def _expect(self, ends: Sequence[Ended]) -> None:
        """Runs that were queued again, or asked for, are begun on their instant, here or by a peer."""
        now = self._time.now()
        if now is None:
            return
        instants = [now + ended.settlement.delay for ended in ends if ended.settlement.state is RunState.QUEUED]
        for ended in ends:
            instants += [follow.at or now + (follow.after or timedelta()) for follow in ended.follow_ups]
        for runner in self._runners:
            for instant in instants:
                runner.expect(instant)
        for instant in instants:
            self._crowd.expect(instant)
        self.wake_runners()
