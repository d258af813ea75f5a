"""Runs are listed alike whichever way they are found, and few among many are found at once."""

from itertools import combinations
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from benchmarks.listing import FAILED, PAGE, fill
from tests.conftest import Server
from tests.edges.http.client import a_client
from tests.engine.building import MINUTE, NOON, TRIED, HandClock, World, a_trigger
from tocsin.domain.errors import StatementRefused
from tocsin.domain.run import RunState
from tocsin.edges.http.operation import to_cursor
from tocsin.engine.control import Control
from tocsin.store.database import Database, session_settings
from tocsin.store.statements import load

UNSUCCESSFUL = [state for state in RunState if state is not RunState.SUCCEEDED]
RUNS = 100_000

MANY_SKIPPED = """
UPDATE tocsin.runs SET state = 'skipped', reason = 'expired', seq = 4
 WHERE id IN (SELECT id FROM tocsin.runs WHERE state = 'succeeded' ORDER BY id OFFSET 1000 LIMIT 30000)
"""

ENDED: dict[str, dict[str, Any]] = {
    "queued": {},
    "running": TRIED | {"seq": 2, "holder": TRIED["claimed_by"], "state": "running"},
    "succeeded": TRIED | {"state": "succeeded", "finished_at": NOON},
    "failed": TRIED | {"state": "failed", "finished_at": NOON},
    "cancelled": {"seq": 2, "state": "cancelled", "finished_at": NOON},
    "skipped": {"seq": 2, "state": "skipped", "reason": "overlap", "finished_at": NOON},
}


async def filled(world: World) -> None:
    """A run in each state, of each trigger, four times."""
    await world.declare(a_trigger("t"), a_trigger("u", agent="other"), agents=("agent", "other"))
    for number in range(4):
        for columns in ENDED.values():
            for name in "tu":
                await world.queue(name, number * MINUTE, kind="manual", **columns)


@pytest.mark.parametrize("shortest", ["1000", "2"])
async def test_a_listing_by_states_is_all_runs_without_the_others(world: World, shortest: str) -> None:
    """Whether the queue is short or long."""
    await filled(world)
    altered = load().altered("list_unsuccessful_runs", "count(*) < 1000", f"count(*) < {shortest}")
    database = Database(world.dsn, statements=altered)
    control = Control(database=database, clock=world.clock, actor="test")
    everything = await world.control.runs(limit=100)
    assert len(everything) == 4 * 6 * 2
    filters: list[dict[str, Any]] = [
        {},
        {"trigger": "u"},
        {"agent": "agent"},
        {"since": NOON + MINUTE, "until": NOON + 2 * MINUTE},
    ]
    try:
        for size in (1, 2, 3, 5):
            for states in combinations(UNSUCCESSFUL, size):
                for one in filters:
                    found: list[dict[str, Any]] = []
                    before: UUID | None = None
                    while rows := await control.runs(limit=5, before=before, states=list(states), **one):
                        found += rows
                        before = UUID(str(rows[-1]["id"]))
                    assert found == [row for row in everything if row["state"] in states and fits(row, one)]
    finally:
        await database.close()


def fits(row: dict[str, Any], filters: dict[str, Any]) -> bool:
    since, until = filters.get("since", row["queued_at"]), filters.get("until", row["queued_at"])
    same = all(row[name] == filters[name] for name in ("trigger", "agent") if name in filters)
    return same and since <= row["queued_at"] <= until


@pytest.fixture(scope="module")
async def long_history(server: Server, template: str) -> Any:
    async with server.database(template) as dsn:
        await fill(dsn, RUNS)
        connection = await asyncpg.connect(dsn)
        await connection.execute(MANY_SKIPPED)
        await connection.close()
        yield dsn


async def touched(dsn: str, states: list[str]) -> int:
    """Blocks that a listing by states looks at."""
    connection = await asyncpg.connect(dsn, server_settings=session_settings("test", pooler=False))
    try:
        statement = load()["list_unsuccessful_runs"]
        values = {"limit": "50", "states": f"ARRAY{states}"}
        arguments = ", ".join(values.get(name, "NULL") for name in statement.parameters)
        await connection.execute(f"PREPARE listed AS {statement.text}")
        plan = "\n".join(
            row[0]
            for row in await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE listed ({arguments})")
        )
    finally:
        await connection.close()
    top = next(line for line in plan.splitlines() if "Buffers:" in line)
    return sum(int(part.partition("=")[2]) for part in top.split() if part.startswith(("hit=", "read=")))


@pytest.mark.parametrize("states", [["failed"], ["queued"], ["running"], ["cancelled", "failed", "queued", "skipped"]])
async def test_three_among_a_hundred_thousand_are_found_in_a_few_steps(long_history: str, states: list[str]) -> None:
    assert await touched(long_history, states) < 1_000


async def test_they_are_not_looked_for_among_all(long_history: str) -> None:
    """Where nobody can go through them all, they are found as well."""
    altered = load().altered("list_runs", "r.id >= coalesce", "1 / 0 = 1 AND r.id >= coalesce")
    database = Database(long_history, statements=altered)
    control = Control(database=database, clock=HandClock(), actor="test")
    try:
        assert len(await control.runs(limit=50, states=[RunState.FAILED, RunState.RUNNING])) == FAILED
        with pytest.raises(StatementRefused):
            await control.runs(limit=50, states=[RunState.FAILED, RunState.SUCCEEDED])
    finally:
        await database.close()


async def test_the_first_page_and_the_thousandth_are_as_quick_over_http(long_history: str) -> None:
    """The bound is generous: what is measured stands in docs/reference/http.md."""
    database, clock = Database(long_history), HandClock()
    connection = await asyncpg.connect(long_history)
    try:
        last = await connection.fetchval(
            "SELECT id FROM tocsin.runs ORDER BY id DESC OFFSET $1 LIMIT 1", 999 * PAGE - 1
        )
        async with a_client(database, clock) as client:
            await client.get("/v1/runs")
            first, thousandth = {"limit": PAGE}, {"limit": PAGE, "cursor": to_cursor(last)}
            for query, size in ((first, PAGE), (thousandth, PAGE), ({"state": "failed"}, FAILED)):
                took = []
                for _ in range(5):
                    began = perf_counter()
                    items = (await client.get("/v1/runs", **query)).json["items"]
                    took.append(perf_counter() - began)
                    assert len(items) == size
                assert min(took) < 0.05
    finally:
        await connection.close()
        await database.close()
