"""Agent processes that are gone after their test, and what their agents noted."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.edges.processes import APP, Worker
from tests.engine.building import World
from tocsin.store.database import Database


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    database, admin = Database(dsn), await asyncpg.connect(dsn)
    try:
        yield World(dsn, database, admin)
    finally:
        await admin.close()
        await database.close()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, which are gone afterwards."""
    (tmp_path / "app.py").write_text(APP)
    started: list[Worker] = []

    def start(hubs: str, name: str = "") -> Worker:
        started.append(Worker(tmp_path, hubs, name or f"w{len(started)}"))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """What the agents noted when they began."""

    def read() -> list[dict[str, Any]]:
        path = tmp_path / "ledger"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read
