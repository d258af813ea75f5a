# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""DBOS: workflows on a queue that is polled every 100 ms, which is its default of a second made shorter."""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from dbos import DBOS

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all, until_told

RECORDER: Recorder


@DBOS.workflow()
async def body(key: str, nap: float) -> None:
    await RECORDER.run(key, nap)


@DBOS.workflow()
async def tick(scheduled_at: datetime, context: str) -> None:
    await RECORDER.run(context, 0)


async def launch(order: Order, *, works: bool) -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": order.dsn,
            "executor_id": f"executor-{os.getpid()}",
            "application_version": "1",
            "console_log_level": "ERROR",
            "log_level": "ERROR",
            "scheduler_polling_interval_sec": 1.0,
        }
    )
    if not works:
        DBOS.listen_queues([])
    DBOS.launch()
    await DBOS.register_queue_async("bench", worker_concurrency=order.slots, polling_interval_sec=0.1)


class Peer(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        await launch(order, works=False)
        DBOS.destroy()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        await launch(order, works=False)
        started = time.monotonic()
        for number in range(order.count):
            await DBOS.enqueue_workflow_async("bench", body, f"{order.prefix}-{number}", order.nap)
        stage.say("enqueued", seconds=time.monotonic() - started)
        await leave(stage)

    async def register(self, order: Order, stage: Stage) -> None:
        await launch(order, works=False)
        moment = datetime.fromtimestamp(order.due, UTC)
        cron = f"{moment.second} {moment.minute} {moment.hour} {moment.day} {moment.month} *"
        keys = [f"{order.prefix}-{number}" for number in range(order.schedules)]
        started = time.monotonic()
        await DBOS.apply_schedules_async(
            [{"schedule_name": key, "workflow_fn": tick, "schedule": cron, "context": key} for key in keys]
        )
        stage.say("registered", seconds=time.monotonic() - started)
        await leave(stage)

    @asynccontextmanager
    async def caller(self, order: Order):
        if not order.fires:
            await launch(order, works=False)

        async def call(key: str) -> None:
            await DBOS.enqueue_workflow_async("bench", body, key, order.nap)

        yield call

    async def fire(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        await super().fire(order, recorder, stage)
        await leave(stage)

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        global RECORDER  # noqa: PLW0603 — workflows are known by the name of their function
        RECORDER = recorder
        await stage.ready()
        async with until_told() as told:
            await launch(order, works=True)
            stage.up()
            if order.fires:
                async with self.caller(order) as call:
                    await fire_all(order.fires, order, call, recorder)
                stage.say("fired")
            await told.wait()
            await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=int(order.limit or 0))
            stage.say("done")
            os._exit(0)


async def leave(stage: Stage) -> None:
    """Its threads may outlive the work; nothing is left to wait for."""
    stage.say("done")
    os._exit(0)


if __name__ == "__main__":
    act(Peer())
