"""/v1/audit: who did what, by which key."""

from typing import Any

import pytest

from tests.edges.http.client import Client
from tests.engine.building import World, a_trigger
from tocsin.domain.schedule import every

pytestmark = pytest.mark.anyio

SECRET = "hunter2-in-an-input"


async def bearer(world: World, client: Client, name: str, scope: str) -> Client:
    return client.having(key=str((await world.control.keys.create(name, scopes=[scope]))["key"]))


async def test_each_request_is_on_record_under_the_name_of_its_key(world: World, client: Client) -> None:
    await world.declare()
    root, ops = await bearer(world, client, "root", "admin"), await bearer(world, client, "ops", "operate")
    form = {"name": "t", "agent": "agent", "schedule": {"rules": [{"every_seconds": 60}]}, "input": {"token": SECRET}}
    assert (await root.post("/v1/triggers", form)).status == 201
    change = {"input": {"token": SECRET + "!"}, "policy": {"priority": 9}}
    assert (await root.patch("/v1/triggers/t", change, if_match='"1"')).status == 200
    assert (await root.patch("/v1/triggers/t", {"policy": {"priority": 8}}, if_match='"1"')).status == 412
    assert (await ops.post("/v1/triggers/t/pause", {"reason": "incident"})).status == 200
    assert (await ops.post("/v1/triggers/t/resume")).status == 200
    assert (await ops.delete("/v1/triggers/t")).status == 403
    run = (await ops.post("/v1/triggers/t/fire")).json["id"]
    assert (await ops.post(f"/v1/runs/{run}/cancel")).status == 200
    assert (await root.post("/v1/keys", {"name": "ci", "scopes": ["read"]})).status == 201
    assert (await root.delete("/v1/keys/ci")).status == 200
    assert (await root.delete("/v1/triggers/t")).status == 200
    answer = await root.get("/v1/audit", limit=8)
    items = list(reversed(answer.json["items"]))
    assert [(row["actor"], row["action"], row["kind"], row["target"]) for row in items] == [
        ("key:root", "created", "trigger", "t"),
        ("key:root", "changed", "trigger", "t"),
        ("key:ops", "paused", "trigger", "t"),
        ("key:ops", "resumed", "trigger", "t"),
        ("key:ops", "cancelled", "run", "t"),
        ("key:root", "created", "key", "ci"),
        ("key:root", "revoked", "key", "ci"),
        ("key:root", "deleted", "trigger", "t"),
    ]
    assert items[1]["detail"] == {
        "version": 2,
        "input_changed": True,
        "before": {"priority": 5},
        "after": {"priority": 9},
    }
    assert SECRET not in answer.body.decode()
    assert items[4]["target_id"] == run


async def test_it_is_told_page_by_page_to_admins_alone(world: World, client: Client) -> None:
    await world.declare(*(a_trigger(name, every("1m")) for name in "abcde"))
    root, reader = await bearer(world, client, "root", "admin"), await bearer(world, client, "r", "read")
    assert (await reader.get("/v1/audit")).code == "forbidden"

    async def walked(**query: Any) -> list[str]:
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            told = (await root.get("/v1/audit", limit=2, **query, **cursor)).json
            found += [row["target"] for row in told["items"]]
            if told["next_cursor"] is None:
                return found
            cursor = {"cursor": told["next_cursor"]}

    assert await walked(action="created", actor="test") == ["r", "root", *"edcba", "agent"]
    assert await walked(trigger="c") == ["c"]
    assert (await root.get("/v1/audit", trigger="z")).code == "not_found"
    assert (await root.get("/v1/audit", action="eaten")).json["field"] == "action"
    assert (await root.get("/v1/audit", cursor="bm9uc2Vuc2U")).json["field"] == "cursor"
    assert (await root.get("/v1/audit", since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z")).status == 422


async def test_why_names_who_paused_it_to_readers_too(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1m")))
    ops, reader = await bearer(world, client, "ops", "operate"), await bearer(world, client, "r", "read")
    await ops.post("/v1/triggers/t/pause", {"reason": "incident"})
    (pause, *_) = (await reader.get("/v1/triggers/t/why")).json["changes"]
    assert (pause["actor"], pause["action"], pause["detail"]["reason"]) == ("key:ops", "paused", "incident")
