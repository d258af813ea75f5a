"""Agents that are functions of this process: coroutines on its loop, plain functions in threads.

An ``async def`` agent runs in the task of its attempt, and what it does to that task (cancelling it,
leaving a cancellation behind, setting context variables) stays with it.

A stop is asked for like this: an agent that watches ``run.cancelled`` has been told and goes on, the
runner holds the watch; a coroutine that does not watch is cancelled at once; a plain function that
does not watch cannot be reached. The last resort is another cancellation, which reaches the coroutine;
a thread is left behind at once.
"""

import asyncio
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final, TypeAlias

from tocsin.declared import AgentFunction
from tocsin.domain.agent import AgentSpec
from tocsin.domain.payload import plain
from tocsin.domain.run import Failed, Outcome, Stopped
from tocsin.engine.executor import Assignment
from tocsin.engine.outcome import outcome_of, result_of
from tocsin.executors.threads import DaemonThreads
from tocsin.run import Reports, Run, StopSignal

TRACEBACK_FRAMES: Final = 10

Within: TypeAlias = Callable[[Assignment], AbstractContextManager[object]]
"""What surrounds an agent while it runs, in its task or thread."""

_NOTHING: Final = nullcontext()


def nothing(_: Assignment) -> AbstractContextManager[object]:
    """An agent runs by itself."""
    return _NOTHING


class InProcess:
    """The executor of an app's functions."""

    def __init__(
        self, agents: Mapping[str, AgentFunction], *, slots: int, name: str = "inprocess", within: Within = nothing
    ) -> None:
        self._functions = dict(agents)
        self._specs = {key: agent.spec for key, agent in agents.items()}
        self._name = name
        self._slots = slots
        self._within = within
        self._threads = DaemonThreads(f"tocsin-{name}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        return self._specs

    @property
    def slots(self) -> int:
        return self._slots

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        """See Executor."""
        agent = self._functions.get(assignment.agent)
        if agent is None:
            return Failed("UnknownAgent", f"no agent {assignment.agent!r} in this process; has its app been changed?")
        if stop.requested:
            return Stopped()
        if not agent.is_async:
            return await self._in_thread(agent, assignment, reports, stop)
        # The coroutine runs in this task.
        stop.interrupts = True
        if stop.task is None:
            stop.task = asyncio.current_task()
        try:
            with self._within(assignment):
                if agent.takes_run:
                    value = await agent.function(Run(assignment, reports, stop))
                else:
                    value = await agent.function()
            return result_of(value)
        except BaseException as error:
            # A SystemExit in an agent ends the agent, and a CancelledError that it raised does not end us.
            return _failed(error, agent.spec, reports, stop)

    async def _in_thread(
        self,
        agent: AgentFunction,
        assignment: Assignment,
        reports: Reports,
        stop: StopSignal,
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Outcome] = loop.create_future()

        def work() -> None:
            outcome = _call(agent, assignment, reports, stop, self._within)
            try:
                loop.call_soon_threadsafe(_resolve, done, outcome)
            except RuntimeError:
                # The loop is closed: the process is about to end, and nobody waits any more.
                return

        try:
            self._threads.run(work)
        except (RuntimeError, MemoryError) as error:
            # Another time it may work, so this is not final.
            return Failed(
                "NotStarted", f"no thread could be started for it ({error}): have fewer slots, or raise the limit"
            )
        return await done


def _call(agent: AgentFunction, assignment: Assignment, reports: Reports, stop: StopSignal, within: Within) -> Outcome:
    """A plain function has run to its end, in its thread."""
    try:
        run: tuple[Run, ...] = (Run(assignment, reports, stop),) if agent.takes_run else ()
        with within(assignment):
            value = agent.function(*run)
        return result_of(value)
    except BaseException as error:
        return _failed(error, agent.spec, reports, stop)


def _failed(error: BaseException, policy: AgentSpec, reports: Reports, stop: StopSignal) -> Outcome:
    outcome = outcome_of(error, stop, policy)
    if isinstance(outcome, Failed) and not outcome.final:
        # A report that cannot be given must not cost the run its end.
        with suppress(BaseException):
            for part in traceback.format_exception(error, limit=-TRACEBACK_FRAMES):
                for line in part.splitlines():
                    reports.log(plain(line))
    return outcome


def _resolve(done: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not done.done():
        done.set_result(outcome)
