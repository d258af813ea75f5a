# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""Oban: a queue as wide as the slots, as ``oban start`` has it; schedules are cron entries of the process."""

import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from oban import Oban, worker
from oban.schema import install

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all, until_told

RECORDER: Recorder


@worker(queue="default")
class Body:
    async def process(self, job):
        await RECORDER.run(job.args["key"], job.args["nap"])


class Peer(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        pool = await Oban.create_pool(order.dsn)
        await install(pool)
        await pool.close()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        pool = await Oban.create_pool(order.dsn)
        oban = Oban(pool=pool)
        jobs = [Body.new({"key": f"{order.prefix}-{n}", "nap": order.nap}) for n in range(order.count)]
        started = time.monotonic()
        for first in range(0, order.count, 1_000):
            await oban.enqueue_many(jobs[first : first + 1_000])
        stage.say("enqueued", seconds=time.monotonic() - started)
        await pool.close()

    @asynccontextmanager
    async def caller(self, order: Order):
        pool = await Oban.create_pool(order.dsn)
        oban = Oban(pool=pool, name="caller")

        async def call(key: str) -> None:
            await oban.enqueue(Body.new({"key": key, "nap": order.nap}))

        yield call
        await pool.close()

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        global RECORDER  # noqa: PLW0603 — workers are classes that Oban makes by name
        RECORDER = recorder
        logging.disable(logging.INFO)
        if order.schedules:
            started = time.monotonic()
            for number in range(order.schedules):
                declare(f"{order.prefix}-{number}", order, recorder)
            stage.say("registered", seconds=time.monotonic() - started)
        pool = await Oban.create_pool(order.dsn)
        given = {}
        if order.limit is not None:
            given["shutdown_grace_period"] = order.limit
        if order.aggressive:
            given["lifeline"] = {"interval": 1.0, "rescue_after": 2.0}
        await stage.ready()
        async with until_told() as told, Oban(pool=pool, queues={"default": order.slots}, **given):
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await told.wait()


def declare(key: str, order: Order, recorder: Recorder) -> None:
    moment = datetime.fromtimestamp(order.due, UTC)
    cron = f"{moment.minute} {moment.hour} {moment.day} {moment.month} *"

    async def process(self, job):
        await recorder.run(key, order.nap)

    # Its own name, since Oban knows workers by theirs.
    worker(queue="default", cron=cron)(type(key, (), {"process": process, "__module__": __name__}))


if __name__ == "__main__":
    act(Peer())
