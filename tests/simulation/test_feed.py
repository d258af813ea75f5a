"""What is fed is the trail, through an hour of faults."""

import asyncpg
import pytest

from tocsin.clock import SystemClock
from tocsin.store.database import Database
from tocsin.store.feed import Feed
from tocsin.testing.simulation import simulated

COLUMNS = "run_id, seq, to_state, attempt, fence, actor, reason, at"


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_fed_is_the_trail_whatever_goes_wrong(seed: int, dsn: str) -> None:
    database = Database(dsn)
    await Feed(database=database, clock=SystemClock()).want()
    await database.close()
    async with simulated(seed, dsn):
        admin = await asyncpg.connect(dsn)
        try:
            trail = await admin.fetch(f"SELECT {COLUMNS} FROM tocsin.transitions ORDER BY run_id, seq")
            fed = await admin.fetch(f"SELECT {COLUMNS} FROM tocsin.feed ORDER BY run_id, id")
        finally:
            await admin.close()
    assert len(trail) > 500
    assert fed == trail
