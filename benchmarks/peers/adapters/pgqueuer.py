# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""PgQueuer: one asyncpg connection and uvloop, as ``pgq run`` has it; a batch as large as the slots."""

import asyncio
import json
import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job, Schedule
from pgqueuer.queries import Queries

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all, until_told

CHUNK = 2_000


def cron_of(due: float) -> str:
    """The sixth field is the second, as croniter reads it."""
    moment = datetime.fromtimestamp(due, UTC)
    return f"{moment.minute} {moment.hour} {moment.day} {moment.month} * {moment.second}"


class Peer(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        connection = await asyncpg.connect(order.dsn)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        connection = await asyncpg.connect(order.dsn)
        queries = Queries(AsyncpgDriver(connection))
        payloads = [payload(f"{order.prefix}-{number}", order.nap) for number in range(order.count)]
        started = time.monotonic()
        for first in range(0, order.count, CHUNK):
            part = payloads[first : first + CHUNK]
            await queries.enqueue(["body"] * len(part), part, [0] * len(part))
        stage.say("enqueued", seconds=time.monotonic() - started)
        await connection.close()

    @asynccontextmanager
    async def caller(self, order: Order):
        connection = await asyncpg.connect(order.dsn)
        queries = Queries(AsyncpgDriver(connection))

        async def call(key: str) -> None:
            await queries.enqueue("body", payload(key, order.nap))

        yield call
        await connection.close()

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        logging.disable(logging.INFO)
        connection = await asyncpg.connect(order.dsn)
        pgq = PgQueuer(AsyncpgDriver(connection))

        @pgq.entrypoint("body")
        async def body(job: Job) -> None:
            given = json.loads(job.payload)
            await recorder.run(given["key"], given["nap"])

        if order.schedules:
            started = time.monotonic()
            for number in range(order.schedules):
                schedule(pgq, f"{order.prefix}-{number}", order, recorder)
            stage.say("registered", seconds=time.monotonic() - started)
        await stage.ready()
        async with until_told() as told:
            # The dispatch is limited by slots only where a scenario holds long runs; a batch is half of them at most.
            limits = {"max_concurrent_tasks": order.slots} if order.nap else {}
            heartbeat = timedelta(seconds=2) if order.aggressive else timedelta(seconds=30)
            running = asyncio.create_task(
                pgq.run(
                    batch_size=order.slots // 2 if order.nap else min(order.slots, 500),
                    heartbeat_timeout=heartbeat,
                    dequeue_timeout=timedelta(seconds=1 if order.aggressive else 30),
                    **limits,
                )
            )
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await told.wait()
            pgq.shutdown.set()
            await running


def schedule(pgq: PgQueuer, key: str, order: Order, recorder: Recorder) -> None:
    @pgq.schedule(key, cron_of(order.due))
    async def body(schedule: Schedule) -> None:
        await recorder.run(key, order.nap)


def payload(key: str, nap: float) -> bytes:
    return json.dumps({"key": key, "nap": nap}).encode()


if __name__ == "__main__":
    act(Peer(), run=uvloop.run)
