"""The seam between the engine and whatever does an agent's work.

A runner claims for one executor, hands it assignments, and settles what comes back. An executor
never touches the database and never raises: it turns everything that an agent does into an Outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tocsin.domain.agent import AgentSpec
from tocsin.domain.run import Outcome, RunKind
from tocsin.run import LastRun, Reports, StopSignal


@dataclass(slots=True, kw_only=True)
class Assignment:
    """A claimed run in its holder's hand.

    input and last_output: JSON, encoded. due_by: the instant, on the database's clock, at which this
    attempt is stopped; None without a limit.
    """

    run_id: UUID
    trigger_id: UUID
    trigger: str
    agent: str
    kind: RunKind
    fence: int
    attempt: int
    max_attempts: int
    nominal_at: datetime
    effective_at: datetime
    started_at: datetime
    due_by: datetime | None
    input: str
    idempotency_key: str
    last: LastRun | None


class Executor(Protocol):
    """Runs assignments of ``agents``, at most ``slots`` at once (the runner sees to that)."""

    @property
    def name(self) -> str: ...

    @property
    def agents(self) -> Mapping[str, AgentSpec]: ...

    @property
    def slots(self) -> int: ...

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        """The attempt has ended, as the outcome says.

        When ``stop`` is requested the executor brings the agent to an end in the way of its kind.
        Cancelling this coroutine is the last resort: it returns promptly, leaving nothing behind
        that it can end.
        """
        ...
