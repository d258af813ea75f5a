"""The ceiling: a bare loop on asyncpg that keeps no promise but SKIP LOCKED.

One statement completes the last batch and claims the next. One asyncio task a run; no retries, no
history beyond the row, no leases, no logging. A full engine cannot be this fast; the figures say how
near it comes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg

from benchmarks.peers.adapters.frame import Adapter, Caller, Order, Recorder, Stage, act, fire_all, until_told

# The completion is HOT: the partial index has a column of its own, and the page has room.
SCHEMA = """
CREATE TABLE runs (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ready   boolean NOT NULL DEFAULT true,
    state   smallint NOT NULL DEFAULT 0,
    fire_at timestamptz NOT NULL DEFAULT now(),
    key     text NOT NULL,
    nap     real NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX runs_ready ON runs (fire_at, id) WHERE ready;
CREATE TABLE schedules (
    id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due timestamptz,
    key text NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX schedules_due ON schedules (due) WHERE due IS NOT NULL;
"""
NEXT = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
)
UPDATE runs SET ready = false, state = 1
 WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM runs WHERE ready AND fire_at <= now() ORDER BY fire_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, key, nap
"""
FIRE = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
), due AS (
    UPDATE schedules SET due = NULL
     WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM schedules WHERE due <= clock_timestamp() ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING key
)
INSERT INTO runs (ready, state, key) SELECT false, 1, key FROM due RETURNING id, key, nap
"""
ENQUEUE = "WITH i AS (INSERT INTO runs (key) VALUES ($1)) SELECT pg_notify('reference', '')"
BATCH = 500
CLAIMERS = 2


async def connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn, server_settings={"plan_cache_mode": "force_generic_plan"})


class Reference(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        await connection.execute(SCHEMA)
        await connection.close()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        rows = [(f"{order.prefix}-{number}", order.nap) for number in range(order.count)]
        started = time.monotonic()
        await connection.copy_records_to_table("runs", records=rows, columns=["key", "nap"])
        stage.say("enqueued", seconds=time.monotonic() - started)
        await connection.execute("SELECT pg_notify('reference', '')")
        await connection.close()

    async def register(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        due = datetime.fromtimestamp(order.due, UTC)
        rows = [(due, f"{order.prefix}-{number}") for number in range(order.schedules)]
        started = time.monotonic()
        await connection.copy_records_to_table("schedules", records=rows, columns=["due", "key"])
        stage.say("registered", seconds=time.monotonic() - started)
        await connection.execute("SELECT pg_notify('reference', 'schedules')")
        await connection.close()

    async def history(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        await connection.execute(
            "INSERT INTO runs (ready, state, key) SELECT false, 2, 'old-' || g FROM generate_series(1, $1::int) g",
            order.count,
            timeout=600,
        )
        await connection.close()

    @asynccontextmanager
    async def caller(self, order: Order) -> AsyncIterator[Caller]:
        connection = await connect(order.dsn)
        enqueue = await connection.prepare(ENQUEUE)
        yield enqueue.fetchval
        await connection.close()

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        worker = Worker(order, recorder)
        await worker.connect()
        await stage.ready()
        async with until_told() as told:
            loops = [asyncio.create_task(loop) for loop in worker.loops()]
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await told.wait()
            for loop in loops:
                loop.cancel()


class Worker:
    """Claimers on a connection each, one listener, one timer for schedules."""

    def __init__(self, order: Order, recorder: Recorder) -> None:
        self._order = order
        self._recorder = recorder
        self._sooner = asyncio.Event()
        self._wake = [asyncio.Event() for _ in range(CLAIMERS)]

    async def connect(self) -> None:
        self._claimers = [await connect(self._order.dsn) for _ in range(CLAIMERS)]
        self._nexts = [await connection.prepare(NEXT) for connection in self._claimers]
        for statement in self._nexts:
            await statement.fetch([], 0)
        self._timer = await connect(self._order.dsn)
        self._fire = await self._timer.prepare(FIRE)
        await self._fire.fetch([], 0)
        self._listener = await connect(self._order.dsn)
        await self._listener.add_listener("reference", self._hear)

    def loops(self) -> list[Any]:
        return [*(self._claim(number) for number in range(CLAIMERS)), self._schedules()]

    def _hear(self, *heard: object) -> None:
        if heard and heard[-1] == "schedules":
            self._sooner.set()
            return
        # The first claimer that sleeps is enough; a full batch wakes the other.
        for wake in self._wake:
            if not wake.is_set():
                wake.set()
                return

    async def _claim(self, number: int) -> None:
        statement, wake = self._nexts[number], self._wake[number]
        ended: list[int] = []
        while True:
            wake.clear()
            rows = await statement.fetch(ended, BATCH)
            ended = []
            if len(rows) == BATCH:
                self._hear()
            if rows:
                ended = await self._execute(rows)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await wake.wait()

    async def _execute(self, rows: list[Any]) -> list[int]:
        tasks = [asyncio.create_task(self._recorder.run(row["key"], row["nap"])) for row in rows]
        for task in tasks:
            await task
        return [row["id"] for row in rows]

    async def _schedules(self) -> None:
        while True:
            self._sooner.clear()
            wait = await self._timer.fetchval("SELECT extract(epoch FROM min(due) - clock_timestamp()) FROM schedules")
            with suppress(TimeoutError):
                async with asyncio.timeout(15 if wait is None else min(max(float(wait), 0), 15)):
                    await self._sooner.wait()
            ended: list[int] = []
            while rows := await self._fire.fetch(ended, BATCH):
                ended = await self._execute(rows)


if __name__ == "__main__":
    act(Reference())
