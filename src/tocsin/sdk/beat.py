"""Beats: that this process lives, and the loop that its agents depend on turns.

A beat is asked for from the agents' loop and sent when that has answered. A loop that does not answer
in time stands still, which is never hidden: the beats then come from the link's own thread and say so,
with the place where the loop stands. Lives in the link's thread.
"""

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from tocsin.sdk.crossing import onto
from tocsin.sdk.hands import Hands
from tocsin.sdk.lease import Lease
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb

MAX_CULPRIT: Final = 16 * 1024
"""Bytes of the stack that are told."""

Send = Callable[[Callable[[], pb.FromAgent]], Awaitable[None]]


class Heart:
    """patience: seconds without an answer after which the agents' loop is said to stand still, at least."""

    def __init__(
        self, *, app: asyncio.AbstractEventLoop, thread: int, hands: Hands, lease: Lease, patience: float, log: Log
    ) -> None:
        self._app = app
        self._thread = thread
        self._hands = hands
        self._lease = lease
        self._patience = patience
        self._log = log
        self._asked: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        self._stalled = False
        self._probed = asyncio.Event()

    def probe(self) -> None:
        """The next beat comes at once."""
        self._probed.set()

    async def beat(self, every: float, send: Send) -> None:
        """Beats are sent on one stream, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            self._probed.clear()
            await self._turned(every, send)
            await send(self._beat)
            try:
                async with asyncio.timeout_at(begun + every):
                    await self._probed.wait()
            except TimeoutError:
                continue

    async def _turned(self, every: float, send: Send) -> None:
        """The agents' loop has turned; meanwhile it was told of where it did not."""
        loop = asyncio.get_running_loop()
        asked = self._ask(loop)
        patience = max(2 * every, self._patience)
        await asyncio.wait({asked}, timeout=max(0.0, self._asked_at + patience - loop.time()))
        while not asked.done():
            culprit = self._culprit()
            if not self._stalled:
                self._stalled = True
                self._log.warning("agent.stalled", seconds=round(loop.time() - self._asked_at, 3), culprit=culprit)
            await send(lambda: self._beat(culprit))  # noqa: B023 — called before the next is made
            await asyncio.wait({asked}, timeout=every)
        if self._stalled:
            self._stalled = False
            self._log.info("agent.resumed", seconds=round(loop.time() - self._asked_at, 3))

    def _ask(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """A question to the agents' loop that is answered when it turns; the former one, where that is open."""
        if self._asked is None or self._asked.done():
            self._asked, self._asked_at = loop.create_future(), loop.time()
            onto(self._app, onto, loop, _answer, self._asked)
        return self._asked

    def _beat(self, culprit: str | None = None) -> pb.FromAgent:
        """A beat as of now: its lease counts from here."""
        seq = self._lease.sending(asyncio.get_running_loop().time())
        beat = pb.Beat(seq=seq, held=self._hands.held(), stalled=culprit is not None, culprit=culprit or "")
        return pb.FromAgent(beat=beat)

    def _culprit(self) -> str:
        """Where the agents' loop stands, innermost last."""
        frame = sys._current_frames().get(self._thread)
        text = "".join(traceback.format_stack(frame)) if frame is not None else "the loop's thread has ended"
        return text.encode(errors="replace")[-MAX_CULPRIT:].decode(errors="ignore")


def _answer(asked: "asyncio.Future[None]") -> None:
    if not asked.done():
        asked.set_result(None)
