"""Agents that do what a seed says, and a ledger of what they did that no database can forget."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, Succeeded
from tocsin.run import Reports, StopSignal
from tocsin.testing.clock import SimulatedTime


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt has begun in some replica's process."""

    run_id: UUID
    fence: int
    actor: str
    at: datetime
    effective_at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    """A settlement was answered. accepted: the database said that the attempt was still the sender's."""

    run_id: UUID
    fence: int
    actor: str
    state: str
    accepted: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Sent:
    """A settlement was sent, whatever came of it."""

    run_id: UUID
    fence: int
    actor: str
    state: str
    at: datetime


@dataclass(slots=True)
class Ledger:
    """What was done, sent and answered, outside of the database; in order."""

    begun: list[Begun] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Script:
    """What one attempt will do. ignores_stop: it goes on until it is cut."""

    seconds: float
    outcome: Outcome
    ignores_stop: bool = False
    follow_up: timedelta | None = None


class ScriptedExecutor:
    """Executes nothing: attempts last and end as drawn from the seed, on the replica's simulated clock."""

    def __init__(
        self,
        *,
        agents: Sequence[AgentSpec],
        slots: int,
        random: Random,
        time: SimulatedTime,
        clock: Clock,
        ledger: Ledger,
        lease: timedelta,
    ) -> None:
        self.name = "scripted"
        self.slots = slots
        self.actor = ""
        self._agents = {agent.name: agent for agent in agents}
        self._random = random
        self._time = time
        self._clock = clock
        self._ledger = ledger
        self._lease = lease.total_seconds()

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        return self._agents

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        script = self._draw(assignment)
        self._ledger.begun.append(
            Begun(assignment.run_id, assignment.fence, self.actor, self._time.instant, assignment.effective_at)
        )
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def end(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        timer = self._clock.call_later(script.seconds, lambda: end(script.outcome))
        if not script.ignores_stop:
            notice = self._random.choice([0.0, 0.3, 3.0])
            stop.on_request(lambda _: self._end_later(notice, end))
        if script.seconds > 10:
            reports.progress("half of it", 0.5)
        if script.follow_up is not None:
            reports.follow_up(None, script.follow_up, {"after": str(assignment.run_id)})
        try:
            return await ended
        finally:
            timer.cancel()

    def _end_later(self, seconds: float, end: Callable[[Outcome], None]) -> None:
        self._clock.call_later(seconds, lambda: end(Stopped()))

    def _draw(self, assignment: Assignment) -> Script:
        random = self._random
        length = random.choices(
            [random.uniform(0, 2), random.uniform(2, 30), random.uniform(1, 3) * self._lease], [6, 3, 1]
        )[0]
        output = f'{{"fence":{assignment.fence}}}'.encode()
        endings: list[Outcome] = [
            Succeeded(output),
            Failed("ValueError", "as the seed says"),
            Failed("Fatal", "as the seed says", final=True),
            Postponed(random.uniform(0, 60), "busy"),
        ]
        outcome = random.choices(endings, [16, 2, 1, 1])[0]
        again = timedelta(seconds=random.uniform(0, 90)) if random.random() < 0.03 else None
        return Script(length, outcome, random.random() < 0.15, again)
