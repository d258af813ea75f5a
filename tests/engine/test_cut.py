"""What will not stop is cut, and what cannot be cut is left behind: its run ends, its slot is free."""

import asyncio
from datetime import timedelta
from typing import Any

from tests.engine.building import World, a_replica, a_trigger, an_app, eventually
from tocsin.clock import SystemClock
from tocsin.engine.control import Control


async def test_an_agent_that_swallows_every_cancellation_loses_its_run_and_frees_its_slot(world: World) -> None:
    released, swallowed = asyncio.Event(), 0
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    policy: dict[str, Any] = {"timeout": timedelta(seconds=0.1), "cancel_within": timedelta(seconds=0.1)}

    async def stubborn() -> str:
        nonlocal swallowed
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                swallowed += 1
        return "too late to count"

    await control.declare(an_app(a_trigger(), **policy))
    async with a_replica(world.dsn, {"agent": stubborn}, policy=policy) as replica:
        run = (await control.fire("t"))["id"]
        await eventually(lambda: swallowed == 2)

        async def failed() -> bool:
            return bool((await world.run(run))["state"] == "failed")

        await eventually(failed)
        assert replica.runners[0].active == 0
        row = await world.run(run)
        assert (row["reason"], row["output"]) == ("timeout", None)
        released.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert replica.runners[0].active == 0
        assert len(replica.settler) == 0
