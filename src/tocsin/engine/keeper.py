"""Keeps the replica's lease, and its hands off what is no longer its own.

Reads: what is in hand. Writes: one statement that renews the lease however many runs are in hand,
and answers which of them were fenced or are to be cancelled. On its own session, which also holds
the incarnation's advisory lock, and on its own thread, so that neither an exhausted pool nor an
agent that blocks the event loop can keep it from renewing.

The rest of the lease is measured on the monotonic clock from before the renewal was sent. When it
has run out, our own work is asked to stop, whether or not the database can be reached: a peer may
begin it again from that instant on.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from tocsin.clock import Clock, Timer
from tocsin.domain.errors import StoreError
from tocsin.domain.run import StopReason
from tocsin.domain.zone import release
from tocsin.engine.hands import Hands
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation, Leases
from tocsin.telemetry import Log

Stop = Callable[[Sequence[tuple[UUID, int]] | None, StopReason], None]
"""Asks attempts to stop on the event loop that runs them; None is all of them."""

Describe = Callable[[], tuple[str, str, list[str], int]]
"""How the replica is listed: name, version, agents, slots."""

LOCK_AGAIN: Final = 0.5

MARGIN: Final = 0.05
"""Share of the lease that is not counted on: our work stops that much before a peer may begin it."""


class Keeper:
    name = "keeper"

    def __init__(
        self,
        *,
        database: Database,
        leases: Leases,
        hands: Hands,
        who: Incarnation,
        clock: Clock,
        log: Log,
        lease: timedelta,
        renew_every: timedelta,
        stop: Stop,
        strays: Callable[[tuple[tuple[UUID, int], ...]], None],
        describe: Describe,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._database = database
        self._leases = leases
        self._hands = hands
        self._who = who
        self._clock = clock
        self._log = log
        self._lease = lease
        self._every = renew_every.total_seconds()
        self._stop = stop
        self._strays = strays
        self._describe = describe
        self._observer = observer
        self._registered = False
        self._locked_on: object = None
        self._expiry: Timer | None = None
        self._has_lock = True
        self.expired = False

    def rest(self) -> float | None:
        """Until the next renewal; sooner while a former session still has our lock."""
        return self._every if self._has_lock else min(self._every, LOCK_AGAIN)

    async def run_once(self) -> bool:
        sent_at = self._clock.monotonic()
        if not self._registered:
            await self._register()
        held = self._hands.held()
        # A session that lies half-open must be given up while there is lease enough to try another.
        async with asyncio.timeout(max(1.0, self._lease.total_seconds() / 3)):
            renewal = await self._leases.renew(held, lease=self._lease)
        if renewal.expires_at is None:
            self._begin_anew()
            return True
        self._restart_deadline(sent_at)
        for run_ids, reason in (
            (renewal.fenced, StopReason.FENCED),
            (renewal.cancelled, StopReason.CANCELLED),
            (renewal.superseded, StopReason.SUPERSEDED),
        ):
            # By the fences that were asked about: a run may be in hand anew by now.
            self._stop([(run_id, fence) for run_id, fence in held if run_id in run_ids], reason)
        if renewal.strays:
            self._strays(renewal.strays)
        await self._hold_lock()
        return False

    async def _register(self) -> None:
        name, version, agents, slots = self._describe()
        ours = release()
        others = await self._leases.register(
            name=name, version=version, tzdata=ours, agents=agents, slots=slots, lease=self._lease
        )
        self._registered = True
        for replica, theirs in others.items():
            self._log.warning("zones.differ", replica=replica, theirs=theirs, ours=ours)

    def _begin_anew(self) -> None:
        """Our lease was ended by a peer: all in hand is fenced, and we go on as somebody new."""
        self._log.warning("replica.lost", holder=str(self._who.holder))
        self._observer.lease_lost("ended")
        self._stop(None, StopReason.FENCED)
        self._who.reborn()
        self._registered = False
        self._locked_on = None

    def _restart_deadline(self, sent_at: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self.expired = False
        left = sent_at + self._lease.total_seconds() * (1 - MARGIN) - self._clock.monotonic()
        self._expiry = self._clock.call_later(max(0.0, left), self._expire)

    def _expire(self) -> None:
        self.expired = True
        self._log.warning("lease.expired", holder=str(self._who.holder), in_hand=len(self._hands))
        self._observer.lease_lost("expired")
        self._stop(None, StopReason.LEASE_LOST)

    async def _hold_lock(self) -> None:
        """The session we renew on holds our lock; a session that was replaced takes it again."""
        if self._database.pooler:
            return
        session = self._database.generation
        if session == self._locked_on:
            return
        self._has_lock = await self._leases.hold_lock()
        if self._has_lock:
            self._locked_on = session
        else:
            # The session that died still holds it; its backend will notice and let go.
            self._log.debug("lock.held_by_former_session", holder=str(self._who.holder))

    async def leave(self) -> None:
        """The lease is given up; peers need not wait for it."""
        if self._expiry is not None:
            self._expiry.cancel()
        if not self._registered:
            return
        try:
            await self._leases.release()
        except StoreError as error:
            self._log.warning("lease.not_released", error=str(error))
