# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""Procrastinate: PsycopgConnector, a worker as concurrent as the slots; schedules are periodic tasks of the process."""

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import procrastinate

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all


def app_of(order: Order, recorder: Recorder):
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=order.dsn, max_size=20))

    @app.task(name="body")
    async def body(key: str, nap: float) -> None:
        await recorder.run(key, nap)

    if order.aggressive:
        # As the documentation has it, every second in place of every ten minutes.
        @app.periodic(cron="* * * * * */1")
        @app.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
        async def retry_stalled(context, timestamp: int) -> None:
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=2):
                await app.job_manager.retry_job(job)

    return app, body


class Peer(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        app, _ = app_of(order, Recorder(Order()))
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def enqueue(self, order: Order, stage: Stage) -> None:
        app, body = app_of(order, Recorder(Order()))
        given = [{"key": f"{order.prefix}-{n}", "nap": order.nap} for n in range(order.count)]
        async with app.open_async():
            started = time.monotonic()
            for first in range(0, order.count, 1_000):
                await body.batch_defer_async(*given[first : first + 1_000])
            stage.say("enqueued", seconds=time.monotonic() - started)

    @asynccontextmanager
    async def caller(self, order: Order):
        app, body = app_of(order, Recorder(Order()))
        async with app.open_async():

            async def call(key: str) -> None:
                await body.defer_async(key=key, nap=order.nap)

            yield call

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        logging.disable(logging.INFO)
        app, _ = app_of(order, recorder)
        if order.schedules:
            started = time.monotonic()
            declare(app, order, recorder)
            stage.say("registered", seconds=time.monotonic() - started)
        given = {}
        if order.limit is not None:
            given["shutdown_graceful_timeout"] = order.limit
        if order.aggressive:
            given |= {"update_heartbeat_interval": 0.5, "stalled_worker_timeout": 2.0}
            given["fetch_job_polling_interval"] = 1.0
        async with app.open_async():
            await stage.ready()
            stage.up()
            if order.fires:
                asyncio.get_running_loop().create_task(self._fire(order, recorder, stage))
            # It brings its own handler of SIGTERM.
            await app.run_worker_async(concurrency=order.slots, **given)

    async def _fire(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        await asyncio.sleep(1)
        async with self.caller(order) as call:
            await fire_all(order.fires, order, call, recorder)
        stage.say("fired")


def declare(app, order: Order, recorder: Recorder) -> None:
    moment = datetime.fromtimestamp(order.due, UTC)
    cron = f"{moment.minute} {moment.hour} {moment.day} {moment.month} * {moment.second}"
    for number in range(order.schedules):
        key = f"{order.prefix}-{number}"

        async def tick(timestamp: int, key: str = key) -> None:
            await recorder.run(key, order.nap)

        app.periodic(cron=cron, periodic_id=key)(app.task(name=key)(tick))


if __name__ == "__main__":
    act(Peer())
