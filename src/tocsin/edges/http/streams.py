"""Open streams of one replica: counted, looked after, and seen off when it drains.

Every tenth of a second: whoever would not be let in any more is sent away, whoever takes nothing is cut off, and
whoever has heard nothing for a while is given a sign of life. All of it stands in this process; if it dies, so do the
streams, and each client goes on elsewhere with the position that it was told last.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from tocsin.clock import Clock
from tocsin.domain.errors import StoreError
from tocsin.domain.feed import Position, Wanted
from tocsin.edges.http.sse import OPENING, Sse, ending
from tocsin.engine.reader import Reader
from tocsin.engine.service import Loop
from tocsin.engine.tail import Tail
from tocsin.store.feed import Feed
from tocsin.telemetry import Log

if TYPE_CHECKING:
    from tocsin.edges.http.gate import Caller

LOOK_EVERY: Final = 0.1
STILL_AFTER: Final = 15.0
"""Seconds without a word, after which somebody on the way might take a stream for dead."""

TAKEN_WITHIN: Final = 10.0
"""Seconds for which what is sent may wait for its reader."""

LEAVES_WITHIN: Final = 1.0

HEADERS: Final = ((b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no"))

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Stream:
    """One that is open. sent_at, sending_since: on the monotonic clock; the latter while what is sent is not taken."""

    def __init__(self, caller: "Caller", reader: Reader, clock: Clock) -> None:
        self.caller = caller
        self.reader = reader
        self.sent_at = clock.monotonic()
        self.sending_since: float | None = None
        self._clock = clock
        self._limit = asyncio.timeout(None)
        self._is_served = False

    def cut(self) -> None:
        """That what is being sent is taken is not waited for any more."""
        self.reader.end("slow")
        if self._is_served:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def serve(self, receive: Receive, send: Send) -> None:
        """It is sent to its reader until one of both ends it."""
        leaving = asyncio.create_task(self._until_gone(receive))
        try:
            with suppress(TimeoutError):
                async with self._limit:
                    self._is_served = True
                    await self._send_all(send)
        finally:
            self._is_served = False
            leaving.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send(send, OPENING)
        # What cannot be read just now is read when the client comes again.
        with suppress(StoreError):
            async with aclosing(self.reader.pieces()) as pieces:
                async for piece in pieces:
                    await self._send(send, piece)
        if self.reader.ended != "gone":
            await self._send(send, ending(self.reader.ended or "unread"), is_last=True)

    async def _send(self, send: Send, piece: bytes, *, is_last: bool = False) -> None:
        self.sending_since = self._clock.monotonic()
        await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
        self.sent_at, self.sending_since = self._clock.monotonic(), None

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.reader.end("gone")


class Streams:
    """From entering to leaving. most: how many may be open."""

    name = "streams"

    def __init__(
        self, *, feed: Feed, admits: Callable[["Caller"], Awaitable[bool]], clock: Clock, log: Log, most: int
    ) -> None:
        self.most = most
        self.is_draining = False
        self.tail = Tail(feed=feed, clock=clock, log=log, wake=self._wake_tail)
        self._loops = (Loop(self.tail, clock=clock, log=log), Loop(self, clock=clock, log=log))
        self._admits = admits
        self._clock = clock
        self._log = log
        self._open: set[Stream] = set()
        self._stack = AsyncExitStack()

    def _wake_tail(self) -> None:
        self._loops[0].wake()

    @property
    def is_full(self) -> bool:
        return len(self._open) >= self.most

    async def __aenter__(self) -> Self:
        for loop in self._loops:
            await self._stack.enter_async_context(loop)
        self._stack.push_async_callback(self._see_off)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, caller: "Caller", wanted: Wanted, after: Position | None) -> Stream:
        """A stream that is to be served, and then closed. Raises: StoreError."""
        reader = Reader(tail=self.tail, wanted=wanted, after=after, framing=Sse())
        stream = Stream(caller, reader, self._clock)
        if self.is_draining:
            reader.end("draining")
            return stream
        self._open.add(stream)
        self.tail.join(reader)
        self._loops[1].wake()
        try:
            await reader.begin()
        except BaseException:
            self.close(stream)
            raise
        return stream

    def close(self, stream: Stream) -> None:
        if stream.reader.ended == "slow":
            self._log.warning("stream.slow", actor=stream.caller.actor)
        self.tail.leave(stream.reader)
        self._open.discard(stream)

    # --- looking after them

    def rest(self) -> float | None:
        return LOOK_EVERY if self._open else None

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        for stream in list(self._open):
            if stream.sending_since is not None and now - stream.sending_since > TAKEN_WITHIN:
                stream.cut()
            elif now - stream.sent_at > STILL_AFTER:
                stream.reader.nudge()
        await self._send_away()
        return False

    async def _send_away(self) -> None:
        callers = {stream.caller for stream in self._open}
        gone = {caller for caller in callers if not await self._admits(caller)}
        for stream in list(self._open):
            if stream.caller in gone:
                stream.reader.end("revoked")
                if stream.sending_since is not None:
                    stream.cut()

    async def _see_off(self) -> None:
        """Everybody is told to go on elsewhere; who does not take that in time is cut off."""
        self.is_draining = True
        for stream in self._open:
            stream.reader.end("draining")
        until = self._clock.monotonic() + LEAVES_WITHIN
        while self._open and self._clock.monotonic() < until:
            await self._clock.sleep(0.01)
        for stream in self._open:
            stream.cut()
