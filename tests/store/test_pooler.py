"""Behind a transaction pooler: no prepared statements, LISTEN or session locks, and everything fires all the same."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.chaos.faults.pooler import MISSING, PGBOUNCER, pooled
from tests.engine.building import a_replica, a_trigger, an_app, eventually
from tocsin import cron
from tocsin.clock import SystemClock
from tocsin.domain.errors import StoreError
from tocsin.engine.control import Control
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.migrate import migrate, migrations

OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"

pytestmark = pytest.mark.skipif(PGBOUNCER is None and not os.environ.get("CI"), reason=MISSING)


async def test_hubs_behind_a_transaction_pooler_fire_and_settle_everything(dsn: str) -> None:
    marks: Counter[str] = Counter()
    let_go = asyncio.Event()

    async def agent(run: Run) -> int:
        run.progress("on", 0.5)
        marks[run.trigger] += 1
        return run.fence

    async def waits() -> None:
        await let_go.wait()

    functions: dict[str, Callable[..., Any]] = {"agent": agent, "waits": waits}
    ticks = [a_trigger(f"t{n}", cron("* * * * * *")) for n in range(10)]
    app = an_app(*ticks, a_trigger("waits", agent="waits"), agents=functions)
    admin = await asyncpg.connect(dsn)
    try:
        async with pooled(dsn) as through:
            database = Database(through, pooler=True)
            control = Control(database=database, clock=SystemClock(), actor="test")
            await control.declare(app)
            settings: dict[str, Any] = {"db_pooler": "transaction"}
            async with a_replica(through, functions, **settings), a_replica(through, functions, **settings) as two:
                await control.fire("waits")
                await eventually(lambda: sum(marks.values()) > 30 and len(marks) == 10)
                told = await control.replicas(limit=5)
                assert [(row["state"], row["locked"]) for row in told] == [("alive", False)] * 2
                assert await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
                for what in ("query ILIKE 'listen%'", "application_name = 'tocsin-listen'"):
                    assert await admin.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS} AND {what}") == 0
                assert await admin.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}") <= 2
                assert two.ready
                let_go.set()
            await database.close()
        runs = await admin.fetch("SELECT state, fence, lost FROM tocsin.runs WHERE state <> 'queued'")
        assert {(row["state"], row["fence"], row["lost"]) for row in runs} == {("succeeded", 1, 0)}
        assert len(runs) == sum(marks.values()) + 1
    finally:
        await admin.close()


async def test_migrating_through_a_transaction_pooler_works(empty_dsn: str) -> None:
    async with pooled(empty_dsn) as through:
        states = await asyncio.gather(*(migrate(through, pooler=True) for _ in range(3)))
        assert sorted(len(state.applied) for state in states) == [0, 0, len(migrations())]


async def test_a_hub_that_was_not_told_of_the_pooler_is_refused_at_once(dsn: str) -> None:
    """It never gets so far as to leave its locks and settings on somebody else's session."""
    async with pooled(dsn) as through:
        with pytest.raises(StoreError, match="unsupported startup parameter"):
            await Database(through).open()
