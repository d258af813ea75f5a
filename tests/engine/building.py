"""What the engine's tests are built from: a clock turned by hand, a world on a real database, peers without loops."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from uuid_utils.compat import uuid7

from tocsin.clock import Clock, Timer
from tocsin.declared import AgentFunction, App
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.run import Failed, FollowUp, Outcome, RunState, Settlement
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine.control import Control
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.executor import Executor
from tocsin.engine.hands import Hands
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.planner import Planner
from tocsin.engine.reports import Reporter
from tocsin.engine.runner import Runner
from tocsin.engine.settler import Settler
from tocsin.engine.sweeper import Sweeper
from tocsin.executors.inprocess import InProcess, Within, nothing
from tocsin.hub import Replica
from tocsin.run import Reports, StopSignal
from tocsin.settings import Settings
from tocsin.store.attempts import Attempts, Claimed, Ended, Quota
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation, Leases
from tocsin.store.runs import Runs, Swept
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Silence

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
PATIENCE = float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))
DEADLINE = 30.0 * PATIENCE
"""Seconds after which a condition that should come true has not."""


@dataclass
class _Timer:
    at: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class HandClock:
    """A clock that stands still until it is turned; what is due on the way is called."""

    def __init__(self, at: datetime = NOON) -> None:
        self._at = at
        self._since = 1_000.0
        self._timers: list[_Timer] = []

    def now(self) -> datetime:
        return self._at

    def monotonic(self) -> float:
        return self._since

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = _Timer(self._since + seconds, callback)
        self._timers.append(timer)
        return timer

    def turn(self, by: timedelta | float) -> None:
        seconds = by if isinstance(by, int | float) else by.total_seconds()
        until = self._since + seconds
        self._at += timedelta(seconds=seconds)
        self._since = until
        due = sorted((t for t in self._timers if t.at <= until), key=lambda t: t.at)
        self._timers = [t for t in self._timers if t.at > until]
        for timer in due:
            if not timer.cancelled:
                timer.callback()


class Heard(Silence):
    """A log that keeps its events."""

    is_info = True

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    info = warning = error = debug

    def count(self, event: str) -> int:
        return sum(heard == event for heard, _ in self.events)


async def eventually(
    condition: Callable[[], Awaitable[object]] | Callable[[], object], *, within: float = DEADLINE, what: str = ""
) -> Any:
    """The condition's first truthy answer; a failure when none comes in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        if loop.time() > until:
            raise AssertionError(f"{what or 'the condition'} did not come true within {within:g} s")
        await asyncio.sleep(0.02)


async def no_agent() -> None:
    """An agent that does nothing."""


def an_app(
    *triggers: TriggerSpec,
    agents: Mapping[str, Callable[..., Any]] | Iterable[str] = ("agent",),
    source: str = "app.py",
    **policy: Any,
) -> App:
    """An app whose agents share one policy. agents: functions by name, or names that do nothing."""
    functions = dict(agents) if isinstance(agents, Mapping) else dict.fromkeys(agents, no_agent)
    return App(
        source=source,
        functions={
            name: AgentFunction.of(AgentSpec(name=name, **policy), function) for name, function in functions.items()
        },
        triggers=triggers,
    )


def a_trigger(name: str = "t", schedule: Schedule | None = None, *, agent: str = "agent", **fields: Any) -> TriggerSpec:
    return TriggerSpec(name=name, agent=agent, schedule=schedule, **fields)


class Scripted:
    """An executor whose attempts end when the test says so."""

    name = "scripted"

    def __init__(self, *agents: str, slots: int = 10, **policy: Any) -> None:
        self.agents = {agent: AgentSpec(name=agent, **policy) for agent in agents or ("agent",)}
        self.slots = slots
        self.in_hand: list[tuple[Assignment, Reports, StopSignal, asyncio.Future[Outcome]]] = []

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.in_hand.append((assignment, reports, stop, future))
        return await future

    async def end_all(self, outcome: Outcome) -> None:
        """Every attempt in hand has ended so, and its runner has seen it."""
        ended, self.in_hand = self.in_hand, []
        for _, _, _, future in ended:
            if not future.done():
                future.set_result(outcome)
        for _ in range(3):
            await asyncio.sleep(0)


class Peer:
    """One replica's parts, without loops: the test takes each step itself."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        executor: Executor | None = None,
        slots: int = 10,
        attempts: type[Attempts] = Attempts,
    ) -> None:
        self.database = database
        self.clock = clock
        self.who = Incarnation(f"peer-{uuid4().hex[:6]}")
        self.log = Heard()
        self.hands = Hands()
        self.time = DatabaseTime(clock)
        self.runs = Runs(database=database, clock=clock, who=self.who)
        self.attempts = attempts(database=database, clock=clock, who=self.who)
        self.leases = Leases(database=database, clock=clock, who=self.who)
        self.triggers = Triggers(database=database, clock=clock, who=self.who)
        self.executor = executor or Scripted(slots=slots)
        self.settled: list[Ended] = []
        self.settler = Settler(
            attempts=self.attempts,
            hands=self.hands,
            clock=clock,
            log=self.log,
            settled=lambda ends: self.settled.extend(ended for _, ended in ends),
        )
        self.reporter = Reporter(attempts=self.attempts, hands=self.hands, clock=clock, wake=_nothing)
        self.runner = Runner(
            executor=self.executor,
            attempts=self.attempts,
            hands=self.hands,
            settler=self.settler,
            reporter=self.reporter,
            clock=clock,
            time=self.time,
            log=self.log,
            batch=500,
            wake=_nothing,
        )
        self.planner = Planner(
            database=database,
            triggers=self.triggers,
            clock=clock,
            time=self.time,
            log=self.log,
            batch=500,
            fired=_nothing,
        )
        self.sweeper = Sweeper(
            runs=self.runs,
            leases=self.leases,
            triggers=self.triggers,
            clock=clock,
            log=self.log,
            lease=LEASE,
            sweep_every=timedelta(seconds=5),
        )

    async def register(self, lease: timedelta = LEASE) -> "Peer":
        await self.leases.register(name=self.who.name, version="0", tzdata="", agents=["agent"], slots=10, lease=lease)
        return self

    async def claim(self, agent: str = "agent", *, live: int = 10, late: int = 0, free: int | None = None) -> Claimed:
        quotas = [Quota(agent, "late", late), Quota(agent, "live", live)]
        return await self.attempts.claim(quotas, free=live + late if free is None else free)

    async def claim_one(self, agent: str = "agent") -> Assignment:
        claimed = await self.claim(agent)
        assert len(claimed.assignments) == 1, claimed
        return claimed.assignments[0]

    async def settle(self, *ends: Ended) -> set[UUID]:
        return await self.attempts.settle(ends)

    async def sweep(self, *dead: UUID, by_lease: bool = True) -> list[Swept]:
        return await self.runs.sweep(dead_holders=dead, by_lease=by_lease, batch=500)


def _nothing() -> None:
    """Nobody is there to be woken."""


def an_end(
    assignment: Assignment,
    state: RunState = RunState.SUCCEEDED,
    *,
    fence: int | None = None,
    output: object = b"null",
    usage: str | None = None,
    log: str | None = None,
    follow_ups: tuple[FollowUp, ...] = (),
    **settlement: Any,
) -> Ended:
    assert isinstance(output, bytes | None)
    return Ended(
        run_id=assignment.run_id,
        fence=assignment.fence if fence is None else fence,
        settlement=Settlement(state, output=output if state is RunState.SUCCEEDED else None, **settlement),
        usage=usage,
        log=log,
        follow_ups=follow_ups,
    )


def a_failure(message: str = "no luck") -> Failed:
    return Failed("ValueError", message)


@dataclass
class World:
    """A database, the clock that everybody in it goes by, and SQL for looking behind the curtain."""

    dsn: str
    database: Database
    admin: "asyncpg.Connection[asyncpg.Record]"
    clock: HandClock = field(default_factory=HandClock)

    @property
    def control(self) -> Control:
        return Control(database=self.database, clock=self.clock, actor="test")

    async def declare(self, *triggers: TriggerSpec, **app: Any) -> dict[str, Any]:
        return await self.control.declare(an_app(*triggers, **app))

    async def peer(self, *, lease: timedelta = LEASE, **options: Any) -> Peer:
        return await Peer(self.database, self.clock, **options).register(lease)

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.admin.fetch(query, *arguments)]

    async def row(self, query: str, *arguments: object) -> dict[str, Any]:
        rows = await self.rows(query, *arguments)
        assert len(rows) == 1, rows
        return rows[0]

    async def value(self, query: str, *arguments: object) -> Any:
        return await self.admin.fetchval(query, *arguments)

    async def run(self, run_id: UUID) -> dict[str, Any]:
        return await self.row("SELECT * FROM tocsin.runs WHERE id = $1", run_id)

    async def trail(self, run_id: UUID) -> list[tuple[str | None, str, str | None]]:
        """(from, to, reason) of each edge, once it is known that their numbers have no gap."""
        rows = await self.rows("SELECT * FROM tocsin.transitions WHERE run_id = $1 ORDER BY seq", run_id)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        return [(row["from_state"], row["to_state"], row["reason"]) for row in rows]

    async def trigger_id(self, name: str = "t") -> UUID:
        found = await self.value("SELECT id FROM tocsin.triggers WHERE name = $1 AND status <> 'deleted'", name)
        assert isinstance(found, UUID), name
        return UUID(int=found.int)

    async def queue(
        self,
        trigger: str = "t",
        at: timedelta = timedelta(0),
        *,
        overlap: str = "allow",
        scope: str | None = None,
        kind: str = "schedule",
        **columns: Any,
    ) -> UUID:
        """A queued run, due at noon plus ``at``. scope: its trigger's, unless overlap is allowed."""
        trigger_id = await self.trigger_id(trigger)
        run_id = columns.pop("id", None) or uuid7()
        agent = await self.value("SELECT agent FROM tocsin.triggers WHERE id = $1", trigger_id)
        values: dict[str, Any] = {
            "id": run_id,
            "trigger_id": trigger_id,
            "trigger_version": 1,
            "agent": agent,
            "kind": kind,
            "nominal_at": NOON + at,
            "effective_at": NOON + at,
            "occurrence_key": None if kind == "schedule" else str(run_id),
            "lane": "live",
            "priority": 5,
            "overlap": overlap,
            "scope": None if overlap == "allow" else scope or str(trigger_id),
            "available_at": NOON + at,
            "max_attempts": 1,
            "input": "null",
            "queued_at": NOON + at,
            "asked_by": "test",
        } | columns
        names, places = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await self.admin.execute(f"INSERT INTO tocsin.runs ({names}) VALUES ({places})", *values.values())
        await self.admin.execute(
            "INSERT INTO tocsin.occurrences VALUES ($1, $2, $3, $4)",
            *(trigger_id, values["nominal_at"], values["occurrence_key"], run_id),
        )
        return UUID(int=run_id.int)


TRIED: Final[dict[str, Any]] = {"fence": 1, "attempt": 1, "seq": 3, "claimed_by": uuid4(), "started_at": NOON}
"""Columns of a queued run that has had one attempt."""


def quick_settings(**given: Any) -> Settings:
    """A replica's settings with every interval short."""
    values: dict[str, Any] = {
        "lease": 3,
        "renew_every": 0.5,
        "sweep_every": 0.3,
        "poll_every": 0.3,
        "drain_timeout": 5,
        "slots": 20,
    } | given
    return Settings(**values)


def a_replica(
    dsn: str,
    agents: Mapping[str, Callable[..., Any]],
    *,
    log: Heard | None = None,
    policy: Any = None,
    observer: Observer = UNOBSERVED,
    within: Within = nothing,
    **settings: Any,
) -> Replica:
    """A whole replica of the present, on the system's clock."""
    app = an_app(agents=agents, **(policy or {}))
    chosen = quick_settings(**settings)
    return Replica(
        dsn=dsn,
        settings=chosen,
        executors=[InProcess(app.functions, slots=chosen.slots, within=within)],
        log=log or Heard(),
        name=f"replica-{uuid4().hex[:6]}",
        observer=observer,
    )


def drive(step: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(step)
