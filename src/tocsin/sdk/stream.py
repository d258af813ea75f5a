"""One stream to one hub: Hello, Welcome, then reading, writing and beating until it ends.

Lives in the link's thread. Nothing here outlives the stream: what was not said on it is said on the next.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from tocsin.sdk import wire
from tocsin.sdk.beat import Heart
from tocsin.sdk.dial import Call
from tocsin.sdk.lease import Lease
from tocsin.sdk.outbox import Outbox
from tocsin.v1 import agent_pb2 as pb

WELCOME_WITHIN: Final = 20.0
"""Seconds that a hub has for its Welcome, the connection included."""

SILENT_FOR: Final = 3.0
"""Seconds of a hub's silence that are borne in any case: it answers beats once a second."""

GOODBYE_WITHIN: Final = 2.0

DEFAULT_BEAT_EVERY: Final = 5.0
DEFAULT_SUSPECT_AFTER: Final = 20.0
DEFAULT_DEAD_AFTER: Final = 90.0

#: What grpc raises on a stream that has ended, or is ending while it is written to. A write at that very moment
#: hides the hub's status behind INTERNAL; what is final is said again on the next stream.
BROKEN: Final = (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended. code: None when we ended it ourselves, or it broke in a way that has none."""

    code: grpc.StatusCode | None
    details: str = ""


class Stream:
    """leaving: the hub goes; after so many seconds at most another is wanted."""

    def __init__(
        self,
        call: Call,
        *,
        outbox: Outbox,
        heart: Heart,
        lease: Lease,
        welcomed: Callable[[pb.Welcome], None],
        deliver: Callable[[pb.FromHub], None],
        leaving: Callable[[float, str], None],
        rearm: Callable[[], None],
        all_said: Callable[[], None],
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._heart = heart
        self._lease = lease
        self._welcomed = welcomed
        self._deliver = deliver
        self._leaving = leaving
        self._rearm = rearm
        self._all_said = all_said
        self._last_call: int | None = None
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        # A call takes one message at a time.
        self._turn = asyncio.Lock()

    def wake(self) -> None:
        """There is something in the outbox."""
        self._wake.set()

    def end(self) -> None:
        """The stream is over, from our side."""
        self._over.set()

    async def run(self, hello: pb.Hello) -> End:
        """The stream from its first message to its end; never raises but CancelledError."""
        tasks = [asyncio.create_task(part) for part in (self._speak(hello), self._until_over())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            self._call.cancel()
        return next((end for end in ends if isinstance(end, End)), End(None, str(ends[0])))

    async def goodbye(self, message: pb.FromAgent) -> None:
        """The hub has been told, and has ended the stream or had two seconds for that."""
        with suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(GOODBYE_WITHIN):
                await self._empty_outbox()
                await self._send(message)
                async with self._turn:
                    await self._call.done_writing()
                await self._call.code()
        self.end()

    async def _until_over(self) -> End:
        await self._over.wait()
        return End(None, "ended by this side")

    async def _speak(self, hello: pb.Hello) -> End:
        try:
            welcome = await self._introduce(hello)
            if welcome is not None:
                await self._converse(welcome)
            return End(await self._call.code(), await self._call.details() or "")
        except grpc.aio.AioRpcError as error:
            return End(error.code(), error.details() or "")
        except TimeoutError as error:
            return End(None, str(error))
        except BROKEN as error:
            return End(None, f"{type(error).__name__}: {error}")

    async def _introduce(self, hello: pb.Hello) -> pb.Welcome | None:
        async with _within(WELCOME_WITHIN, "no Welcome"):
            hello_at = asyncio.get_running_loop().time()
            await self._send(pb.FromAgent(hello=hello))
            message = await self._call.read()
        if not isinstance(message, pb.FromHub) or not message.HasField("welcome"):
            return None
        self._lease.welcomed(hello_at, wire.seconds_of(message.welcome.dead_after) or DEFAULT_DEAD_AFTER)
        self._rearm()
        self._welcomed(message.welcome)
        self._deliver(message)
        return message.welcome

    async def _converse(self, welcome: pb.Welcome) -> None:
        every = wire.seconds_of(welcome.beat_every) or DEFAULT_BEAT_EVERY
        parts: list[Coroutine[Any, Any, None]] = [self._write(), self._heart.beat(every, self._send_made)]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await self._read(wire.seconds_of(welcome.suspect_after) or DEFAULT_SUSPECT_AFTER)
        finally:
            for task in tasks:
                task.cancel()
            # Whatever broke them has ended the stream too, and the reader says how.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, suspect_after: float) -> None:
        """Raises: TimeoutError, when the hub is silent for longer than that."""
        while isinstance(message := await self._next(max(suspect_after, SILENT_FOR)), pb.FromHub):
            match message.WhichOneof("message"):
                case "beat_taken":
                    if self._lease.taken(message.beat_taken.seq):
                        self._rearm()
                    if self._last_call is not None and message.beat_taken.seq >= self._last_call:
                        self._all_said()
                case "probe":
                    self._heart.probe()
                case "leaving":
                    self._deliver(message)
                    self._leaving(wire.seconds_of(message.leaving.within), message.leaving.reason)
                case _:
                    self._deliver(message)

    async def _next(self, within: float) -> object:
        async with _within(within, "not a word"):
            return await self._call.read()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._outbox.rest(loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._empty_outbox()

    async def _empty_outbox(self) -> None:
        for message in self._outbox.take(asyncio.get_running_loop().time()):
            await self._send(message)
            if message.HasField("draining"):
                # The answer to a beat behind it comes behind all that was on its way.
                self._last_call = self._lease.seq + 1
                self._heart.probe()

    async def _send(self, message: pb.FromAgent) -> None:
        async with self._turn:
            await self._call.write(message)

    async def _send_made(self, make: Callable[[], pb.FromAgent]) -> None:
        """The message is made when its turn has come: what it says is of that instant."""
        async with self._turn:
            await self._call.write(make())


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    """Raises: TimeoutError, saying what there was for so long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"{what} within {seconds:g} s") from None
