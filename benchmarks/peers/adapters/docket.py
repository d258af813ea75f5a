# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""Docket on Redis: checks every 5 ms, which its defaults would do every 250 ms; 90 slots at most (see contestants)."""

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from docket import Docket, Worker

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all

OFTEN = timedelta(milliseconds=5)
MOST_SLOTS = 90
"""redis-py's pool has 100 connections; near that, runs are left to redelivery."""
RECORDER: Recorder


async def body(key: str, nap: float) -> None:
    await RECORDER.run(key, nap)


def docket_of(order: Order) -> Docket:
    given = {"heartbeat_interval": timedelta(seconds=0.5)} if order.aggressive else {}
    docket = Docket(name="bench", url=order.redis, **given)
    docket.register(body)
    return docket


class Peer(Adapter):
    async def enqueue(self, order: Order, stage: Stage) -> None:
        async with docket_of(order) as docket:
            started = time.monotonic()
            for first in range(0, order.count, 1_000):
                numbers = range(first, min(first + 1_000, order.count))
                await docket.add_many([docket.call(body)(f"{order.prefix}-{n}", order.nap) for n in numbers])
            stage.say("enqueued", seconds=time.monotonic() - started)

    async def register(self, order: Order, stage: Stage) -> None:
        due = datetime.fromtimestamp(order.due, UTC)
        async with docket_of(order) as docket:
            started = time.monotonic()
            for first in range(0, order.schedules, 1_000):
                keys = [f"{order.prefix}-{n}" for n in range(first, min(first + 1_000, order.schedules))]
                await docket.add_many([docket.call(body, when=due, key=key)(key, order.nap) for key in keys])
            stage.say("registered", seconds=time.monotonic() - started)

    @asynccontextmanager
    async def caller(self, order: Order):
        async with docket_of(order) as docket:

            async def call(key: str) -> None:
                await docket.add(body)(key, order.nap)

            yield call

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        global RECORDER  # noqa: PLW0603 — tasks are known by the name of their function
        RECORDER = recorder
        logging.disable(logging.WARNING)
        given = {"redelivery_timeout": timedelta(seconds=2)} if order.aggressive else {}
        await stage.ready()
        async with (
            docket_of(order) as docket,
            Worker(
                docket,
                concurrency=min(order.slots, MOST_SLOTS),
                minimum_check_interval=OFTEN,
                scheduling_resolution=OFTEN,
                **given,
            ) as worker,
        ):
            running = asyncio.create_task(worker.run_forever())
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await running


if __name__ == "__main__":
    act(Peer())
