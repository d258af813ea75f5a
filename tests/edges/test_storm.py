"""Many instances whose hubs go away and come back: all are back soon, not all at once, and no run has noticed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg
import pytest

from tests.edges.agents import Agents, some_agents
from tests.edges.processes import Served, a_world, fire
from tests.edges.wiring import Hub, a_hub
from tests.engine.building import DEADLINE, PATIENCE, eventually
from tocsin.engine.control import Control
from tocsin.sdk.standing import Patience

pytestmark = pytest.mark.anyio

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

COUNT: Final = 200
EACH: Final = 3
AWAY: Final = 3.0
"""Seconds that the hub is gone."""

MEGABYTES_A_STREAM: Final = 0.5
STATEMENTS_A_WELCOME: Final = 15


@asynccontextmanager
async def a_database(dsn: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def connected_since(database: Database, instant: datetime, count: int) -> Callable[[], object]:
    async def are_connected() -> bool:
        now = "SELECT count(*) FROM tocsin.instances WHERE connected_at > $1 AND disconnected_at IS NULL"
        return bool(await database.fetchval(now, instant) == count)

    return are_connected


def all_connected(database: Database, count: int) -> Callable[[], object]:
    """Each has a stream to some replica."""

    async def are_connected() -> bool:
        return bool(await database.fetchval("SELECT count(replica) FROM tocsin.instances") == count)

    return are_connected


async def now_of(database: Database) -> datetime:
    instant: datetime = await database.fetchval("SELECT clock_timestamp()")
    return instant


async def transactions(database: Database) -> int:
    """That the server has counted in this database; it does so within a second."""
    await database.execute("SELECT pg_stat_clear_snapshot()")
    counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return int(await database.fetchval(counted))


async def begun(control: Control, agents: Agents, runs: int, *, seconds: float) -> None:
    for _ in range(runs):
        await fire(control, seconds)
    await eventually(lambda: len(agents.began) == runs, within=DEADLINE, what=f"{runs} runs begun")


async def untouched(database: Database, agents: Agents, runs: int) -> None:
    """0 restarted, cancelled, lost or doubled."""

    async def are_over() -> bool:
        return bool(await database.fetchval("SELECT count(*) FROM tocsin.runs WHERE finished_at IS NOT NULL") == runs)

    await eventually(are_over, within=2 * DEADLINE, what="all runs at their end")
    ends = await database.fetch("SELECT state, fence, attempt, count(*) FROM tocsin.runs GROUP BY 1, 2, 3")
    assert [tuple(row) for row in ends] == [("succeeded", 1, 1, runs)]
    assert len(agents.began) == len({run for run, _ in agents.began}) == runs


def most_within(instants: list[datetime], seconds: float) -> int:
    """The largest number of them within so many seconds."""
    return max(sum(0 <= (other - one).total_seconds() <= seconds for other in instants) for one in instants)


async def test_two_hundred_come_back_to_a_hub_that_was_killed(dsn: str, tmp_path: Path) -> None:
    async with a_world(dsn) as control, a_database(dsn) as database, AsyncExitStack() as stack:
        hub = Served(tmp_path, dsn, suspect_after="8s", dead_after="60s")
        stack.callback(hub.kill)
        await eventually(lambda: hub.logged("hub.started"))
        agents = await stack.enter_async_context(some_agents(hub.address, count=COUNT, slots=EACH, patience=Patience()))
        await eventually(all_connected(database, COUNT), within=2 * DEADLINE)
        await begun(control, agents, COUNT * EACH, seconds=25)
        resident = hub.resident
        hub.kill()
        before, killed_at = await transactions(database), await now_of(database)
        await asyncio.sleep(AWAY)
        hub.start()
        await eventually(connected_since(database, killed_at, COUNT), within=AWAY + 12 * PATIENCE, what="all back")
        arrivals = [
            row["connected_at"] for row in await database.fetch("SELECT connected_at FROM tocsin.instances ORDER BY 1")
        ]
        assert most_within(arrivals, 0.5) < COUNT / 2, "their coming is spread"
        assert (arrivals[-1] - arrivals[0]).total_seconds() > 2.5
        await asyncio.sleep(1.2)
        assert await transactions(database) - before < COUNT * STATEMENTS_A_WELCOME
        assert hub.resident < resident + COUNT * MEGABYTES_A_STREAM
        await untouched(database, agents, COUNT * EACH)
        assert hub.logged("instance.lost") == 0


async def test_three_hubs_restart_one_after_another_under_fifty_instances(dsn: str) -> None:
    async with a_world(dsn) as control, a_database(dsn) as database, AsyncExitStack() as stack:
        hubs: list[tuple[AsyncExitStack, Hub]] = []
        for _ in range(3):
            own = await stack.enter_async_context(AsyncExitStack())
            hubs.append((own, await own.enter_async_context(a_hub(dsn, suspect_after=4, dead_after=30))))
        addresses = [hub.address for _, hub in hubs]
        agents = await stack.enter_async_context(some_agents(*addresses, count=50, slots=3))
        await eventually(all_connected(database, 50))
        await begun(control, agents, 150, seconds=18)
        for closing, old in hubs:
            await closing.aclose()
            again = await stack.enter_async_context(a_hub(dsn, grpc_bind=old.address, suspect_after=4, dead_after=30))
            assert again.address == old.address
            await eventually(all_connected(database, 50))
        assert not await database.fetchval("SELECT count(*) FROM tocsin.runs WHERE finished_at IS NOT NULL"), (
            "each run has seen all three go"
        )
        await untouched(database, agents, 150)
