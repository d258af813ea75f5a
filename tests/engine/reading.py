"""Readers of the feed without a port: replicas' tails on sessions of their own, and what is heard over them."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.engine.building import Heard
from tocsin.clock import SystemClock
from tocsin.domain.feed import Position, Wanted
from tocsin.engine.reader import Reader
from tocsin.engine.service import Loop
from tocsin.engine.tail import Gap, Tail
from tocsin.store.database import Database, Record
from tocsin.store.feed import Feed
from tocsin.store.statements import Statements


@dataclass(frozen=True, slots=True)
class Word:
    """One thing that was heard. what: transition, gap or still."""

    what: str
    position: str
    data: dict[str, Any]

    @property
    def edge(self) -> tuple[str, int]:
        return self.data["run_id"], self.data["seq"]


class Plain:
    """A framing that can be read back."""

    def event(self, position: str, data: bytes) -> bytes:
        return b"transition %b %b\n" % (position.encode(), data)

    def gap(self, position: str, why: Gap) -> bytes:
        return b'gap %b {"reason":"%b"}\n' % (position.encode(), why.encode())

    def still(self, position: str) -> bytes:
        return b"still %b {}\n" % position.encode()


def words(piece: bytes) -> list[Word]:
    found = []
    for line in piece.decode().splitlines():
        what, position, data = line.split(" ", 2)
        found.append(Word(what, position, msgspec.json.decode(data)))
    return found


class Dawdling(Database):
    """Each statement is committed a while after it was made."""

    async def fetch(self, name: str, /, **values: object) -> list[Record]:
        async with self.transaction() as session:
            rows = await session.fetch(name, **values)
            await asyncio.sleep(random.random() ** 4 * 0.3)
        return rows

    async def fetchrow(self, name: str, /, **values: object) -> Record | None:
        rows = await self.fetch(name, **values)
        return rows[0] if rows else None


@asynccontextmanager
async def a_tail(dsn: str, *, statements: Statements | None = None, **options: Any) -> AsyncIterator[Tail]:
    """A replica's, at work, on sessions of its own."""
    async with AsyncExitStack() as stack:
        database = Database(dsn, statements=statements)
        stack.push_async_callback(database.close)
        loops: list[Loop] = []

        def wake() -> None:
            loops[0].wake()

        tail = Tail(
            feed=Feed(database=database, clock=SystemClock()),
            clock=SystemClock(),
            log=Heard(),
            wake=wake,
            **{"every": 0.005, **options},
        )
        loops.append(Loop(tail, clock=SystemClock(), log=Heard()))
        await stack.enter_async_context(loops[0])
        yield tail


@asynccontextmanager
async def reading(
    tail: Tail, after: str | None = None, wanted: Wanted | None = None
) -> AsyncIterator[AsyncIterator[Word]]:
    """What a reader hears, from when it has begun."""
    position = None if after is None else Position.of_text(after)
    reader = Reader(tail=tail, wanted=wanted or Wanted(), after=position, framing=Plain())
    tail.join(reader)
    try:
        await reader.begin()
        yield _words_of(reader)
    finally:
        tail.leave(reader)


async def _words_of(reader: Reader) -> AsyncIterator[Word]:
    async for piece in reader.pieces():
        for word in words(piece):
            yield word


async def take(heard: AsyncIterator[Word], count: int) -> list[Word]:
    """So many transitions, and what was said in between."""
    found: list[Word] = []
    async with asyncio.timeout(30):
        while sum(word.what == "transition" for word in found) < count:
            found.append(await anext(heard))
    return found


def edges(heard: Sequence[Word]) -> list[tuple[str, int]]:
    return [word.edge for word in heard if word.what == "transition"]
