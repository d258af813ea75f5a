"""A key that is revoked or expires ends the streams that it let in, everywhere, and nothing else."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest

from tests.edges.wiring import Hub, Process, a_control, a_hub
from tests.engine.building import PATIENCE, a_trigger, eventually
from tocsin.engine.control import Control

pytestmark = pytest.mark.anyio

SOON = 2.0 * PATIENCE


async def a_keyed(stack: AsyncExitStack, hub: Hub, key: str | None, **hello: Any) -> Process:
    """A process that this key has let in."""
    process = await stack.enter_async_context(Process(hub.address, key=key, **hello))
    await process.hello()
    return process


async def keys(control: Control, *names: str) -> list[str]:
    return [(await control.keys.create(name, agents=["*"]))["key"] for name in names]


async def test_who_is_connected_is_shown_out_at_every_replica_and_the_others_stay(dsn: str) -> None:
    """Also one that says nothing, on a hub where nobody does."""
    async with a_control(dsn, a_trigger("t")) as control, AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(a_hub(dsn, suspect_after=30, dead_after=90)) for _ in "12"]
        old, new = await keys(control, "old", "new")
        here, there = [await a_keyed(stack, hub, old, beats=False) for hub in (first, second)]
        other = await a_keyed(stack, first, new)
        await control.keys.revoke("old")
        for process in (here, there):
            async with asyncio.timeout(SOON):
                assert await process.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "'old' was revoked" in await process.call.details()
        for hub, process in ((first, here), (second, there)):
            (told,) = [fields for event, fields in hub.log.events if event == "instance.revoked"]
            assert (told["holder"], told["key"]) == (process.id, "old")
        await other.beat()
        await other.next("beat_taken")
        assert not other.call.done()


async def test_where_no_hints_arrive_the_beats_find_it(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(dsn, pooled=True))
        old, new = await keys(control, "old", "new")
        silent = await a_keyed(stack, hub, old, beats=False)
        await a_keyed(stack, hub, new)
        await control.keys.revoke("old")
        async with asyncio.timeout(SOON):
            assert await silent.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_that_expires_ends_them_too(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(dsn))
        old, new = await keys(control, "old", "new")
        silent = await a_keyed(stack, hub, old, beats=False)
        other = await a_keyed(stack, hub, new)
        admin = await asyncpg.connect(dsn)
        await admin.execute("UPDATE tocsin.keys SET expires_at = now() WHERE name = 'old'")
        await admin.close()
        async with asyncio.timeout(SOON):
            assert await silent.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "has expired" in await silent.call.details()
        assert not other.call.done()


async def test_its_runs_wait_until_it_has_stopped_them_by_itself(dsn: str) -> None:
    """It may still be at work: until its own deadline nobody else begins what it has."""
    async with a_control(dsn, a_trigger("t")) as control, AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(dsn))
        old, new = await keys(control, "old", "new")
        process = await a_keyed(stack, hub, old)
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        heir = await a_keyed(stack, hub, new)
        await heir.credit(1)
        await control.keys.revoke("old")
        await eventually(lambda: hub.log.count("instance.disconnected"), within=SOON)
        shown = await control.run(UUID(run.run_id))
        assert (shown["state"], shown["fence"]) == ("running", 1)
        (again,) = await heir.assigned()
        assert (again.run_id, again.fence, again.attempt) == (run.run_id, 2, 1)
        assert (await control.roster.instance(process.id))["state"] == "lost"


async def test_looking_after_keys_costs_no_statement_of_its_own(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(dsn, suspect_after=4, dead_after=20))
        for key in await keys(control, *(f"k{number}" for number in range(10))):
            await a_keyed(stack, hub, key)
        sent = hub.replica.statements
        await asyncio.sleep(3)
        assert hub.replica.statements - sent < 35, "as many as without keys"
