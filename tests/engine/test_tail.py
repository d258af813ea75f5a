"""Reading along: each transition once, on whichever replica, from whichever event on."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.engine.building import Peer, Scripted, World, a_failure, a_trigger, an_end, eventually
from tests.engine.reading import Dawdling, Word, a_tail, edges, reading, take
from tocsin.clock import SystemClock
from tocsin.domain.feed import Wanted
from tocsin.domain.run import RunState
from tocsin.domain.trigger import Overlap
from tocsin.engine import reader, tail
from tocsin.engine.control import Control
from tocsin.engine.tail import Tail
from tocsin.store.database import Database

RUNS = 300


class Workers:
    """Who takes edges, several at once, each committed when it pleases."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.databases = [Dawdling(world.dsn, size=4) for _ in range(4)]
        self.is_done = False

    async def work(self, runs: int = RUNS) -> None:
        """So many runs are asked for, and ended."""
        fire, *hold = self.databases
        control = Control(database=fire, clock=SystemClock(), actor="test")
        asking = [control.fire_many("t", [(None, n) for n in range(size)]) for size in sizes(runs)]
        holding = [asyncio.create_task(self._hold(database)) for database in hold]
        await asyncio.gather(*asking)

        async def ended() -> object:
            return not await self.world.value("SELECT count(*) FROM tocsin.runs WHERE finished_at IS NULL")

        await eventually(ended)
        self.is_done = True
        await asyncio.gather(*holding)

    async def _hold(self, database: Database) -> None:
        peer = await Peer(database, SystemClock(), executor=Scripted()).register()
        while not self.is_done:
            claimed = (await peer.claim(live=random.randint(1, 12))).assignments
            ends = [
                an_end(one, RunState.QUEUED, reason="retry", error=a_failure())
                if one.attempt == 1 and random.random() < 0.3
                else an_end(one)
                for one in claimed
            ]
            if ends:
                await peer.settle(*ends)

    async def close(self) -> None:
        for database in self.databases:
            await database.close()


def sizes(total: int) -> list[int]:
    found = []
    while total:
        found.append(min(total, random.randint(1, 10)))
        total -= found[-1]
    return found


@pytest.fixture
async def workers(world: World) -> AsyncIterator[Workers]:
    await present(world).declare(
        *(await _app()),
    )
    workers = Workers(world)
    yield workers
    await workers.close()
