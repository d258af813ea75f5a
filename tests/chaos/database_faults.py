"""Faults of the database server: stopped, killed, its sessions ended one by one, its snapshots held."""

import asyncio
from random import Random
from typing import Final

import asyncpg

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.fleet import Fleet
from tests.chaos.postgres import Ending

AWAY: Final = frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND})

LISTENS: Final = "a.application_name = 'tocsin-listen'"
HOLDS_LOCK: Final = (
    "a.pid IN (SELECT k.pid FROM pg_locks k WHERE k.locktype = 'advisory' AND k.granted)"
    " AND a.application_name = 'tocsin'"
)


async def restart(fleet: Fleet, rng: Random) -> int:
    """F8: the server is stopped in one of three ways, and is away for no time or for longer than the lease."""
    how: Ending = rng.choice(["fast", "immediate", "kill"])
    await fleet.postgres.stop(how)
    await fleet.for_a_while(rng.choice([0, 0, fleet.lease * 1.3]))
    await fleet.postgres.start()
    return 1


async def end_sessions(fleet: Fleet, rng: Random) -> int:
    """F9: the sessions of one replica, those that listen, those that hold locks, or all of them are ended.

    Each replica soon listens and has its lock again; what is due meanwhile is found without either.
    """
    ended = 0
    which = rng.choice(
        [
            LISTENS,
            "a.pid IN (SELECT k.pid FROM pg_locks k WHERE k.locktype = 'advisory')",
            "a.state <> 'idle'",
            "true",
        ]
    )
    async with asyncio.timeout(10):
        while not ended:  # busy sessions are not there at every moment
            ended = await fleet.value(
                "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a"
                f" WHERE a.application_name LIKE 'tocsin%' AND ({which})"
            )
    for what in (LISTENS, HOLDS_LOCK):
        await fleet.until_value(
            f"SELECT count(*) >= $1 FROM pg_stat_activity a WHERE {what}", len(fleet.living), within=15
        )
    return int(ended)


async def pin_snapshot(fleet: Fleet, rng: Random) -> int:
    """F38: a transaction keeps its snapshot, so that no dead row can be removed meanwhile."""
    session = await asyncpg.connect(fleet.postgres.dsn, server_settings={"application_name": "chaos"})
    try:
        async with session.transaction(isolation="repeatable_read"):
            before = await session.fetchval("SELECT count(*) FROM tocsin.runs")
            await fleet.for_a_while(8)
            held = await fleet.value(
                "SELECT age(a.backend_xmin) FROM pg_stat_activity a WHERE a.pid = $1", session.get_server_pid()
            )
            seen = await session.fetchval("SELECT count(*) FROM tocsin.runs")
            if not held or seen != before:
                raise DidNothing("the snapshot moved on")
    finally:
        async with asyncio.timeout(5):
            await session.close()
    return 1


FAULTS: Catalogue = {
    "F8": lambda: Simple("F8", restart, excuses=AWAY),
    "F9": lambda: Simple("F9", end_sessions, excuses=frozenset({Excuse.SILENT})),
    "F38": lambda: Simple("F38", pin_snapshot),
}
