"""Hosts the keeper: its own thread, event loop and database session, and the way back to ours."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.run import StopReason
from tocsin.engine.aside import Aside
from tocsin.engine.hands import Hands
from tocsin.engine.keeper import Describe, Keeper
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.service import Loop
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation, Leases
from tocsin.telemetry import Log

MOST_BACKOFF: Final = 0.25
"""Seconds: a lock that is free for two probes of a peer speaks of our death, so it is retaken without delay."""

GiveBack = Callable[[Sequence[tuple[UUID, int]]], None]


class Keeping:
    """The lease is held from entering to leaving, whatever the entering event loop is busy with.

    give_back: called on the entering loop with claims of ours that we do not know of.
    """

    def __init__(
        self,
        *,
        like: Database,
        who: Incarnation,
        hands: Hands,
        clock: Clock,
        log: Log,
        lease: timedelta,
        renew_every: timedelta,
        describe: Describe,
        give_back: GiveBack,
        observer: Observer = UNOBSERVED,
    ) -> None:
        # A session that is lost takes our lock with it, and a peer that sees it free twice takes us for dead:
        # so the keeper takes it again at once, not at its next renewal.
        self.database = Database(like.dsn, pooler=like.pooler, size=1, statements=like.statements, lost=self.wake)
        self._who = who
        self._hands = hands
        self._clock = clock
        self._log = log
        self._lease = lease
        self._renew_every = renew_every
        self._describe = describe
        self._give_back = give_back
        self._observer = observer
        self._aside = Aside("keeper", self._keep)
        self._loop: Loop | None = None
        self._keeper: Keeper | None = None
        self._there: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> Loop | None:
        """The keeper's, while it steps."""
        return self._loop

    @property
    def healthy(self) -> bool:
        return self._loop is not None and self._loop.healthy

    @property
    def expired(self) -> bool:
        """Whether our lease has run out by our own reckoning: nothing may be begun. From any thread."""
        return self._keeper is not None and self._keeper.expired

    async def __aenter__(self) -> "Keeping":
        self._here = asyncio.get_running_loop()
        await self._aside.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._aside.__aexit__()

    def wake(self) -> None:
        """The keeper renews soon, and hears what of ours is to be cancelled. From the entering loop."""
        if self._loop is not None and self._there is not None:
            self._there.call_soon_threadsafe(self._loop.wake)

    async def _keep(self, ready: Callable[[], None], leave: Awaitable[None]) -> None:
        keeper = Keeper(
            database=self.database,
            leases=Leases(database=self.database, clock=self._clock, who=self._who),
            hands=self._hands,
            who=self._who,
            clock=self._clock,
            log=self._log,
            lease=self._lease,
            renew_every=self._renew_every,
            stop=self._stop,
            strays=lambda strays: self._call_here(self._give_back, strays),
            describe=self._describe,
            observer=self._observer,
        )
        self._keeper = keeper
        try:
            await keeper.run_once()
            async with Loop(keeper, clock=self._clock, log=self._log, most_backoff=MOST_BACKOFF) as loop:
                self._there, self._loop = asyncio.get_running_loop(), loop
                ready()
                await leave
                self._loop = None
            await keeper.leave()
        finally:
            self._loop = None
            await self.database.close()

    def _stop(self, runs: Sequence[tuple[UUID, int]] | None, reason: StopReason) -> None:
        if runs is None:
            self._call_here(self._hands.stop_all, reason)
        elif runs:
            self._call_here(self._hands.stop, runs, reason)

    def _call_here(self, function: Callable[..., None], *arguments: object) -> None:
        self._here.call_soon_threadsafe(function, *arguments)
