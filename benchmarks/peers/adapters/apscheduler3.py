# mypy: ignore-errors
# The contestant is installed in an environment of its own, where nobody checks types.
"""APScheduler 3: an AsyncIOScheduler with its schedules in memory, in one process that nobody coordinates with."""

import asyncio
import logging
import time
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from benchmarks.peers.adapters.frame import Adapter, Order, Recorder, Stage, act, fire_all, until_told


class Peer(Adapter):
    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        logging.disable(logging.WARNING)
        scheduler = AsyncIOScheduler(timezone=UTC)
        started = time.monotonic()
        for number in range(order.schedules):
            scheduler.add_job(
                recorder.run,
                DateTrigger(datetime.fromtimestamp(order.due, UTC)),
                args=(f"{order.prefix}-{number}", order.nap),
                misfire_grace_time=None,
            )
        await stage.ready()
        async with until_told() as told:
            # Adding to a scheduler that has not started only puts the schedule aside.
            scheduler.start()
            stage.say("registered", seconds=time.monotonic() - started)
            stage.up()
            if order.fires:
                await fire_all(order.fires, order, self._call(scheduler, recorder), recorder)
                await asyncio.sleep(0.5)
                stage.say("fired")
            await told.wait()
            scheduler.shutdown()

    def _call(self, scheduler: AsyncIOScheduler, recorder: Recorder):
        async def call(key: str) -> None:
            scheduler.add_job(recorder.run, args=(key, 0.0), misfire_grace_time=None)

        return call


if __name__ == "__main__":
    act(Peer())
