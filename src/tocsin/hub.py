"""The composition root: one replica. Start order stands here once, and drain is its reverse.

Entering: store, keeper (lease first, renewed to the last), sweeper, pruner, reporter, settler,
lookout, runners, planner. Leaving: the planner stops; the runners stop claiming, what runs goes on
within the drain's limit, then is interrupted and released; the settler writes the last end; the lease
is given up; the store closes. Processes that run agents elsewhere come and go meanwhile, each with a
runner of its own (engine/attachment.py); what they have in hand is theirs, and no drain of ours.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final
from uuid import UUID

from tocsin.clock import Clock, SystemClock
from tocsin.domain.errors import SchemaMismatch, StoreError
from tocsin.domain.run import RunState, Settlement, StopReason
from tocsin.engine.beats import Beats
from tocsin.engine.connection import House
from tocsin.engine.control import Control
from tocsin.engine.crowd import Crowd
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.desk import Desk
from tocsin.engine.drain import Drain
from tocsin.engine.exchange import Exchange
from tocsin.engine.executor import Executor
from tocsin.engine.hands import Hands
from tocsin.engine.hearing import Hearing
from tocsin.engine.keeping import Keeping
from tocsin.engine.lookout import Lookout, Served
from tocsin.engine.matcher import Matcher
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.planner import Planner
from tocsin.engine.pruner import Pruner
from tocsin.engine.pulse import Pulse
from tocsin.engine.reports import Reporter
from tocsin.engine.runner import Runner
from tocsin.engine.service import Loop, Service
from tocsin.engine.settler import Settler
from tocsin.engine.sweeper import Sweeper
from tocsin.settings import Settings
from tocsin.store.attempts import Attempts, Ended
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.feed import Feed
from tocsin.store.instances import Instances
from tocsin.store.leases import Incarnation, Leases
from tocsin.store.migrate import schema_state
from tocsin.store.retention import Retention
from tocsin.store.runs import Runs
from tocsin.store.signals import Signals
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log
from tocsin.version import __version__

HOT: Final = ("lock_due", "materialise", "next_wake", "claim", "claim_plain", "settle_plain", "settle", "report")
"""Statements that the first burst is to find planned."""

REHEARSED: Final = 3
"""Sessions: the planner's, a claim's and a settlement's are in use at once."""

COLLECT_AFTER: Final = (20_000, 20, 20)
"""Allocations in excess before a collection of the young, and how many of those before one of the older."""


class Replica:
    """Fires triggers and runs agents from entering to leaving.

    ``hurry()`` sends a drain to its next stage at once.
    """

    def __init__(
        self,
        *,
        dsn: str,
        settings: Settings,
        executors: Sequence[Executor],
        log: Log,
        clock: Clock | None = None,
        name: str | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.settings = settings
        self.database = Database(dsn, pooler=settings.pooled)
        self.who = Incarnation(name or f"{socket.gethostname()}:{os.getpid()}")
        self.hands = Hands()
        self.draining = False
        self._executors = [executor for executor in executors if executor.agents]
        self._own = sorted({agent for executor in self._executors for agent in executor.agents})
        self.served = Served(self._own)
        self._log = log
        self.observer = observer
        self._clock = clock or SystemClock()
        self._time = DatabaseTime(self._clock)
        self._stack = AsyncExitStack()
        self._loops: list[Loop] = []
        self._compose()

    def _compose(self) -> None:
        self._runs = Runs(database=self.database, clock=self._clock, who=self.who)
        self._attempts = Attempts(database=self.database, clock=self._clock, who=self.who)
        self._leases = Leases(database=self.database, clock=self._clock, who=self.who)
        self._triggers = Triggers(database=self.database, clock=self._clock, who=self.who)
        self._crowd = Crowd()
        self._exchange = Exchange(who=self.who, time=self._time, log=self._log, crowd=self._crowd)
        self._signals = Signals(database=self.database, hear=self._exchange.hear)
        self._compose_watch()
        self._compose_work()
        self._compose_connections()
        self._exchange.join(planner=self.planner, runners=self.runners, sweeper=self.sweeper, renew=self._renew)

    def _compose_watch(self) -> None:
        """Who keeps our lease, sees what peers do, and takes what the dead have left."""
        clock, log, settings = self._clock, self._log, self.settings
        self._keeping = Keeping(
            like=self.database,
            who=self.who,
            hands=self.hands,
            clock=clock,
            log=log,
            lease=settings.lease,
            renew_every=settings.renew_every,
            describe=lambda: (self.who.name, __version__, self._own, sum(e.slots for e in self._executors)),
            give_back=self._give_back,
            observer=self.observer,
        )
        self.sweeper = Sweeper(
            runs=self._runs,
            leases=self._leases,
            triggers=self._triggers,
            clock=clock,
            log=log,
            lease=settings.lease,
            sweep_every=settings.sweep_every,
            freed=self._exchange.on_freed,
            observer=self.observer,
        )
        self.lookout = Lookout(
            leases=self._leases,
            signals=self._signals,
            clock=clock,
            time=self._time,
            agents=self.served.names,
            poll_every=settings.poll_every,
            seen=self._exchange.on_look,
            blinded=self.sweeper.blinded,
        )
        self.pruner = Pruner(
            retention=Retention(database=self.database),
            feed=Feed(database=self.database, clock=clock),
            clock=clock,
            time=self._time,
            log=log,
            keep=settings.retention,
            keep_audit=settings.audit_retention,
            keep_feed=settings.feed_retention,
        )

    def _compose_work(self) -> None:
        """Who plans, executes and settles."""
        clock, log, settings = self._clock, self._log, self.settings
        exchange = self._exchange
        self.reporter = Reporter(
            attempts=self._attempts,
            hands=self.hands,
            clock=clock,
            # Agents report from any thread.
            wake=lambda: exchange.wake_from_any_thread(Reporter.name, self._here),
        )
        self.settler = Settler(
            attempts=self._attempts,
            hands=self.hands,
            clock=clock,
            log=log,
            settled=self._exchange.on_settled,
            wake=lambda: exchange.wake(Settler.name),
            beginning=lambda: self.planner.claiming,
            observer=self.observer,
        )
        self.runners = [
            Runner(
                executor=executor,
                attempts=self._attempts,
                hands=self.hands,
                settler=self.settler,
                reporter=self.reporter,
                clock=clock,
                time=self._time,
                log=log,
                batch=settings.batch,
                wake=exchange.wake_runners,
                expired=lambda: self._keeping.expired,
                rearm=exchange.on_rearm,
                observer=self.observer,
            )
            for executor in self._executors
        ]
        self._compose_planning()

    def _compose_planning(self) -> None:
        """Who calls runs into being, and how they come to their end."""
        clock, log, settings, exchange = self._clock, self._log, self.settings, self._exchange
        self._drain = Drain(
            hands=self.hands,
            runners=self.runners,
            settler=self.settler,
            clock=clock,
            log=log,
            limit=settings.drain_timeout,
        )
        self.desk = Desk(self.runners, self.who)
        self.hearing = Hearing()
        self.matcher = Matcher(
            database=self.database,
            events=Events(clock=clock, who=self.who),
            hearing=self.hearing,
            clock=clock,
            log=log,
            begins=exchange.on_called,
            observer=self.observer,
        )
        self.planner = Planner(
            database=self.database,
            triggers=self._triggers,
            clock=clock,
            time=self._time,
            log=log,
            batch=settings.batch,
            fired=exchange.wake_runners,
            desk=self.desk,
            observer=self.observer,
        )

    def _compose_connections(self) -> None:
        """What processes that run agents elsewhere share, if any are connected."""
        self.instances = Instances(database=self.database, clock=self._clock, replica=self.who)
        self._beats = Beats(instances=self.instances, clock=self._clock, wake=lambda: self._exchange.wake(Beats.name))
        self.house = House(
            database=self.database,
            clock=self._clock,
            time=self._time,
            log=self._log,
            batch=self.settings.batch,
            instances=self.instances,
            exchange=self._exchange,
            crowd=self._crowd,
            beats=self._beats,
            observer=self.observer,
        )

    def _renew(self) -> None:
        """Something that is in hand, here or elsewhere, may have to stop, or somebody who is connected to go."""
        self._keeping.wake()
        self._beats.hurry()

    async def __aenter__(self) -> "Replica":
        self._here = asyncio.get_running_loop()
        try:
            await self._enter()
        except BaseException:
            await self._stack.aclose()
            raise
        # What stands now stays: a collection in the middle of a burst need not walk over it again. What is made
        # for a run goes with it, by its count of references: there is little to collect, and no hurry.
        gc.collect()
        gc.freeze()
        self._stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(*COLLECT_AFTER)
        self._log.info("hub.started", replica=self.who.name, holder=str(self.who.holder), agents=self._own)
        return self

    async def _enter(self) -> None:
        stack = self._stack
        stack.push_async_callback(self.database.close)
        await self.database.open()
        await self._check_schema()
        await self._rehearse()
        await self._learn_the_time()
        stack.push_async_callback(self._signals.close)
        await stack.enter_async_context(self._keeping)
        await self._start(self.sweeper, self.pruner, self.reporter, self._beats)
        stack.push_async_callback(self._drain.write_last_ends)
        await self._start(self.settler)
        stack.push_async_callback(self._finish_work)
        pulse = Pulse(clock=self._clock, observer=self.observer)
        await self._start(*self.runners, self.planner, self.matcher, self.lookout, pulse)
        stack.push_async_callback(self.close_doors)

    async def _rehearse(self) -> None:
        """The first burst finds its statements planned; if that cannot be, it finds them later."""
        try:
            await self.database.rehearse(HOT, sessions=REHEARSED)
        except StoreError as error:
            self._log.warning("hub.unrehearsed", error=str(error))

    async def _learn_the_time(self) -> None:
        """Whoever connects at once brings runs along whose limits are instants on the database's clock."""
        asked_at = self._clock.monotonic()
        _, now = await self._triggers.next_wake()
        self._time.learn(now, asked_at=asked_at)

    async def _start(self, *services: Service) -> None:
        for service in services:
            loop = Loop(service, clock=self._clock, log=self._log)
            await self._stack.enter_async_context(loop)
            self._loops.append(loop)
            self._exchange.attend(loop)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        gc.unfreeze()
        self._log.info("hub.stopped", replica=self.who.name, released=self.released)

    @property
    def released(self) -> int:
        """Runs that had begun and that a drain gave back; what it claimed and did not begin is nobody's loss."""
        return self._exchange.released

    @property
    def statements(self) -> int:
        """Statements sent so far, the keeper's included."""
        return sum(database.calls for database in self.databases.values())

    @property
    def databases(self) -> dict[str, Database]:
        """The replica's sessions, by what they are for."""
        return {"engine": self.database, "keeper": self._keeping.database}

    @property
    def loops(self) -> list[Loop]:
        """Its own; those of whoever is connected are not among them."""
        return [*self._loops, *([self._keeping.loop] if self._keeping.loop is not None else [])]

    @property
    def work(self) -> list[Runner]:
        """Everybody here who executes runs, or has them executed elsewhere."""
        return [*self.runners, *self._crowd.runners()]

    @property
    def ready(self) -> bool:
        """Whether this replica takes work: not draining, and every loop gets through its steps."""
        return not self.draining and self._keeping.healthy and all(loop.healthy for loop in self._loops)

    def control(self, actor: str) -> Control:
        """Every operation, where a run that is asked for begins at once if there is a slot for it here."""
        return Control(
            database=self.database,
            clock=self._clock,
            actor=actor,
            desk=self.desk,
            hearing=self.hearing,
            log=self._log,
            observer=self.observer,
        )

    def hurry(self) -> None:
        """The drain's present stage ends at once."""
        self._drain.hurry()

    async def _check_schema(self) -> None:
        async with self.database.session() as session:
            state = await schema_state(session.connection)
        if state.database < state.code:
            raise SchemaMismatch(
                f"the database has schema {state.database}, this release needs {state.code}: run `tocsin migrate`"
            )

    def _give_back(self, strays: Sequence[tuple[UUID, int]]) -> None:
        """Claims whose answer was lost are queued again, uncounted.

        While an answer is under way, it may be theirs: the next renewal will name them again.
        """
        if self.planner.claiming or any(runner.claiming or runner.kept for runner in self.runners):
            return
        for run_id, fence in strays:
            if self.hands.get(run_id) is None:
                settlement = Settlement(RunState.QUEUED, reason=StopReason.INTERRUPTED.value, counted=False)
                self.settler.put(None, Ended(run_id=run_id, fence=fence, settlement=settlement))

    # --- drain

    async def close_doors(self) -> None:
        """Unready; nothing more is materialised or claimed, here or in the name of whoever is connected. Whoever has
        to see others off before the drain begins with it; the drain begins with it in any case.
        """
        if self.draining:
            return
        self.draining = True
        for runner in (*self.runners, *self._crowd.runners()):
            runner.accepting = False
        for loop in [loop for loop in self._loops if loop.service in (self.planner, self.matcher)]:
            await loop.stop()
        self._log.info("hub.draining", in_hand=len(self.hands), limit=self.settings.drain_timeout.total_seconds())

    async def _finish_work(self) -> None:
        with suppress(StoreError):
            await self._leases.mark_draining()
        await self._drain.finish_work()
