"""/v1/runs, and what is told of many at once: agents, replicas, instances, decisions, usage, the load ahead."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.edges.http.client import Client
from tests.engine.building import MINUTE, NOON, World, a_failure, a_trigger, an_end
from tocsin.domain.run import RunState
from tocsin.domain.schedule import every

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


def z(moment: Any) -> str:
    return str(moment.isoformat()).replace("+00:00", "Z")


async def test_a_run_is_shown_with_all_that_its_attempts_told(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"), max_attempts=2)
    peer = await world.peer(lease=HOUR)
    run = (await client.post("/v1/triggers/t/fire", {"input": [1]})).json["id"]
    held = await peer.claim_one()
    usage = [{"model": "m", "input_tokens": 3}]
    failed = an_end(held, RunState.FAILED, error=a_failure(), usage=json.dumps(usage), log="a line")
    await peer.settle(failed)
    late = an_end(held, output=b'{"too": "late"}')
    await peer.settle(late)
    told = (await client.get(f"/v1/runs/{run}")).json
    assert (told["state"], told["error"], told["input"]) == ("failed", "ValueError: no luck", [1])
    assert [(edge["to_state"], edge["actor"].partition(":")[0]) for edge in told["transitions"]] == [
        ("queued", "http"),
        ("running", "replica"),
        ("failed", "replica"),
    ]
    assert (told["attempts"][0]["usage"], told["attempts"][0]["log"]) == (usage, "a line")
    assert told["late_results"][0]["output"] == {"too": "late"}


async def test_runs_are_listed_by_state_trigger_agent_and_time(world: World, client: Client) -> None:
    await world.declare(a_trigger("a"), a_trigger("b", agent="other"), agents=("agent", "other"))
    for _ in range(3):
        world.clock.turn(MINUTE)
        await world.control.fire("a")
    await world.control.fire("b")
    await world.control.cancel_run((await world.control.runs(limit=1))[0]["id"])

    async def found(**query: Any) -> list[str]:
        return [row["trigger"] for row in (await client.get("/v1/runs", **query)).json["items"]]

    assert await found() == ["b", "a", "a", "a"]
    assert await found(trigger="a", limit=2) == ["a", "a"]
    assert await found(agent="other") == ["b"]
    assert await found(state=["cancelled", "running"]) == ["b"]
    assert await found(since=z(NOON + 2 * MINUTE), until=z(NOON + 2 * MINUTE)) == ["a"]
    assert await found(until="0001-01-01T00:00:00Z") == []
    assert await found(since="0001-01-01T00:00:00Z") == ["b", "a", "a", "a"]
    assert (await client.get("/v1/runs", trigger="nobody")).code == "not_found"
    assert (await client.get("/v1/runs", state="asleep")).json["field"] == "state.0"
    assert (await client.get("/v1/runs", since="2026-01-01")).json["field"] == "since"


async def test_a_listing_of_runs_goes_on_where_it_ended_though_new_ones_come(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    wanted = [(await world.control.fire("t"))["id"] for _ in range(7)][::-1]
    seen: list[str] = []
    cursor = None
    while len(seen) < 7:
        page = (await client.get("/v1/runs", limit=3, **({"cursor": cursor} if cursor else {}))).json
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        await world.control.fire("t")
    assert seen == [str(one) for one in wanted]
    assert cursor is None


async def test_cancelling_and_retrying(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    run = (await client.post("/v1/triggers/t/fire", {"input": "x"})).json["id"]
    early = await client.post(f"/v1/runs/{run}/retry")
    assert (early.status, early.code) == (409, "conflict")
    assert (await client.post(f"/v1/runs/{run}/cancel")).json["state"] == "cancelled"
    assert (await client.post(f"/v1/runs/{run}/cancel")).code == "conflict"
    again = await client.post(f"/v1/runs/{run}/retry")
    assert (again.status, again.json["input"], again.json["state"]) == (201, "x", "queued")
    assert again.headers["location"] == f"/v1/runs/{again.json['id']}"
    for missing in (await client.post(f"/v1/runs/{uuid4()}/cancel"), await client.get(f"/v1/runs/{uuid4()}")):
        assert (missing.status, missing.code) == (404, "not_found")
    assert (await client.get("/v1/runs/latest")).json["field"] == "run"


async def test_the_fleet(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"), agents=("agent", "other"))
    peer = await world.peer(lease=HOUR)
    await world.control.fire("t")
    agents = (await client.get("/v1/agents", limit=1)).json
    assert (agents["items"][0]["name"], agents["items"][0]["queued"]) == ("agent", 1)
    rest = (await client.get("/v1/agents", cursor=agents["next_cursor"])).json
    assert ([row["name"] for row in rest["items"]], rest["next_cursor"]) == (["other"], None)
    assert (await client.get("/v1/agents/agent")).json["spec"]["max_attempts"] == 1
    assert (await client.get("/v1/agents/nobody")).code == "not_found"
    (replica,) = (await client.get("/v1/replicas")).json["items"]
    assert (replica["name"], replica["state"]) == (peer.who.name, "alive")
    assert (await client.get(f"/v1/replicas/{replica['id']}")).json == replica
    assert (await client.get("/v1/replicas/nobody")).code == "not_found"
    assert (await client.get("/v1/instances", all="true")).json == {"items": [], "next_cursor": None}
    assert (await client.get("/v1/instances/nobody")).code == "not_found"


INSTANCE = """
WITH gone AS (
    INSERT INTO tocsin.leases (holder, expires_at, renewed_at) VALUES ($1, $2::timestamptz + '1 hour', $2)
)
INSERT INTO tocsin.instances (id, name, version, agents, labels, slots, suspect_after, dead_after, started_at)
VALUES ($1, $3, '0', '{agent}', '{}', 1, '20 s', '90 s', $2)
"""


@pytest.mark.parametrize("path", ["/v1/replicas", "/v1/instances"])
async def test_processes_come_page_by_page_though_many_started_at_one_instant(
    world: World, client: Client, path: str
) -> None:
    names = []
    for number in range(7):
        if number in (2, 6):
            world.clock.turn(MINUTE)
        if path == "/v1/replicas":
            names.append((await world.peer(lease=HOUR)).who.name)
        else:
            names.append(f"i-{number}")
            await world.admin.execute(INSTANCE, uuid4(), world.clock.now(), names[-1])
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(path, limit=3, **cursor)).json
        found += [row["name"] for row in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert (found[0], set(found[1:5]), set(found[5:])) == (names[6], set(names[2:6]), set(names[:2]))
    assert len(found) == len(set(found))
    assert (await client.get(path, cursor="bm9uc2Vuc2U")).json["field"] == "cursor"


async def test_decisions_usage_and_the_load_ahead(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1m")))
    await world.control.pause("t")
    world.clock.turn(5 * MINUTE)
    await world.control.resume("t")
    page = (await client.get("/v1/decisions", reason="paused")).json
    assert [(row["trigger"], row["count"]) for row in page["items"]] == [("t", 5)]
    assert page["next_cursor"] is None
    assert (await client.get("/v1/decisions", trigger="nobody")).code == "not_found"
    assert (await client.get("/v1/decisions", reason="whim")).json["field"] == "reason"
    usage = (await client.get("/v1/usage", by=["day", "agent"])).json
    assert (usage["by"], usage["items"]) == (["agent", "day"], [])
    assert (await client.get("/v1/usage", by="colour")).status == 422
    load = (await client.get("/v1/forecast", hours=1)).json
    assert (load["triggers"], load["fires"]) == (1, 60)
    assert (await client.get("/v1/forecast", hours=9_000)).json["field"] == "hours"


async def test_a_listing_begins_behind_a_run(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    ids = [str((await world.control.fire("t"))["id"]) for _ in range(4)]
    page = (await client.get("/v1/runs", before=ids[3], limit=1)).json
    assert [row["id"] for row in page["items"]] == [ids[2]]
    page = (await client.get("/v1/runs", before=ids[3], cursor=page["next_cursor"])).json
    assert [row["id"] for row in page["items"]] == [ids[1], ids[0]]
    assert (await client.get("/v1/runs", before="yesterday")).code == "bad_input"
