"""The executor of one connected process: assignments go out over its stream, outcomes come back over it.

Its slots are what the process has in hand and what it has given credit for, so that nothing is claimed
that it would not take at once. Knows nothing of the wire: that is the edge's.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import Failed, Outcome, Stopped, StopReason
from tocsin.engine.executor import Detached
from tocsin.engine.run_reports import RunReports
from tocsin.run import Reports, StopSignal

GONE: frozenset[StopReason] = frozenset({StopReason.FENCED, StopReason.LEASE_LOST})
"""Asked so, a run is not the process's any more, and nobody waits for what becomes of it."""


class Outbox(Protocol):
    """What the executor has to say to the process; each call returns at once."""

    def assign(self, assignment: Assignment, policy: AgentSpec) -> bool:
        """False: it is too large to be sent."""
        ...

    def cancel(self, assignment: Assignment, reason: StopReason, policy: AgentSpec) -> None: ...


@dataclass(slots=True)
class _Awaited:
    fence: int
    outcome: "asyncio.Future[Outcome]"
    reports: RunReports


class Remote:
    """Runs assignments in a process elsewhere, for as long as its stream lasts."""

    def __init__(self, name: str, policies: Mapping[str, AgentSpec], outbox: Outbox) -> None:
        self._name = name
        self._policies = policies
        self._outbox = outbox
        self._awaited: dict[UUID, _Awaited] = {}
        self._is_detached = False
        self.credit = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        return self._policies

    @property
    def slots(self) -> int:
        return len(self._awaited) + self.credit

    def awaits(self, run_id: UUID, fence: int) -> RunReports | None:
        """The reports of a run whose end is awaited; None for any other, or another fence."""
        awaited = self._awaited.get(run_id)
        return awaited.reports if awaited is not None and awaited.fence == fence else None

    def ended(self, run_id: UUID, fence: int, outcome: Outcome) -> bool:
        """The process says how the run ended. False: nobody waits for that."""
        awaited = self._awaited.get(run_id)
        if awaited is None or awaited.fence != fence or awaited.outcome.done():
            return False
        awaited.outcome.set_result(outcome)
        return True

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        """See Executor. Raises: Detached, when the stream ends first."""
        assert isinstance(reports, RunReports)  # the engine's own, which is told sums and not parts of them
        if self._is_detached:
            raise Detached
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        policy = self._policies[assignment.agent]
        self._awaited[assignment.run_id] = _Awaited(assignment.fence, outcome, reports)
        if not assignment.resumed:
            if not self._outbox.assign(assignment, policy):
                del self._awaited[assignment.run_id]
                return Failed("PayloadTooLarge", "the input, as it is stored, is too large for a message", final=True)
            self.credit = max(0, self.credit - 1)

        def ask(reason: StopReason) -> None:
            self._outbox.cancel(assignment, reason, policy)
            if reason in GONE and not outcome.done():
                outcome.set_result(Stopped())

        stop.on_request(ask)
        try:
            return await outcome
        finally:
            if self._awaited.get(assignment.run_id, None) is not None and (
                self._awaited[assignment.run_id].outcome is outcome
            ):
                del self._awaited[assignment.run_id]

    def let_go(self, run_id: UUID, fence: int) -> None:
        """Nobody waits any more for the end of this run, as the process does not have it."""
        awaited = self._awaited.get(run_id)
        if awaited is not None and awaited.fence == fence and not awaited.outcome.done():
            awaited.outcome.set_exception(Detached())

    def detach(self) -> None:
        """The stream is gone: whatever is in hand goes on without us."""
        self._is_detached = True
        self.credit = 0
        for awaited in list(self._awaited.values()):
            if not awaited.outcome.done():
                awaited.outcome.set_exception(Detached())
