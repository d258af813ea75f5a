"""A process that runs an app's agents for a hub elsewhere, from its first stream to its Goodbye.

Leaving has stages, each of which a further wish to leave hurries on: no more work is taken, and what is
in hand goes on up to a limit; it is asked to stop, and has five seconds; it is cut, and left behind a
second later. Ends are then told until they are answered, for up to ten seconds, and what has not ended
is returned. Beats and lease go on until the very last, since the link leaves last.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from tocsin.clock import SystemClock
from tocsin.declared import App
from tocsin.domain.errors import BadInput
from tocsin.executors.from_app import executors_of
from tocsin.executors.inprocess import Within, nothing
from tocsin.sdk.attempts import AFTER_INTERRUPT, UNWIND
from tocsin.sdk.dial import Access
from tocsin.sdk.hands import Hands
from tocsin.sdk.link import Introduction, Link
from tocsin.sdk.outbox import Outbox
from tocsin.sdk.standing import Patience
from tocsin.sdk.work import Work
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb

ARRIVES_WITHIN: Final = 3.0
"""Seconds for what a hub had on its way to us; it answers beats about once a second."""

LAST_ENDS_WITHIN: Final = 10.0
"""Seconds that is waited for the answers to what ended last."""

LINK_ENDS_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run, for which hubs. drain: how long work in hand may go on when the process is to leave.

    within: surrounds functions.
    """

    app: App
    hubs: Sequence[str]
    slots: int = 100
    access: Access = field(default_factory=Access)
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    drain: timedelta = timedelta(seconds=25)
    patience: Patience = field(default_factory=Patience)
    within: Within = nothing


class AgentProcess:
    """One process's work for its hubs; ``run`` returns when it has left."""

    def __init__(self, order: Order, *, log: Log) -> None:
        """Raises: BadInput, when the app has no agents."""
        agents = sorted(order.app.agents)
        if not agents:
            raise BadInput(f"{order.app.source} has no agents, so there is nothing to work for")
        self._log = log
        self._limit = order.drain.total_seconds()
        self._hands = Hands()
        outbox = Outbox()
        self._work = Work(
            executors=executors_of(order.app, order.slots, within=order.within),
            slots=order.slots,
            hands=self._hands,
            outbox=outbox,
            clock=SystemClock(),
            log=log,
        )
        self._link = Link(
            hubs=order.hubs,
            access=order.access,
            introduction=Introduction(
                name=(order.name or f"{socket.gethostname()}:{os.getpid()}")[:200],
                agents=agents,
                slots=order.slots,
                labels=dict(order.labels),
            ),
            hands=self._hands,
            outbox=outbox,
            work=self._work,
            patience=order.patience,
            log=log,
        )
        self._leaving = asyncio.Event()
        self._hurry = asyncio.Semaphore(0)

    def leave(self) -> None:
        """The process begins to leave; when it is leaving, its present stage ends at once."""
        if self._leaving.is_set():
            self._log.warning("agent.hurried", in_hand=len(self._work.attempts))
            self._hurry.release()
        self._leaving.set()

    async def run(self) -> int:
        """How many runs were in hand at the end, to be begun by somebody else.

        Raises: Refused or BadInput, when the first hub that answers will not have these agents.
        """
        ended = self._link.start()
        try:
            await self._until_asked(ended)
            return await self._leave()
        finally:
            self._link.stop()
            with suppress(Exception):
                async with asyncio.timeout(LINK_ENDS_WITHIN):
                    await asyncio.wrap_future(ended)

    async def _until_asked(self, ended: "Future[None]") -> None:
        asked = asyncio.create_task(self._leaving.wait())
        link = asyncio.wrap_future(ended)
        either: set[asyncio.Future[Any]] = {asked, link}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if link.done():
            link.result()

    async def _leave(self) -> int:
        self._log.info("agent.draining", in_hand=len(self._work.attempts), limit=self._limit)
        self._work.drain()
        await self._finish_work()
        if self._link.connected:
            await self._until(self._work.arrived, ARRIVES_WITHIN)
        await self._until(self._work.answered, LAST_ENDS_WITHIN)
        returned = self._work.returned()
        told = await self._told(returned)
        left = len(returned) + self._work.unanswered
        self._log.info("agent.left", returned=len(returned), unanswered=self._work.unanswered, told=told)
        return left

    async def _told(self, returned: Sequence[pb.Held]) -> bool:
        """Whether a hub knows that we leave, and what it gets back."""
        try:
            async with asyncio.timeout(LINK_ENDS_WITHIN):
                return await asyncio.wrap_future(self._link.goodbye(returned))
        except TimeoutError:
            return False

    async def _finish_work(self) -> None:
        """Work in hand has ended, or was asked to stop and has had its time, or was cut."""
        await self._until(self._work.attempts.idle, self._limit)
        self._work.attempts.interrupt_all()
        await self._until(self._work.attempts.idle, AFTER_INTERRUPT + 0.5)
        self._work.attempts.cut_all()
        await self._until(self._work.attempts.idle, UNWIND + 0.5)

    async def _until(self, event: asyncio.Event, seconds: float) -> None:
        """The event is set, the time is over, or somebody is in a hurry."""
        waiting = {asyncio.create_task(event.wait()), asyncio.create_task(self._hurry.acquire())}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
