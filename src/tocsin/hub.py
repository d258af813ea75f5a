"""One replica. Start order stands here once, and drain is its reverse; its parts are put together in composed.py.

Entering: store, keeper (lease first, renewed to the last), sweeper, pruner, reporter, settler,
lookout, runners, planner. Leaving: the planner stops; the runners stop claiming, what runs goes on
within the drain's limit, then is interrupted and released; the settler writes the last end; the lease
is given up; the store closes. Processes that run agents elsewhere come and go meanwhile, each with a
runner of its own (engine/attachment.py); what they have in hand is theirs, and no drain of ours.
"""

import asyncio
import gc
from contextlib import suppress
from typing import Final

from tocsin.composed import Composed
from tocsin.domain.errors import StoreError
from tocsin.engine.control import Control
from tocsin.engine.pulse import Pulse
from tocsin.engine.runner import Runner
from tocsin.engine.service import Loop, Service
from tocsin.store.database import Database
from tocsin.store.migrate import schema_state

HOT: Final = ("lock_due", "materialise", "next_wake", "claim", "claim_plain", "settle_plain", "settle", "report")
"""Statements that the first burst is to find planned."""

REHEARSED: Final = 3
"""Sessions: the planner's, a claim's and a settlement's are in use at once."""

COLLECT_AFTER: Final = (20_000, 20, 20)
"""Allocations in excess before a collection of the young, and how many of those before one of the older."""


class Replica(Composed):
    """Fires triggers and runs agents from entering to leaving.

    ``hurry()`` sends a drain to its next stage at once.
    """

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
        async with self.database.session() as session:
            await schema_state(session.connection, behind_ok=False)
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
