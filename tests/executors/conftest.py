"""Builders for what an executor is handed, and a record of what it reports."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tocsin.declared import AgentFunction, CommandAgent
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import Outcome, RunKind
from tocsin.executors.command import Command
from tocsin.executors.inprocess import InProcess
from tocsin.run import StopSignal

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Recorded:
    """Reports, kept in lists; ``said`` is set at each line or progress."""

    lines: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    said: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self, message: str, fraction: float | None) -> None:
        self.steps.append(message)
        self.said.set()

    def usage(self, figures: dict[str, Any]) -> None:
        self.figures.append(figures)

    def log(self, line: str) -> None:
        self.lines.append(line)
        self.said.set()

    def follow_up(self, at: datetime | None, after: timedelta | None, payload: Any) -> None:
        raise NotImplementedError

    async def until_said(self) -> None:
        async with asyncio.timeout(30):
            await self.said.wait()


def an_assignment(agent: str = "agent", **changes: Any) -> Assignment:
    values: dict[str, Any] = {
        "run_id": UUID(int=7),
        "trigger_id": UUID(int=8),
        "trigger": "daily",
        "agent": agent,
        "kind": RunKind.SCHEDULE,
        "lane": "live",
        "fence": 3,
        "attempt": 2,
        "max_attempts": 5,
        "nominal_at": NOON,
        "effective_at": NOON + timedelta(seconds=5),
        "available_at": NOON + timedelta(seconds=5),
        "started_at": NOON + timedelta(seconds=6),
        "deadline_at": None,
        "due_by": None,
        "input": '{"repo":"."}',
        "occurrence_key": None,
        "last": None,
    }
    return Assignment(**(values | changes))


@dataclass
class Attempt:
    """An execution under way."""

    task: "asyncio.Task[Outcome]"
    stop: StopSignal
    reports: Recorded

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(60):
            return await self.task


@dataclass(frozen=True)
class Begin:
    """Begins attempts, of a function or of a program."""

    def function(self, function: Callable[..., Any], policy: AgentSpec | None = None, **changes: Any) -> Attempt:
        spec = policy or AgentSpec(name="agent")
        return self._begin(InProcess({spec.name: AgentFunction.of(spec, function)}, slots=4), changes)

    def command(
        self,
        *argv: str,
        cancel_within: float = 30,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        environ: dict[str, str] | None = None,
        **changes: Any,
    ) -> Attempt:
        spec = AgentSpec(name="agent", cancel_within=timedelta(seconds=cancel_within))
        command = CommandAgent(spec=spec, argv=argv, cwd=cwd, env=env or {})
        return self._begin(Command({"agent": command}, slots=4, environ=environ), changes)

    def _begin(self, executor: InProcess | Command, changes: dict[str, Any]) -> Attempt:
        stop, reports = StopSignal(), Recorded()
        task = asyncio.create_task(executor.execute(an_assignment(**changes), reports, stop))
        return Attempt(task, stop, reports)


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Afterwards no task, no child process and no open file is left of what was begun."""
    before, children, files = asyncio.all_tasks(), children_of(os.getpid()), _open_files()
    yield Begin()
    # The test runner's own tasks change with each fixture.
    left = {task for task in asyncio.all_tasks() - before if "TestRunner" not in repr(task.get_coro())}
    assert not left, f"tasks left behind: {left}"
    assert children_of(os.getpid()) <= children
    assert _open_files() <= files


def children_of(parent: int) -> set[int]:
    """The processes, zombies included, whose parent this is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(stat.parent.name))
    return found


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))
