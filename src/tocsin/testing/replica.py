"""One replica in a simulation: the product's own services, composed as the hub does, stepped by hand."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, Protocol
from uuid import UUID

from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import Contended, StoreError
from tocsin.domain.run import RunState, Settlement, StopReason
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.desk import Desk
from tocsin.engine.hands import Hand, Hands
from tocsin.engine.keeper import Keeper
from tocsin.engine.planner import Planner
from tocsin.engine.reports import Reporter
from tocsin.engine.runner import Runner
from tocsin.engine.settler import Settler
from tocsin.engine.sweeper import Sweeper
from tocsin.store.attempts import Attempts, Ended
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation, Leases
from tocsin.store.runs import Runs
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log
from tocsin.testing.clock import SimulatedClock, SimulatedTime
from tocsin.testing.faults import Faults, Hold, Seam, When
from tocsin.testing.scripted import Answered, Ledger, ScriptedExecutor, Sent

LEASE: Final = timedelta(seconds=60)
RENEW_EVERY: Final = timedelta(seconds=15)
SWEEP_EVERY: Final = timedelta(seconds=5)
SLOTS: Final = 6
BATCH: Final = 50
BREATHS: Final = 4
"""Turns of the event loop after which whatever a timer set off has come to rest."""


class Step(Protocol):
    async def run_once(self) -> bool: ...


class Remembering(Attempts):
    """Attempts that write every settlement and every answer to one into the ledger."""

    def __init__(self, *, ledger: Ledger, time: SimulatedTime, seam: Seam, clock: SimulatedClock, who: Incarnation):
        super().__init__(database=seam, clock=clock, who=who)
        self._ledger = ledger
        self._time = time
        self._me = who

    async def settle(self, ends: Sequence[Ended]) -> set[UUID]:
        actor = self._me.actor
        self._ledger.sent += [
            Sent(end.run_id, end.fence, actor, end.settlement.state.value, self._time.instant) for end in ends
        ]
        ours = await super().settle(ends)
        for end in ends:
            accepted = end.run_id in ours
            state = end.settlement.state.value
            self._ledger.answered.append(Answered(end.run_id, end.fence, actor, state, accepted, self._time.instant))
        return ours


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all replicas of a simulation share. store: the product's, or one with a guard taken out."""

    agents: Sequence[AgentSpec]
    random: Random
    time: SimulatedTime
    ledger: Ledger
    log: Log
    store: type[Triggers] = Triggers


class SimulatedReplica:
    """A process that steps when it is told to. keeper_clock: its keeper's thread, which can hang alone."""

    def __init__(self, *, name: str, pool: Database, keeping: Database, world: World) -> None:
        origin = world.random.uniform(0, 100_000)
        self.name = name
        self.who = Incarnation(name)
        self.clock = SimulatedClock(world.time, origin=origin)
        self.keeper_clock = SimulatedClock(world.time, origin=origin)
        self.faults = Faults(world.random)
        self.hands = Hands()
        self.busy: asyncio.Task[bool] | None = None
        self.hold: Hold | None = None
        self.renewed_at = float("-inf")
        self.errors = 0
        self._world = world
        self._time = world.time
        self._agents = sorted(agent.name for agent in world.agents)
        self._keeping = keeping
        self._believed = DatabaseTime(self.clock)
        database = Seam(pool, self.faults, world.time)
        self.runs = Runs(database=database, clock=self.clock, who=self.who)
        self.attempts = Remembering(ledger=world.ledger, time=world.time, seam=database, clock=self.clock, who=self.who)
        self.leases = Leases(database=database, clock=self.clock, who=self.who)
        self.triggers = world.store(database=database, clock=self.clock, who=self.who)
        self._compose_work()
        self._compose_planning(database)
        self._compose_keeper()

    def _compose_work(self) -> None:
        world, clock = self._world, self.clock
        self.executor = ScriptedExecutor(
            agents=world.agents,
            slots=SLOTS,
            random=world.random,
            time=world.time,
            clock=clock,
            ledger=world.ledger,
            lease=LEASE,
        )
        self.executor.actor = self.who.actor
        self.reporter = Reporter(attempts=self.attempts, hands=self.hands, clock=clock, wake=_nothing)
        self.settler = Settler(
            attempts=self.attempts, hands=self.hands, clock=clock, log=world.log, settled=self._on_settled
        )
        self.runner = Runner(
            executor=self.executor,
            attempts=self.attempts,
            hands=self.hands,
            settler=self.settler,
            reporter=self.reporter,
            clock=clock,
            time=self._believed,
            log=world.log,
            batch=BATCH,
            wake=_nothing,
        )

    def _compose_planning(self, database: Database) -> None:
        self.sweeper = Sweeper(
            runs=self.runs,
            leases=self.leases,
            triggers=self.triggers,
            clock=self.clock,
            log=self._world.log,
            lease=LEASE,
            sweep_every=SWEEP_EVERY,
        )
        self.planner = Planner(
            database=database,
            triggers=self.triggers,
            clock=self.clock,
            time=self._believed,
            log=self._world.log,
            batch=BATCH,
            fired=_nothing,
            desk=Desk([self.runner], self.who),
        )

    def _compose_keeper(self) -> None:
        self._keeper_database = Seam(self._keeping, self.faults, self._time)
        self.keeper = Keeper(
            database=self._keeper_database,
            leases=Leases(database=self._keeper_database, clock=self.keeper_clock, who=self.who),
            hands=self.hands,
            who=self.who,
            clock=self.keeper_clock,
            log=self._world.log,
            lease=LEASE,
            renew_every=RENEW_EVERY,
            stop=self._stop,
            strays=self._give_back,
            describe=lambda: (self.name, "simulated", self._agents, SLOTS),
        )

    @property
    def able(self) -> bool:
        """Whether it can be stepped: neither frozen nor in the middle of a held step."""
        return not self.clock.frozen and self.busy is None

    def freeze(self) -> None:
        self.clock.frozen = self.keeper_clock.frozen = True

    def thaw(self) -> None:
        self.clock.frozen = self.keeper_clock.frozen = False

    async def step(self, service: Step) -> bool:
        """One guarded step, as the loop does it. What is no store's error is a bug and is raised."""
        try:
            more = await service.run_once()
        except Contended:
            return True
        except StoreError:
            self.errors += 1
            return False
        self.executor.actor = self.who.actor
        return more

    async def keep(self) -> None:
        """The lease is renewed, unless the keeper hangs."""
        if not self.keeper_clock.frozen:
            self.renewed_at = self._time.elapsed
            failed = self.errors
            if await self.step(self.keeper):
                await self.step(self.keeper)
            if self.errors > failed and not self.faults.cut_off:
                # The connection broke, and the lock that it held went with it.
                await self.forget_lock()
                self._keeper_database.generation += 1

    async def look(self) -> None:
        """The sweeper knows what there is to do, as the hub's lookout tells it."""
        try:
            seen = await self.leases.look(self._agents)
        except StoreError:
            self.sweeper.blinded()
            return
        self.sweeper.expect(others_run=seen.others_run, cancelling=seen.cancelling, waiting=seen.waiting)

    async def begin_held(self, service: Step, statement: str, when: When) -> None:
        """The service's step stands at a statement, or is through if it sent no such one."""
        self.hold = self.faults.hold = Hold(statement, when)
        self.busy = asyncio.ensure_future(self.step(service))
        reached = asyncio.ensure_future(self.hold.reached.wait())
        await asyncio.wait({self.busy, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if self.busy.done():
            await self.let_go()

    async def let_go(self) -> None:
        """The held step has been let through to its end."""
        if self.busy is None or self.hold is None:
            return
        self.faults.hold = None
        self.hold.go.set()
        await self.busy
        self.busy = self.hold = None

    async def drain(self) -> None:
        """It claims no more, stops its work, writes the last ends and gives up its lease."""
        await self.let_go()
        self.runner.accepting = False
        self.hands.stop_all(StopReason.INTERRUPTED)
        for _ in range(8):
            self._time.advance(1)
            await breathe()
        for hand in self.hands.all():
            if hand.task is not None and not hand.ended:
                hand.task.cancel()
        await breathe()
        while len(self.settler):
            await self.step(self.settler)
        await self.keeper.leave()
        await self.forget_lock()

    async def die(self) -> None:
        """The process is gone: its tasks, its timers, its session's lock; nothing of it is written any more."""
        self.freeze()
        for task in [self.busy, *(hand.task for hand in self.hands.all())]:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self.forget_lock()

    async def forget_lock(self) -> None:
        """The server has noticed that the keeper's session is gone."""
        async with self._keeping.session() as session:
            await session.connection.execute("SELECT pg_advisory_unlock_all()")

    def _stop(self, runs: Iterable[tuple[UUID, int]] | None, reason: StopReason) -> None:
        if runs is None:
            self.hands.stop_all(reason)
        else:
            # In the order of their ids: a set's order is another one in each process.
            self.hands.stop(sorted(runs), reason)

    def _give_back(self, strays: tuple[tuple[UUID, int], ...]) -> None:
        for run_id, fence in strays:
            if self.hands.get(run_id) is None:
                settlement = Settlement(RunState.QUEUED, reason=StopReason.INTERRUPTED.value, counted=False)
                self.settler.put(None, Ended(run_id=run_id, fence=fence, settlement=settlement))

    def _on_settled(self, ends: Sequence[tuple[Hand | None, Ended]]) -> None:
        if any(hand is not None and hand.assignment.rearms for hand, _ in ends):
            self.sweeper.expect_rearm()


async def breathe() -> None:
    """Whatever the last timers set off has come to rest."""
    for _ in range(BREATHS):
        await asyncio.sleep(0)


def _nothing() -> None:
    """Nobody is there to be woken: the simulation steps everybody itself."""
