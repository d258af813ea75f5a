"""A port that reads along: it knows which message passes, and plays its faults at one of them.

Frames of HTTP/2 are forwarded whole; messages are read from those that carry data. Source: RFC 9113, sections 3.4 and
4.1; gRPC over HTTP2, "Length-Prefixed-Message".
"""

import asyncio
import contextlib
import random
import socket
import struct
from typing import Final

from google.protobuf.message import DecodeError

from tests.edges.network import Port
from tocsin.v1 import agent_pb2 as pb

PREFACE: Final = 24
HEADER: Final = 9
PREFIX: Final = 5
DATA: Final = 0

Message = type[pb.FromAgent] | type[pb.FromHub]


class Cut(OSError):
    """The connection is gone, in the middle of what passed."""


class Wire(Port):
    """See the module. passed: the kinds of messages that went through, in order; cuts: how often it has cut."""

    def __init__(self, target: str, *, seed: int = 7) -> None:
        super().__init__(target)
        self.passed: list[str] = []
        self.cuts = 0
        self._kind: str | None = None
        self._share = 0.0
        self._delays = (0.0, 0.0)
        self._random = random.Random(seed)
        self._deaf: set[asyncio.Task[None]] = set()
        self._deaf_ways: frozenset[Message] = frozenset()

    def cut_within(self, kind: str, share: float) -> None:
        """The next message of this kind is cut off when so much of it has passed, from nothing (0) to all (1)."""
        self._kind, self._share = kind, share

    def hold_up(self, least: float, most: float) -> None:
        """From now on whatever passes takes so many seconds, at random and in order."""
        self._delays = least, most

    def half_open(self, *ways: Message) -> None:
        """Connections that are open stay so, and nothing passes these ways; new ones are sound."""
        self._deaf = set(self._open)
        self._deaf_ways = frozenset(ways)

    async def reset(self) -> None:
        """Every connection that is open is reset."""
        self.cuts += len(self._open)
        await self.cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self._reach()
        task = asyncio.current_task()
        assert task is not None  # it is the handler's
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, back, pb.FromAgent, task))
                group.create_task(self._carry(there, writer, pb.FromHub, task))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side has ended it, or we have
        finally:
            for end in (writer, back):
                _with_reset(end)
                end.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, message: Message, task: asyncio.Task[None]
    ) -> None:
        if message is pb.FromAgent:
            sink.write(await source.readexactly(PREFACE))
        said = b""
        while True:
            header = await source.readexactly(HEADER)
            frame = header + await source.readexactly(int.from_bytes(header[:3], "big"))
            while task in self._deaf and message in self._deaf_ways:  # noqa: ASYNC110 — for the rest of the test
                await asyncio.sleep(0.05)
            await asyncio.sleep(self._random.uniform(*self._delays))
            kinds: list[str] = []
            if header[3] == DATA:
                kinds, said = _kinds(said + frame[HEADER:], message)
            if self._kind in kinds:
                await self._cut_off(frame, sink)
            sink.write(frame)
            self.passed += kinds
            await sink.drain()

    async def _cut_off(self, frame: bytes, sink: asyncio.StreamWriter) -> None:
        """Raises: Cut."""
        self._kind = None
        self.cuts += 1
        sink.write(frame[: int(len(frame) * self._share)])
        await sink.drain()
        raise Cut


def _kinds(said: bytes, message: Message) -> tuple[list[str], bytes]:
    """The kinds of the messages that are complete, and what is left."""
    kinds = []
    while len(said) >= PREFIX and len(said) >= (end := PREFIX + int.from_bytes(said[1:PREFIX], "big")):
        try:
            kind = message.FromString(said[PREFIX:end]).WhichOneof("message")
        except DecodeError:
            kind = None
        kinds.append(str(kind))
        said = said[end:]
    return kinds, said


def _with_reset(end: asyncio.StreamWriter) -> None:
    """It is closed with RST, whatever was still to be sent."""
    with contextlib.suppress(OSError):  # the other side has closed it
        linger = struct.pack("ii", 1, 0)
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
