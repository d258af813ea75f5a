"""F14: the server has no session left to give."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import TypeAlias

import asyncpg

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.fleet import Fleet

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Hoard:
    """Sessions that nobody else gets. Enter it to have all there are; ``fill`` takes those that came free."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.sessions: list[Connection] = []

    async def fill(self) -> None:
        """The server has refused us one more."""
        while True:
            try:
                self.sessions.append(
                    await asyncpg.connect(self._dsn, timeout=10, server_settings={"application_name": "hoard"})
                )
            except asyncpg.TooManyConnectionsError:
                return

    async def end(self, like: str) -> int:
        """Sessions of this name are ended, and their places are ours; how many."""
        ended = await self.sessions[0].fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE $1", like
        )
        await self.fill()
        return int(ended)

    def drop(self) -> None:
        for session in self.sessions:
            session.terminate()
        self.sessions = []


@asynccontextmanager
async def hoarded(dsn: str) -> AsyncIterator[Hoard]:
    hoard = Hoard(dsn)
    try:
        await hoard.fill()
        yield hoard
    finally:
        hoard.drop()


async def exhaust(fleet: Fleet, rng: Random) -> int:
    """F14: every session is taken; then some of the replicas' are ended too, and they get no others."""
    async with hoarded(fleet.postgres.dsn) as hoard:
        await fleet.for_a_while(2)
        ended = await hoard.end(rng.choice(["tocsin", "tocsin-listen", "tocsin%"]))
        await fleet.for_a_while(fleet.lease * rng.uniform(0.5, 1.5))
        if not ended:
            raise DidNothing("no session of a replica was ended")
    return ended


FAULTS: Catalogue = {
    "F14": lambda: Simple("F14", exhaust, excuses=frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND}))
}
