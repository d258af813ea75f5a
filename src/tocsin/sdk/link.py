"""The link to the hubs: one stream after another, for ever, in a thread and on a loop of its own.

The agents' loop may stand still; this one does not, so beats, the lease's end and reconnecting never
depend on what an agent does. It reads `Hands` for its Hello and its beats, and hands on what a hub says.
A stream that ends changes nothing but that another is opened, on the next hub of the list, with full
jitter. Two ends are different: an instance that was declared lost goes on under a new id with nothing in
hand, and a hub that refuses the very first stream for good ends the process.
"""

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

from tocsin.domain.run import StopReason
from tocsin.sdk.beat import Heart
from tocsin.sdk.crossing import Crossing, onto
from tocsin.sdk.dial import Access
from tocsin.sdk.hands import Hands
from tocsin.sdk.lease import Lease
from tocsin.sdk.outbox import Outbox
from tocsin.sdk.standing import Patience, Standing, is_lost
from tocsin.sdk.stream import GOODBYE_WITHIN, End, Stream
from tocsin.sdk.work import Work
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb
from tocsin.version import __version__

PROTOCOL: Final = 1
VERSION: Final = f"tocsin-python {__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a Hello says and no stream changes."""

    name: str
    agents: Sequence[str]
    slots: int
    labels: dict[str, str]


class Link:
    def __init__(
        self,
        *,
        hubs: Sequence[str],
        access: Access,
        introduction: Introduction,
        hands: Hands,
        outbox: Outbox,
        work: Work,
        patience: Patience,
        log: Log,
    ) -> None:
        self._hubs = hubs
        self._access = access
        self._introduction = introduction
        self._hands = hands
        self._outbox = outbox
        self._work = work
        self._patience = patience
        self._standing = Standing(patience=patience, log=log)
        self._log = log
        # Many processes with one list begin at different hubs.
        self._turn = random.randrange(len(hubs))
        self._instance = str(uuid4())
        self._number = 0
        self._last_stream = 0
        self._lease = Lease()
        self._lease_timer: asyncio.TimerHandle | None = None
        self._stream: Stream | None = None
        self._stopped: Future[Any] | None = None
        self._given_up_at = 0.0
        self._nudged = False
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        self._loop: asyncio.AbstractEventLoop
        self._app: Crossing
        self._heart: Heart
        self._halt: asyncio.Event

    # --- on the agents' loop

    @property
    def connected(self) -> bool:
        return self._standing.connected

    def start(self) -> "Future[None]":
        """The link's thread runs; the future is done when it has ended.

        It raises Refused or BadInput, when the first hub that answers will not have us.
        """
        app, thread = asyncio.get_running_loop(), threading.get_ident()
        self._loop = asyncio.new_event_loop()
        self._app = Crossing(app, self._log)
        self._heart = Heart(
            app=app,
            thread=thread,
            hands=self._hands,
            lease=self._lease,
            patience=self._patience.stalled,
            log=self._log,
        )
        self._halt = asyncio.Event()
        self._outbox.wake = self._nudge
        threading.Thread(target=self._thread, name="tocsin-link", daemon=True).start()
        return self._ended

    def goodbye(self, returned: Sequence[pb.Held]) -> "Future[bool]":
        """The hub has been told that we leave; False when there was none to tell. The link ends."""
        return asyncio.run_coroutine_threadsafe(self._goodbye(returned), self._loop)

    def stop(self) -> None:
        """The link ends, whatever there was to say."""
        onto(self._loop, self._stop)

    # --- from any thread

    def _nudge(self) -> None:
        if not self._nudged:
            self._nudged = True
            onto(self._loop, self._nudged_now)

    # --- in the link's thread

    def _nudged_now(self) -> None:
        # First: what is put into the outbox from here on nudges anew.
        self._nudged = False
        if self._stream is not None:
            self._stream.wake()

    def _thread(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._until_stopped())
        except BaseException as error:  # whoever waits for the link is told
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
        finally:
            self._loop.close()

    async def _until_stopped(self) -> None:
        """Streams until we leave; a goodbye that is being said is said to its end."""
        await self._live()
        if saying := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(saying, timeout=2 * GOODBYE_WITHIN)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._halt.is_set():
            await self._until_let_go()
            hub = self._hubs[self._turn % len(self._hubs)]
            self._turn += 1
            self._standing.trying()
            since = loop.time()
            end = await self._connect(hub)
            self._stream = None
            if self._halt.is_set():
                return
            self._standing.judge(hub, end, loop.time() - since)
            if is_lost(end):
                self._lost(end.details)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._standing.pause()):
                    await self._halt.wait()

    async def _connect(self, hub: str) -> End:
        """One stream, from its opening to its end."""
        self._number += 1
        number = self._number
        self._outbox.open(number)
        channel = self._access.channel(hub)
        try:
            self._stream = stream = Stream(
                self._access.call(channel),
                outbox=self._outbox,
                heart=self._heart,
                lease=self._lease,
                welcomed=lambda welcome: self._welcomed(hub, welcome),
                deliver=lambda message: self._app.post(partial(self._work.receive, number, message)),
                leaving=self._leaving,
                rearm=self._rearm,
                all_said=lambda: self._app.post(self._work.arrived.set),
            )
            if self._halt.is_set():
                return End(None)
            return await stream.run(self._hello(number))
        finally:
            await channel.close()

    def _hello(self, number: int) -> pb.Hello:
        us = self._introduction
        return pb.Hello(
            protocol=PROTOCOL,
            instance_id=self._instance,
            name=us.name,
            version=VERSION,
            agents=us.agents,
            labels=us.labels,
            slots=us.slots,
            held=self._hands.open(number),
            last_stream=self._last_stream,
        )

    def _welcomed(self, hub: str, welcome: pb.Welcome) -> None:
        self._standing.welcomed()
        self._last_stream = welcome.stream
        self._log.info(
            "agent.connected",
            address=hub,
            hub=welcome.hub,
            version=welcome.version,
            instance=self._instance,
            valid=len(welcome.valid),
            fenced=len(welcome.fenced),
        )

    def _leaving(self, within: float, reason: str) -> None:
        """The hub goes: another is looked for, not by everybody at once."""
        self._standing.moving = True
        self._log.info("agent.moving", reason=reason, within=within)
        if self._stream is not None:
            self._loop.call_later(random.uniform(0, within), self._stream.end)

    def _lost(self, details: str) -> None:
        """A hub has ended our lease: we go on as somebody else, with nothing in hand."""
        former, self._instance, self._last_stream = self._instance, str(uuid4()), 0
        lost = self._disown(StopReason.FENCED)
        self._log.warning("agent.lost", former=former, instance=self._instance, in_hand=lost, error=details)

    # --- the lease

    def _rearm(self) -> None:
        """The lease runs to another instant."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        ends_at = self._lease.ends_at
        self._lease_timer = self._loop.call_at(ends_at, self._expired) if ends_at is not None else None

    def _expired(self) -> None:
        """Somebody else is about to have our runs. The hub hears of it by a Hello that holds nothing."""
        self._given_up_at = self._lease.given_up_at or 0.0
        lost = self._disown(StopReason.LEASE_LOST)
        self._stopped = asyncio.run_coroutine_threadsafe(self._work.attempts.idle.wait(), self._app.loop)
        self._log.warning("lease.expired", holder=self._instance, in_hand=lost)
        if self._stream is not None:
            self._stream.end()

    async def _until_let_go(self) -> None:
        """What we had has stopped, or may be begun elsewhere in any case: until then a Hello without it would give it
        away too early.
        """
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._given_up_at):
                    await asyncio.wrap_future(stopped)

    def _disown(self, reason: StopReason) -> int:
        self._lease.end()
        self._rearm()
        lost = self._hands.disown()
        self._app.post(lambda: self._work.abandon(lost, reason))
        return len(lost)

    # --- the end

    async def _goodbye(self, returned: Sequence[pb.Held]) -> bool:
        stream = self._stream if self._standing.connected else None
        if stream is not None:
            self._halt.set()
            await stream.goodbye(pb.FromAgent(goodbye=pb.Goodbye(returned=returned)))
        self._stop()
        return stream is not None

    def _stop(self) -> None:
        self._halt.set()
        if self._stream is not None:
            self._stream.end()
