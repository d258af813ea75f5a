"""The composition root: what one replica is made of, and who knows whom."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from uuid import UUID

from tocsin.clock import Clock, SystemClock
from tocsin.domain.run import RunState, Settlement, StopReason
from tocsin.engine.beats import Beats
from tocsin.engine.connection import House
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
from tocsin.engine.reports import Reporter
from tocsin.engine.runner import Runner
from tocsin.engine.service import Loop
from tocsin.engine.settler import Settler
from tocsin.engine.sweeper import Sweeper
from tocsin.settings import Settings
from tocsin.store.attempts import Attempts, Ended
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.feed import Feed
from tocsin.store.instances import Instances
from tocsin.store.leases import Incarnation, Leases
from tocsin.store.retention import Retention
from tocsin.store.runs import Runs
from tocsin.store.signals import Signals
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log
from tocsin.version import __version__


class Composed:
    """A replica's parts, none of which has begun. executors: of the agents that run in this process."""

    _here: asyncio.AbstractEventLoop
    """Where it runs, once it does."""

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
