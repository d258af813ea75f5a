"""A world whose API is on a port, and a client that speaks to it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.edges.http.client import a_front
from tests.edges.http.test_limits import listening
from tests.engine.building import Heard, World
from tocsin.sdk.client import Client
from tocsin.store.database import Database


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Settings come from the test alone."""
    for name in ("URL", "KEY", "KEY_FILE", "CA", "HTTP_INSECURE"):
        monkeypatch.delenv(f"TOCSIN_{name}", raising=False)
    monkeypatch.chdir(str(tmp_path))


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
async def url(world: World) -> AsyncIterator[str]:
    async with listening(a_front(world.database, world.clock, Heard())) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url) as client:
        yield client
