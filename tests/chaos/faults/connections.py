"""F14: the server has no session left to give."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from random import Random
from typing import Final, TypeAlias

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

    async def end(self, where: str) -> int:
        """Sessions of which this is true are ended, and their places are ours; how many."""
        ended = await self.sessions[0].fetchval(
            f"SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a WHERE {where}"
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


POOL: Final = (
    "a.application_name = 'tocsin' AND a.pid NOT IN (SELECT k.pid FROM pg_locks k WHERE k.locktype = 'advisory')"
)
LISTENERS: Final = "a.application_name = 'tocsin-listen'"
EVERYBODY: Final = "a.application_name LIKE 'tocsin%'"


async def exhaust(fleet: Fleet, rng: Random) -> int:
    """F14: every session is taken; then some of the replicas' are ended too, and they get no others.

    Leases are renewed on sessions of their own, and the health listener says what is the matter.
    """
    which = rng.choice([POOL, LISTENERS, EVERYBODY])
    lost = fleet.leases_lost()
    async with hoarded(fleet.postgres.dsn) as hoard:
        await fleet.for_a_while(2)
        ended = await hoard.end(which)
        await fleet.for_a_while(fleet.lease * rng.uniform(0.5, 1.5))
        if which != EVERYBODY and fleet.leases_lost() != lost:
            raise AssertionError("a replica lost its lease for want of sessions that are not the lease's")
        for member in fleet.living:
            url = str((await member.until_logged("hub.ready"))["url"])
            await asyncio.to_thread(_answer, f"{url}/readyz")
        if not ended:
            raise DidNothing("no session of a replica was ended")
    return ended


def _answer(url: str) -> int:
    """What is answered, 200 or 503. Raises: OSError, when nothing is within ten seconds."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        if refusal.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return refusal.code


FAULTS: Catalogue = {
    "F14": lambda: Simple("F14", exhaust, excuses=frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND}))
}
