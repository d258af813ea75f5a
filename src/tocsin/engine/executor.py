"""The seam between the engine and whatever does an agent's work.

A runner claims for one executor, hands it assignments, and settles what comes back. An executor
never touches the database and never raises: it turns everything that an agent does into an Outcome.
"""

from collections.abc import Mapping
from typing import Protocol

from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import Outcome
from tocsin.run import Reports, StopSignal

__all__ = ["Assignment", "Detached", "Executor"]


class Detached(Exception):
    """The attempt goes on where its holder takes it; this replica has no part in it any more."""


class Executor(Protocol):
    """Runs assignments of ``agents``, at most ``slots`` at once (the runner sees to that)."""

    @property
    def name(self) -> str: ...

    @property
    def agents(self) -> Mapping[str, AgentSpec]: ...

    @property
    def slots(self) -> int: ...

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        """The attempt has ended, as the outcome says. Runs in a task of its own.

        When ``stop`` is requested the executor brings the agent to an end in the way of its kind.
        Cancelling the task is the last resort: the executor ends what it can end, promptly. Whoever
        does not return a second later is left behind, and what it returns goes nowhere.
        """
        ...
