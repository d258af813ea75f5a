"""A world, and somebody on its host who asks its API."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.edges.http.client import Client, a_client
from tests.engine.building import World
from tocsin.store.database import Database


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    database = Database(dsn)
    admin = await asyncpg.connect(dsn)
    try:
        yield World(dsn, database, admin)
    finally:
        await admin.close()
        await database.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with a_client(world.database, world.clock) as client:
        yield client
