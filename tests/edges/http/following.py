"""Replicas' APIs on real ports, and who follows their streams over a real connection."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.engine.building import Heard
from tocsin.clock import SystemClock
from tocsin.edges.http.api import make_api
from tocsin.edges.http.front import Front
from tocsin.edges.http.gate import Gate
from tocsin.edges.http.health import Health
from tocsin.edges.http.listener import Listener, bound
from tocsin.edges.http.once import Once
from tocsin.edges.http.operation import Edge
from tocsin.edges.http.streams import Streams
from tocsin.edges.http.throttle import Throttle
from tocsin.engine.control import Control
from tocsin.engine.keys import KeyRing
from tocsin.store.answers import Answers
from tocsin.store.database import Database
from tocsin.store.feed import Feed

SMALL: int = 16_384
"""Bytes that the system keeps of what is sent and not read, more or less."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A replica's API. stack: leaving it sees the streams off."""

    port: int
    streams: Streams
    control: Control
    log: Heard
    stack: AsyncExitStack


@asynccontextmanager
async def a_hub(dsn: str, *, most: int = 50) -> AsyncIterator[Hub]:
    clock, log = SystemClock(), Heard()
    async with AsyncExitStack() as stack:
        database = Database(dsn, size=4)
        stack.push_async_callback(database.close)
        gate = Gate(
            ring=KeyRing(database=database, clock=clock), throttle=Throttle(clock=clock), is_local=True, log=log
        )
        feed = Feed(database=database, clock=clock)
        streams = Streams(feed=feed, admits=gate.still_admits, clock=clock, log=log, most=most)
        front = Front(Health("0", lambda: None), log=log)
        front.join(
            make_api(
                Edge(
                    control=lambda actor: Control(database=database, clock=clock, actor=actor),
                    gate=gate,
                    once=Once(answers=Answers(database=database, clock=clock), log=log),
                    streams=streams,
                    log=log,
                )
            )
        )
        sock = bound("127.0.0.1:0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        port = int(sock.getsockname()[1])
        await stack.enter_async_context(Listener(sock, front))
        draining = await stack.enter_async_context(AsyncExitStack())
        await draining.enter_async_context(streams)
        yield Hub(port, streams, Control(database=database, clock=clock, actor="test"), log, draining)


@dataclass
class Block:
    """What stands between two empty lines."""

    event: str = ""
    id: str | None = None
    retry: int | None = None
    comment: str | None = None
    text: str = ""

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found


@dataclass
class Following:
    """An answer that goes on. ended: its last chunk was empty, as it should be."""

    reader: asyncio.StreamReader
    status: int
    headers: dict[str, str]
    last_id: str | None = None
    ended: bool = False
    _rest: bytes = field(default=b"")

    async def blocks(self) -> AsyncIterator[Block]:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while size := int(await self.reader.readline() or b"0", 16):
                self._rest += (await self.reader.readexactly(size + 2))[:-2]
                *whole, self._rest = self._rest.split(b"\n\n")
                for one in whole:
                    block = _block(one.decode())
                    self.last_id = block.id or self.last_id
                    yield block
            self.ended = await self.reader.readline() == b"\r\n"

    async def events(self, count: int, event: str = "transition") -> list[Block]:
        """So many of a kind; fewer, when it ends before."""
        found: list[Block] = []
        async with asyncio.timeout(30):
            async for block in self.blocks():
                found += [block] * (block.event == event)
                if len(found) == count:
                    break
        return found


def _block(text: str) -> Block:
    block = Block()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                block.comment = value
            case "data":
                block.text += value
            case "retry":
                block.retry = int(value)
            case "event" | "id":
                setattr(block, name, value)
            case _:
                raise AssertionError(line)
    return block


@asynccontextmanager
async def following(
    port: int, query: str = "", *, after: str | None = None, key: str | None = None, buffer: int | None = None
) -> AsyncIterator[Following]:
    """buffer: bytes that the client's system keeps of what it does not read."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4_096 if buffer else 2**20)
    lines = [f"GET /v1/stream{query} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"Last-Event-ID: {after}"] * (after is not None) + [f"Authorization: Bearer {key}"] * (key is not None)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-1])}
        yield Following(reader, int(head[0].split()[1]), headers, after)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
