"""One connected process in the engine's eyes: its runner, its settler, its lease, from its stream's start to its end.

Entering: it joins those who claim and those who are heard. Leaving: nothing more is claimed in its name,
what it has said is written, and its runs stay running in its name: it takes them along to its next stream.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import StoreError
from tocsin.domain.instance import Patience
from tocsin.domain.run import Failed, RunState, Settlement, Stopped, StopReason
from tocsin.engine.connection import House, Post, Receiver, Result, Said, Told
from tocsin.engine.hands import Hands
from tocsin.engine.reports import Reporter
from tocsin.engine.runner import Runner
from tocsin.engine.service import Loop
from tocsin.engine.settler import Settler
from tocsin.store.attempts import Ended
from tocsin.store.instances import Answer, Heard, Held, Stray
from tocsin.store.leases import Incarnation

LET_GO: Final = Settlement(RunState.QUEUED, reason=StopReason.INTERRUPTED.value, counted=False)
LET_GO_ONCE: Final = Settlement(RunState.FAILED, reason="lost", error=Failed("Lost", "its process does not have it"))

ABOUT_NOW: Final = timedelta(seconds=1)
"""By so much two clocks that measure one timeout may be apart."""

LAST_WORDS: Final = 2.0
"""Seconds that a stream's end waits for what was said over it to be written."""


@dataclass(frozen=True, slots=True)
class _Beat:
    seq: int
    held: Sequence[Held]
    culprit: str | None


class Attachment:
    """See the module. Everything is called on the event loop of the replica."""

    def __init__(
        self,
        *,
        house: House,
        holder: UUID,
        stream: int,
        key: str | None,
        patience: Patience,
        receiver: Receiver,
        policies: Mapping[str, AgentSpec],
        post: Post,
    ) -> None:
        self.hands = Hands()
        self._house = house
        self._holder = holder
        self._stream = stream
        self._key = key
        self._patience = patience
        self._receiver = receiver
        self._post = post
        self._who = Incarnation(receiver.name, actor=f"instance:{holder}", holder=holder)
        self._progress: Mapping[UUID, int] = {}
        self._beat: _Beat | None = None
        self._taken: _Beat | None = None
        self._is_suspect = self._is_stalled = self._is_draining = False
        self._stack = AsyncExitStack()
        self._compose(policies)

    def _compose(self, policies: Mapping[str, AgentSpec]) -> None:
        house = self._house
        attempts = self._attempts = Told(self._who, house, self._post)
        self._settler = Settler(
            attempts=attempts,
            hands=self.hands,
            clock=house.clock,
            log=house.log,
            settled=house.exchange.on_settled,
            wake=lambda: self._wake(self._settling),
            observer=house.observer,
        )
        self._reporter = Reporter(
            attempts=attempts,
            hands=self.hands,
            clock=house.clock,
            wake=lambda: self._wake(self._reporting),
        )
        self.runner = Runner(
            executor=self._receiver,
            attempts=attempts,
            hands=self.hands,
            settler=self._settler,
            reporter=self._reporter,
            clock=house.clock,
            time=house.time,
            log=house.log,
            batch=house.batch,
            wake=lambda: self._wake(self._running),
            expired=lambda: not self.is_fit,
            rearm=house.exchange.on_rearm,
            passed_on=lambda: house.crowd.wake_beside(self.runner),
            observer=house.observer,
        )
        self._settling, self._reporting, self._running = (
            Loop(service, clock=house.clock, log=house.log) for service in (self._settler, self._reporter, self.runner)
        )

    async def __aenter__(self) -> Self:
        stack, house = self._stack, self._house
        stack.push_async_callback(self._say_gone)
        for loop in (self._reporting, self._settling, self._running):
            await stack.enter_async_context(loop)
        stack.callback(house.beats.leave, self)
        house.beats.join(self)
        stack.callback(house.crowd.leave, self.runner)
        house.crowd.join(self.runner, self._running.wake)
        stack.push_async_callback(self.finish)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def finish(self) -> None:
        """Nothing more is claimed; what was said is written; the rest is the process's own."""
        self.runner.accepting = False
        self._receiver.detach()
        # The attempts' tasks let go of their runs in the next turn.
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                while len(self._settler) or self.runner.claiming:  # noqa: ASYNC110 — two loops of ours
                    await asyncio.sleep(0.01)

    async def _say_gone(self) -> None:
        with suppress(StoreError):
            await self._house.instances.disconnect(self._holder, self._stream)

    def _wake(self, loop: Loop) -> None:
        """Reports come over the stream, so this is the replica's own event loop in any case."""
        loop.wake()

    # --- who it is

    @property
    def holder(self) -> UUID:
        return self._holder

    @property
    def key(self) -> str | None:
        return self._key

    @property
    def suspect_after(self) -> timedelta:
        return self._patience.suspect_after

    @property
    def is_fit(self) -> bool:
        """Whether it is given new work."""
        return not (self._is_suspect or self._is_stalled or self._is_draining)

    def resume(self, assignments: Sequence[Assignment]) -> None:
        """Runs that the process has brought along."""
        self.runner.begin(assignments, resumed=True)

    # --- what it says

    def give_credit(self, runs: int, *, most: int) -> None:
        """It takes so many runs more; beyond its slots nothing is believed."""
        if not self._is_draining:
            self._receiver.credit = min(self._receiver.credit + runs, most)
            self._running.wake()

    def hear(self, seq: int, held: Sequence[Held], *, progress: Mapping[UUID, int], culprit: str | None) -> None:
        """A beat. progress: counters of the runs that it named, which grow as the runs advance."""
        for run_id, fence in held:
            reports = self._receiver.awaits(run_id, fence)
            if reports is not None and progress.get(run_id, 0) > self._progress.get(run_id, 0):
                reports.advance()
        self._progress = progress
        self._beat = _Beat(seq, held, culprit)
        self._house.beats.hear(self)
        was_fit = self.is_fit
        if (culprit is not None) != self._is_stalled:
            self._is_stalled = culprit is not None
            if self._is_stalled:
                self._house.observer.judged("stalled")
                self._house.log.warning("instance.stalled", **self._named())
            else:
                self._house.log.info("instance.moving", **self._named())
        if self._is_suspect:
            self._is_suspect = False
            self._house.log.info("instance.alive", **self._named())
        if self.is_fit and not was_fit:
            self._running.wake()

    def report(self, run_id: UUID, fence: int, said: Said) -> None:
        """Whatever it says of a run that is not its own is nothing."""
        reports = self._receiver.awaits(run_id, fence)
        if reports is None:
            return
        if said.usage is not None:
            reports.take_usage(said.usage)
        if said.progress is not None or said.fraction is not None:
            reports.progress(reports.message or "" if said.progress is None else said.progress, said.fraction)
        if said.log is not None:
            reports.take_log(said.log_from, said.log)

    def finish_runs(self, results: Sequence[Result]) -> None:
        """Each is settled and answered, or answered as it was before, or as fenced."""
        for result in results:
            reports = self._receiver.awaits(result.run_id, result.fence)
            if reports is None:
                self._answer_unknown(result)
                continue
            if result.usage is not None:
                reports.take_usage(result.usage)
            if result.log is not None:
                reports.take_log(0, result.log)
            reports.follow_ups = result.follow_ups
            if isinstance(result.outcome, Stopped):
                self._say_why(result.run_id)
            self._attempts.heard(result)
            self._receiver.ended(result.run_id, result.fence, result.outcome)

    def _say_why(self, run_id: UUID) -> None:
        """The process has its own timer, which may be ahead of ours by a little."""
        hand, now = self.hands.get(run_id), self._house.time.now()
        if hand is None or hand.stop.requested or hand.assignment.due_by is None or now is None:
            return
        if now >= hand.assignment.due_by - ABOUT_NOW:
            hand.stop.request(StopReason.TIMEOUT)

    def _answer_unknown(self, result: Result) -> None:
        hand = self.hands.get(result.run_id)
        if hand is not None and hand.assignment.fence == result.fence:
            # It is being written: the answer comes with that.
            return
        self._post.settled(result.run_id, result.fence, fenced=not self._attempts.has_taken(result))

    async def drain(self) -> None:
        """It takes no more work."""
        self._is_draining = True
        self._receiver.credit = 0
        await self._house.instances.drain(self._holder, self._stream)

    async def say_goodbye(self, returned: Sequence[Held]) -> None:
        """It leaves for good: what it returns is queued again, uncounted, and its lease is given up."""
        self._is_draining = True
        self._receiver.credit = 0
        for run_id, fence in returned:
            hand = self.hands.get(run_id)
            if hand is not None and hand.assignment.fence == fence:
                hand.ask_to_stop(StopReason.INTERRUPTED)
        await asyncio.sleep(0)
        for run_id, fence in returned:
            if self._receiver.awaits(run_id, fence) is not None:
                self._receiver.ended(run_id, fence, Stopped())
        await self.finish()
        await self._house.instances.leave(self._holder)

    # --- what the beats bring

    def take(self) -> Heard | None:
        """The latest beat, until it is answered."""
        self._taken = beat = self._beat
        if beat is None:
            return None
        return Heard(
            holder=self._holder,
            stream=self._stream,
            dead_after=self._patience.dead_after,
            held=sorted(set(beat.held)),
            known=sorted(set(self.hands.held()) - set(beat.held)),
            culprit=beat.culprit,
        )

    def answered(self, answer: Answer) -> None:
        if not answer.renewed:
            self._house.observer.judged("fenced")
            self._house.log.warning("instance.fenced", **self._named())
            self._post.lost()
            return
        if self._taken is not None:
            self._post.beat_taken(self._taken.seq)
            if self._beat is self._taken:
                self._beat = None
        for (run_id, fence), reason in answer.stops.items():
            hand = self.hands.get(run_id)
            # Its beat may name an attempt that has passed while we have a newer one of the same run in hand.
            if hand is not None and hand.assignment.fence == fence:
                self.hands.stop([(run_id, fence)], reason)
            elif reason is StopReason.FENCED:
                self._post.fenced(run_id, fence)
        if not self.runner.claiming:
            self.give_back(answer.strays)

    def give_back(self, strays: Sequence[Stray]) -> None:
        """Assigned to it, and never arrived, or let go: queued again, uncounted. Whether it had begun nobody knows,
        so what may be begun once only is closed.
        """
        for run_id, fence, agent in strays:
            hand = self.hands.get(run_id)
            if hand is not None and (hand.assignment.fence != fence or hand.ended):
                continue
            if hand is not None:
                # It was sent, and may be about to arrive: then it is too late.
                self._receiver.let_go(run_id, fence)
                self._post.fenced(run_id, fence)
                self._house.log.warning("run.dropped", **self._named(), run_id=str(run_id), fence=fence)
            policy = self._receiver.agents.get(agent)
            once = policy is None or policy.on_lost is OnLost.FAIL
            settlement = LET_GO_ONCE if once else LET_GO
            self._attempts.given_back.add((run_id, fence))
            self._settler.put(None, Ended(run_id=run_id, fence=fence, settlement=settlement))

    def silent(self, seconds: float) -> None:
        if seconds > 2 * self._patience.dead_after.total_seconds():
            # Whatever stands between us takes what we say: nobody else will ever end this.
            self._post.lost()
            return
        self._post.probe()
        if not self._is_suspect:
            self._is_suspect = True
            self._house.observer.judged("suspect")
            after = self._patience.suspect_after.total_seconds()
            self._house.log.warning("instance.suspect", **self._named(), reason=f"no beat for {after:g} s")

    def revoked(self) -> None:
        """Its stream ends. What it has in hand it stops before its lease has run out, and until then nobody else
        begins it.
        """
        assert self._key is not None  # nobody revokes what there is not
        self._house.log.warning("instance.revoked", **self._named(), key=self._key)
        self.runner.accepting = False
        self._post.revoked(self._key)

    def _named(self) -> dict[str, object]:
        return {"instance": self._who.name, "holder": str(self._holder)}
