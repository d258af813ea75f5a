"""The client against a real API on a real database: what it sends, what it gives, and what it does not do twice."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_type_hints

import pytest

from tests.edges.http.client import a_client, a_front
from tests.edges.http.test_limits import listening
from tests.engine.building import NOON, SECOND, Heard, World, a_trigger
from tocsin.domain.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    Refused,
    Stale,
    Unauthenticated,
)
from tocsin.domain.event_rule import on_event
from tocsin.domain.schedule import cron, every
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec
from tocsin.sdk.client import Client, told
from tocsin.sdk.client.pages import PAGE

pytestmark = pytest.mark.anyio

PARIS = cron("0 9 * * mon-fri", tz="Europe/Paris")


async def every_one(rows: AsyncIterator[Any]) -> list[Any]:
    return [row async for row in rows]


async def test_rows_are_those_of_control_to_the_last_field(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h"), input={"n": 1}))
    run = (await client.fire("t", key="k", input={"deep": [1, None, "é"]}))["id"]
    assert await client.trigger("t") == await world.control.trigger("t")
    assert await client.run(run) == await world.control.run(run)
    assert await every_one(client.triggers()) == await world.control.triggers(limit=10)
    assert await every_one(client.runs()) == await world.control.runs(limit=10)
    assert await client.agent("agent") == await world.control.agent("agent")
    assert await client.late_results(run) == []
    assert (await client.now()).tzinfo is not None


async def test_a_trigger_is_added_edited_and_deleted(world: World, client: Client) -> None:
    await world.declare(agents=("agent", "other"))
    spec = TriggerSpec(name="t", agent="agent", schedule=PARIS, input={"n": 1}, overlap=Overlap.ALLOW, priority=7)
    row = await client.add_trigger(spec)
    assert (row["schedule"], row["policy"]["priority"], row["input"]) == (PARIS.to_json(), 7, {"n": 1})
    row = await client.edit_trigger("t", lambda spec: replace(spec, agent="other", input=None), if_version=1)
    assert (row["version"], row["agent"], row["input"], row["policy"]["overlap"]) == (2, "other", None, "allow")
    row = await client.edit_trigger("t", lambda spec: spec)
    assert row["version"] == 3
    ear = await client.edit_trigger(
        "t", lambda spec: replace(spec, schedule=None, event=on_event("a.b", throttle="1m"))
    )
    assert (ear["schedule"], ear["event"]) == (None, {"type": "a.b", "throttle_seconds": 60})
    assert (await client.edit_trigger("t", lambda spec: replace(spec, priority=1)))["event"] == ear["event"]
    with pytest.raises(Stale):
        await client.edit_trigger("t", lambda spec: spec, if_version=[1, 2])
    with pytest.raises(BadInput, match="cannot be renamed"):
        await client.edit_trigger("t", lambda spec: replace(spec, name="u"))
    with pytest.raises(Stale):
        await client.delete_trigger("t", if_version=1)
    assert await client.delete_trigger("t", if_version=5) == {"trigger": "t", "deleted": True, "withdrawn": 0}


async def test_an_edit_that_somebody_else_makes_meanwhile_is_not_lost(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    await asyncio.gather(
        *(client.edit_trigger("t", lambda spec: replace(spec, priority=spec.priority - 1)) for _ in range(3))
    )
    row = await client.trigger("t")
    assert (row["version"], row["policy"]["priority"]) == (4, 2)


async def test_a_broken_trigger_says_so_when_it_is_edited(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    await world.admin.execute(
        "UPDATE tocsin.triggers SET schedule = '{}', status = 'broken', broken_reason = 'x', wake_at = NULL"
    )
    with pytest.raises(Conflict, match="is broken"):
        await client.edit_trigger("t", lambda spec: replace(spec, priority=1))


async def test_pages_are_gone_through_and_end_where_they_are_told_to(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    count = PAGE + 3
    ids = [row["id"] for row in await world.control.fire_many("t", [(None, n) for n in range(count)])]
    assert [row["id"] for row in await every_one(client.runs())] == sorted(ids, reverse=True)
    assert len(await every_one(client.runs(limit=PAGE + 1))) == PAGE + 1
    assert await every_one(client.runs(limit=0)) == []
    newest = sorted(ids, reverse=True)
    assert [row["id"] for row in await every_one(client.runs(before=newest[5], limit=2))] == newest[6:8]
    assert await every_one(client.runs(states=["running", "failed"])) == []
    with pytest.raises(NotFound):
        await every_one(client.runs(trigger="nope"))


async def test_a_listing_by_name_begins_behind_one(world: World, client: Client) -> None:
    await world.declare(*(a_trigger(name) for name in "abc"), agents=("agent", "other"))
    assert [row["name"] for row in await every_one(client.triggers(after="a"))] == ["b", "c"]
    assert [row["name"] for row in await every_one(client.agents(after="agent"))] == ["other"]


async def test_a_trigger_rests_and_goes_on(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    until = NOON + timedelta(hours=1)
    row = await client.pause("t", reason="holiday", until=until)
    assert (row["paused"], row["paused_until"]) == (["holiday"], {"holiday": until})
    assert (await client.resume("t", catch_up=CatchUp.LATEST))["paused"] == []
    with pytest.raises(BadInput, match="backfill"):
        await client.resume("t", catch_up=CatchUp.ALL)


async def test_what_came_back_lost_is_done_once(world: World) -> None:
    """The answers to the first tries are cut off on their way."""
    await world.declare(a_trigger("t", every("1h")))
    async with (
        listening(a_front(world.database, world.clock, Heard())) as port,
        Cutting(port, cut=3) as cutting,
        Client(cutting.url) as client,
    ):
        first = await client.fire("t")
        again = await client.retry_run((await client.cancel_run(first["id"]))["id"])
        assert again["id"] != first["id"]
    assert cutting.cut == 0
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 2


class Cutting:
    """A way to the hub on which the first answers are lost, once the hub has given them."""

    def __init__(self, port: int, *, cut: int) -> None:
        self._port = port
        self.cut = cut
        self.url = ""

    async def __aenter__(self) -> "Cutting":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        asks = asyncio.ensure_future(self._pass_on(reader, back))
        while answer := await there.read(65_536):
            if self.cut:
                self.cut -= 1
                break
            writer.write(answer)
        asks.cancel()
        back.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(65_536):
            writer.write(part)
        writer.close()


async def test_keys_are_made_told_and_revoked(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    root = await client.create_key("root", scopes=["admin"])
    world.clock.turn(SECOND)  # after which what the hub knows of keys is read anew
    async with Client(client.address.url, key=root["key"]) as admin:
        reader = await admin.create_key("reader", scopes=["read"])
        world.clock.turn(SECOND)
        assert [row["name"] for row in await admin.keys()] == ["reader", "root"]
        async with Client(client.address.url, key=reader["key"]) as reading:
            assert (await reading.trigger("t"))["name"] == "t"
            with pytest.raises(Forbidden):
                await reading.fire("t")
        assert await admin.revoke_key("reader") == {"key": "reader", "revoked": True}
        with pytest.raises(NotFound):
            await admin.revoke_key("nobody")
    with pytest.raises(Unauthenticated):
        await client.trigger("t")


async def test_a_run_is_watched_to_its_end(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    run = (await client.fire("t"))["id"]
    states = []
    async for row in client.watch(run, longest=0.1):
        states.append(row["state"])
        if row["state"] == "queued":
            await client.cancel_run(run)
    assert states == ["queued", "cancelled"]
    assert [row["state"] async for row in client.watch(run)] == ["cancelled"]


async def test_an_input_is_checked_before_it_is_sent(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    with pytest.raises(PayloadTooLarge, match="input is"):
        await client.fire("t", input="x" * 2_000_000)
    with pytest.raises(BadInput, match="input"):
        await client.fire("t", input={"x": float("nan")})
    assert (await client.fire("t", input={"at": NOON}))["input"]["at"].startswith("20")


async def test_a_client_that_is_not_open_says_so(url: str) -> None:
    client = Client(url)
    with pytest.raises(Refused, match="async with"):
        await client.now()
    async with client:
        await client.now()
    with pytest.raises(Refused, match="async with"):
        await client.now()


async def test_what_a_preview_a_forecast_and_sums_hold(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    assert len((await client.preview("t", count=3))["instants"]) == 3
    assert (await client.preview_schedule(PARIS, count=1))["trigger"] is None
    assert (await client.forecast(2))["fires"] == 2
    assert (await client.usage(by=["model", "day"]))["by"] == ["model", "day"]
    assert await every_one(client.decisions(limit=3)) == []
    assert (await client.why("t"))["standing"]
    assert (await every_one(client.instances()), await every_one(client.replicas())) == ([], [])


async def test_answers_have_the_fields_that_the_api_describes(world: World) -> None:
    async with a_client(world.database, world.clock) as asker:
        described = (await asker.get("/v1/openapi.json")).json["components"]["schemas"]
    ours = {name: kind for name, kind in vars(told).items() if hasattr(kind, "__required_keys__")}
    for name, kind in ours.items():
        assert set(get_type_hints(kind)) == set(described[name]["properties"]), name
    pages = (
        {f"{name}s" for name in ours}
        | {f"{name}Page" for name in ours}
        | {"EventPage", "Now", "UsageSum", "StreamedTransition"}
    )
    answers = {
        name for name in described if not name.startswith(("Problem", "HTTPValid", "Valid")) and "Form" not in name
    }
    asked = {"NewTrigger", "TriggerChange", "Pause", "Resume", "Fire", "Backfill", "PreviewOf", "NewKey", "Policy"}
    asked |= {"CloudEvent", "HookAnswer"}  # of webhooks, whose callers are others
    assert {name for name in answers if described[name].get("type") == "object"} - asked <= set(ours) | pages


def test_it_needs_nothing_of_a_hub() -> None:
    heavy = ("asyncpg", "fastapi", "uvicorn", "grpc", "google.protobuf", "tocsin.store", "tocsin.edges", "tocsin.hub")
    program = f"import sys, tocsin.sdk.client; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
