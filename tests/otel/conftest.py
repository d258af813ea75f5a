"""A world for every test that asks for one."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

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
