"""A bare loop on asyncpg, as one writes it by hand: it keeps no promise but SKIP LOCKED.

One connection claims; one statement completes the last batch and claims the next. One asyncio task a
run, whose input is JSON; no retries, no history beyond the row, no leases, no logging. A full engine
cannot be this fast; the figures say how near it comes.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from benchmarks.peers.adapters.frame import Adapter, Caller, Order, Recorder, Stage, act, fire_all, until_told

SCHEMA = """
CREATE TABLE runs (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state   smallint NOT NULL DEFAULT 0,
    fire_at timestamptz NOT NULL DEFAULT now(),
    input   jsonb NOT NULL
);
CREATE INDEX runs_waiting ON runs (fire_at, id) WHERE state = 0;
CREATE TABLE schedules (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due   timestamptz,
    input jsonb NOT NULL
);
CREATE INDEX schedules_due ON schedules (due) WHERE due IS NOT NULL;
"""
NEXT = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
)
UPDATE runs SET state = 1
 WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM runs WHERE state = 0 AND fire_at <= now() ORDER BY fire_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, input
"""
FIRE = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
), due AS (
    UPDATE schedules SET due = NULL
     WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM schedules WHERE due <= clock_timestamp() ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING input
)
INSERT INTO runs (state, input) SELECT 1, input FROM due RETURNING id, input
"""
ENQUEUE = "WITH i AS (INSERT INTO runs (input) VALUES ($1)) SELECT pg_notify('reference', '')"
HISTORY = "INSERT INTO runs (state, input) SELECT 2, '{}' FROM generate_series(1, $1::int) g"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a loop is made of. claimers: connections that claim, each its own batch at a time."""

    schema: str = SCHEMA
    next: str = NEXT
    fire: str = FIRE
    history: str = HISTORY
    batch: int = 1_000
    claimers: int = 1


def body(key: str, nap: float) -> str:
    """A run's input."""
    return json.dumps({"key": key, "nap": nap})


async def connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn, server_settings={"plan_cache_mode": "force_generic_plan"})


class Reference(Adapter):
    def __init__(self, shape: Shape = Shape()) -> None:
        self._shape = shape

    async def install(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        await connection.execute(self._shape.schema)
        await connection.close()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        rows = [(body(f"{order.prefix}-{number}", order.nap),) for number in range(order.count)]
        started = time.monotonic()
        await connection.copy_records_to_table("runs", records=rows, columns=["input"])
        stage.say("enqueued", seconds=time.monotonic() - started)
        await connection.execute("SELECT pg_notify('reference', '')")
        await connection.close()

    async def register(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        due = datetime.fromtimestamp(order.due, UTC)
        rows = [(due, body(f"{order.prefix}-{number}", 0)) for number in range(order.schedules)]
        started = time.monotonic()
        await connection.copy_records_to_table("schedules", records=rows, columns=["due", "input"])
        stage.say("registered", seconds=time.monotonic() - started)
        await connection.execute("SELECT pg_notify('reference', 'schedules')")
        await connection.close()

    async def history(self, order: Order, stage: Stage) -> None:
        connection = await connect(order.dsn)
        await connection.execute(self._shape.history, order.count, timeout=600)
        await connection.close()

    @asynccontextmanager
    async def caller(self, order: Order) -> AsyncIterator[Caller]:
        connection = await connect(order.dsn)
        enqueue = await connection.prepare(ENQUEUE)

        async def call(key: str) -> None:
            await enqueue.fetchval(body(key, order.nap))

        yield call
        await connection.close()

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        worker = Worker(self._shape, order, recorder)
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

    def __init__(self, shape: Shape, order: Order, recorder: Recorder) -> None:
        self._shape = shape
        self._order = order
        self._recorder = recorder
        self._sooner = asyncio.Event()
        self._wake = [asyncio.Event() for _ in range(self._shape.claimers)]

    async def connect(self) -> None:
        self._claimers = [await connect(self._order.dsn) for _ in range(self._shape.claimers)]
        self._nexts = [await connection.prepare(self._shape.next) for connection in self._claimers]
        for statement in self._nexts:
            await statement.fetch([], 0)
        self._timer = await connect(self._order.dsn)
        self._fire = await self._timer.prepare(self._shape.fire)
        await self._fire.fetch([], 0)
        self._listener = await connect(self._order.dsn)
        await self._listener.add_listener("reference", self._hear)

    def loops(self) -> list[Any]:
        return [*(self._claim(number) for number in range(self._shape.claimers)), self._schedules()]

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
            rows = await statement.fetch(ended, self._shape.batch)
            ended = []
            if len(rows) == self._shape.batch:
                self._hear()
            if rows:
                ended = await self._execute(rows)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await wake.wait()

    async def _execute(self, rows: list[Any]) -> list[int]:
        tasks = [asyncio.create_task(self._recorder.run(**json.loads(row["input"]))) for row in rows]
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
            while rows := await self._fire.fetch(ended, self._shape.batch):
                ended = await self._execute(rows)


if __name__ == "__main__":
    act(Reference())
