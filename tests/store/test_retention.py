"""What is forgotten, and what is kept however old it is."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.engine.building import World, a_trigger, an_end
from tocsin.store.database import Database
from tocsin.store.retention import Retention

LATER = datetime.now(UTC) + timedelta(days=400)
KEPT_IN = ("triggers", "runs", "transitions", "last_successes")


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    database = Database(dsn)
    admin = await asyncpg.connect(dsn)
    try:
        yield World(dsn, database, admin)
    finally:
        await admin.close()
        await database.close()


async def succeed(world: World, *triggers: str) -> None:
    peer = await world.peer()
    await world.declare(*(a_trigger(trigger) for trigger in triggers))
    for trigger in triggers:
        await world.queue(trigger)
        await peer.settle(an_end(await peer.claim_one()))


async def prune(world: World, before: datetime) -> None:
    """Two rounds: what keeps a run goes in the first."""
    retention = Retention(database=world.database)
    for _ in range(2):
        await retention.prune_runs(before, batch=10)
        await retention.prune_rest(before, batch=10)


async def counts(world: World) -> list[int]:
    return [await world.value(f"SELECT count(*) FROM tocsin.{table}") for table in KEPT_IN]


async def test_a_deleted_trigger_is_forgotten_with_its_last_success(world: World) -> None:
    await succeed(world, "deleted", "kept")
    await world.control.delete_trigger("deleted")
    await prune(world, LATER)
    assert await counts(world) == [1, 1, 3, 1]
    assert await world.value("SELECT name FROM tocsin.triggers") == "kept"


async def test_a_trigger_that_was_deleted_lately_keeps_its_last_success(world: World) -> None:
    await succeed(world, "deleted")
    await world.control.delete_trigger("deleted")
    await prune(world, world.clock.now())
    assert await counts(world) == [1, 1, 3, 1]
