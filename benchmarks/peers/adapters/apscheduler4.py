# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""APScheduler 4, an alpha: SQLAlchemyDataStore on asyncpg with its AsyncpgEventBroker, as its documentation advises."""

import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from apscheduler import AsyncScheduler
from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
from apscheduler.eventbrokers.asyncpg import AsyncpgEventBroker
from apscheduler.triggers.date import DateTrigger
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all, until_told

RECORDER: Recorder


async def body(key: str, nap: float) -> None:
    await RECORDER.run(key, nap)


def scheduler_of(order: Order, **options) -> AsyncScheduler:
    engine = create_async_engine(order.dsn.replace("postgresql://", "postgresql+asyncpg://"))
    return AsyncScheduler(SQLAlchemyDataStore(engine), AsyncpgEventBroker.from_async_sqla_engine(engine), **options)


class Peer(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        async with scheduler_of(order):
            pass

    async def enqueue(self, order: Order, stage: Stage) -> None:
        async with scheduler_of(order) as scheduler:
            started = time.monotonic()
            for number in range(order.count):
                await scheduler.add_job(body, args=(f"{order.prefix}-{number}", order.nap))
            stage.say("enqueued", seconds=time.monotonic() - started)

    async def register(self, order: Order, stage: Stage) -> None:
        trigger_at = datetime.fromtimestamp(order.due, UTC)
        async with scheduler_of(order) as scheduler:
            started = time.monotonic()
            for number in range(order.schedules):
                key = f"{order.prefix}-{number}"
                await scheduler.add_schedule(body, DateTrigger(trigger_at), id=key, args=(key, order.nap))
            stage.say("registered", seconds=time.monotonic() - started)

    @asynccontextmanager
    async def caller(self, order: Order):
        async with scheduler_of(order) as scheduler:

            async def call(key: str) -> None:
                await scheduler.add_job(body, args=(key, order.nap))

            yield call

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        global RECORDER  # noqa: PLW0603 — tasks are known by the name of their function
        RECORDER = recorder
        logging.disable(logging.WARNING)
        options = {"lease_duration": 2, "cleanup_interval": 1} if order.aggressive else {}
        await stage.ready()
        async with until_told() as told, scheduler_of(order, max_concurrent_jobs=order.slots, **options) as scheduler:
            await scheduler.start_in_background()
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await told.wait()


if __name__ == "__main__":
    act(Peer())
