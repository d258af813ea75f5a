"""A request that comes again under its own key is done once, and answered as it was."""

import asyncio
from datetime import timedelta

import pytest

from tests.edges.http.client import Client, a_client
from tests.engine.building import NOON, World, a_trigger
from tocsin.domain.schedule import every
from tocsin.store.retention import Retention

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
NEW = {"name": "new", "agent": "agent"}


async def test_the_same_request_is_answered_alike_on_every_replica(world: World, client: Client) -> None:
    await world.declare()
    first = await client.post("/v1/triggers", NEW, once="k")
    async with a_client(world.database, world.clock) as replica:
        again = await replica.post("/v1/triggers", NEW, once="k")
    assert (again.status, again.body) == (first.status, first.body)
    for name in ("etag", "location", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


async def test_the_same_key_with_another_request_is_refused(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    await client.post("/v1/triggers", NEW, once="k")
    for path, body in (("/v1/triggers", {**NEW, "name": "other"}), ("/v1/triggers/t/pause", NEW)):
        answer = await client.post(path, body, once="k")
        assert (answer.status, answer.code, answer.json["field"]) == (422, "key_reused", "Idempotency-Key")
    assert len(await world.control.triggers(limit=10)) == 2


async def test_two_callers_may_have_the_same_key(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"), a_trigger("u"))
    keys = [(await world.control.keys.create(name, scopes=["operate"]))["key"] for name in ("a", "b")]
    paused = [await client.having(key=key).post("/v1/triggers/t/pause", once="k") for key in keys]
    assert [answer.status for answer in paused] == [200, 200]
    assert "idempotent-replayed" not in paused[1].headers


async def test_a_refusal_is_not_kept(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    assert (await client.post("/v1/triggers", {"name": "new", "agent": "nobody"}, once="k")).status == 404
    await world.declare(agents=("nobody",))
    assert (await client.post("/v1/triggers", {"name": "new", "agent": "nobody"}, once="k")).status == 201


async def test_many_at_once_are_one(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    body = {"since": "2026-03-01T09:00:00Z", "until": "2026-03-01T12:00:00Z"}
    answers = await asyncio.gather(*(client.post("/v1/triggers/t/backfills", body, once="k") for _ in range(8)))
    statuses = {answer.status for answer in answers}
    assert statuses <= {200, 409}
    assert {answer.code for answer in answers if answer.status == 409} <= {"in_progress"}
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 4


async def test_a_request_that_was_never_answered_is_free_after_a_minute_and_not_done_twice(
    world: World, client: Client
) -> None:
    """As if the process had died between the operation and its answer."""
    await world.declare(a_trigger("t", every("1h")))
    body = {"since": "2026-03-01T09:00:00Z", "until": "2026-03-01T12:00:00Z"}
    first = await client.post("/v1/triggers/t/backfills", body, once="k")
    ended = (await world.control.fire("t"))["id"]
    await world.control.cancel_run(ended)
    retried = await client.post(f"/v1/runs/{ended}/retry", once="r")
    await world.admin.execute("UPDATE tocsin.answers SET status = NULL, headers = NULL, body = NULL")
    held = await client.post("/v1/triggers/t/backfills", body, once="k")
    assert (held.status, held.code, held.headers["retry-after"]) == (409, "in_progress", "1")
    world.clock.turn(61)
    again = await client.post("/v1/triggers/t/backfills", body, once="k")
    assert again.json == first.json
    assert (await client.post(f"/v1/runs/{ended}/retry", once="r")).json["id"] == retried.json["id"]
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 4 + 1 + 1


async def test_long_keys_that_begin_alike_are_not_one(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    body = {"since": "2026-03-01T09:00:00Z", "until": "2026-03-01T12:00:00Z"}
    ids = {
        (await client.post("/v1/triggers/t/backfills", body, once="x" * 254 + last)).json["id"] for last in ("a", "b")
    }
    assert len(ids) == 2


async def test_a_day_later_the_key_is_free_again(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    await client.post("/v1/triggers/t/pause", once="k")
    world.clock.turn(timedelta(days=1))
    told = await client.post("/v1/triggers/t/pause", {"reason": "other"}, once="k")
    assert told.json["paused"] == ["other", "user"]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "two\tparts"])
async def test_what_is_no_key_is_refused(world: World, client: Client, key: str) -> None:
    await world.declare(a_trigger("t"))
    answer = await client.ask("POST", "/v1/triggers/t/pause", headers={"idempotency-key": key})
    assert (answer.status, answer.json["field"]) == (422, "Idempotency-Key")
    assert (await world.control.trigger("t"))["paused"] == []


async def test_answers_are_forgotten_after_a_day(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    await client.post("/v1/triggers/t/pause", once="k")
    retention = Retention(database=world.database)
    assert await retention.prune_answers(NOON + timedelta(hours=23), batch=10) == 0
    assert await retention.prune_answers(NOON + timedelta(hours=25), batch=10) == 1
