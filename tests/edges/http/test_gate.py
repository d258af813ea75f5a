"""Who may ask for what: keys, scopes, ends, revocations, failures, and this host without a key."""

from datetime import timedelta
from typing import Any

import pytest

from tests.edges.http.client import Client, a_client
from tests.engine.building import NOON, World, a_trigger
from tocsin.domain.authority import Scope
from tocsin.edges.http.throttle import FAILURES, REFILL, Throttle
from tocsin.engine.keys import FRESH

pytestmark = pytest.mark.anyio


async def key_of(world: World, name: str, *scopes: str, **fields: Any) -> str:
    return str((await world.control.keys.create(name, scopes=scopes, **fields))["key"])


async def test_while_there_is_no_key_this_host_needs_none(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    run = (await client.post("/v1/triggers/t/fire")).json
    assert (await world.trail(run["id"]))[0] == (None, "queued", "manual")
    assert await world.value("SELECT asked_by FROM tocsin.runs") == "http:127.0.0.1"
    assert (await client.having(address="::1").get("/v1/triggers")).status == 200
    elsewhere = await client.having(address="192.0.2.7").get("/v1/triggers")
    assert (elsewhere.status, elsewhere.code) == (401, "unauthenticated")
    assert elsewhere.headers["www-authenticate"].startswith("Bearer")


async def test_beyond_this_host_a_key_is_asked_for_though_there_is_none(world: World) -> None:
    async with a_client(world.database, world.clock, is_local=False) as client:
        assert (await client.get("/v1/triggers")).code == "unauthenticated"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "tocsin.example"},
        {"host": "127.0.0.1.nip.io:8620"},
        {"host": "127.0.0.1@evil.example"},
        {"host": "["},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"x-forwarded-for": "192.0.2.7"},
        {"forwarded": "for=192.0.2.7"},
        {"via": "1.1 proxy"},
    ],
)
async def test_without_a_key_what_only_seems_to_come_from_this_host_is_refused(
    client: Client, headers: dict[str, str]
) -> None:
    """A page in a browser, a name that was pointed at 127.0.0.1, a proxy."""
    answer = await client.ask("GET", "/v1/triggers", headers=headers)
    assert (answer.status, answer.code) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:8620", "LOCALHOST:8620"])
async def test_this_host_s_own_names_are_taken(client: Client, host: str) -> None:
    assert (await client.ask("GET", "/v1/triggers", headers={"host": host})).status == 200


async def test_once_there_is_a_key_everybody_needs_one(world: World, client: Client) -> None:
    key = await key_of(world, "k", "read")
    assert (await client.get("/v1/triggers")).code == "unauthenticated"
    assert (await client.having(key=key, address="192.0.2.7").get("/v1/triggers")).status == 200
    for wrong in ("Basic eDp5", "Bearer", "Bearer ", f"bearer{key}", key):
        answer = await client.ask("GET", "/v1/triggers", headers={"authorization": wrong})
        assert (answer.status, answer.code) == (401, "unauthenticated"), wrong


async def test_a_key_of_an_agent_process_is_none_of_the_api_s(world: World, client: Client) -> None:
    key = str((await world.control.keys.create("worker", agents=["*"]))["key"])
    assert (await client.get("/v1/triggers")).status == 200
    assert (await client.having(key=key).get("/v1/triggers")).code == "unauthenticated"


#: An operation of each scope.
OF: dict[Scope, tuple[str, str]] = {
    Scope.READ: ("GET", "/v1/triggers/t"),
    Scope.OPERATE: ("POST", "/v1/triggers/t/fire"),
    Scope.ADMIN: ("DELETE", "/v1/triggers/t"),
}


@pytest.mark.parametrize(
    ("held", "may"),
    [
        ("read", {Scope.READ}),
        ("operate", {Scope.READ, Scope.OPERATE}),
        ("admin", {Scope.READ, Scope.OPERATE, Scope.ADMIN}),
        ("emit", set()),
    ],
)
async def test_a_scope_allows_what_it_says(world: World, client: Client, held: str, may: set[Scope]) -> None:
    await world.declare(a_trigger("t"))
    bearer = client.having(key=await key_of(world, "k", held))
    for scope, (method, path) in OF.items():
        answer = await bearer.ask(method, path)
        assert (answer.status < 300) == (scope in may), scope
        if scope not in may:
            assert (answer.status, answer.code) == (403, "forbidden")
    assert (await world.value("SELECT count(*) FROM tocsin.runs")) == (Scope.OPERATE in may)


async def test_the_trail_names_the_key(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    bearer = client.having(key=await key_of(world, "ci", "operate"))
    run = (await bearer.post("/v1/triggers/t/fire")).json["id"]
    told = (await bearer.post(f"/v1/runs/{run}/cancel")).json
    assert [edge["actor"] for edge in told["transitions"]] == ["key:ci", "key:ci"]


async def test_a_revoked_key_opens_nothing_a_second_later(world: World, client: Client) -> None:
    key = await key_of(world, "k", "read")
    await key_of(world, "other", "read")
    async with a_client(world.database, world.clock) as replica:
        for one in (client, replica):
            assert (await one.having(key=key).get("/v1/agents")).status == 200
        await world.control.keys.revoke("k")
        world.clock.turn(FRESH + 0.01)
        for one in (client, replica):
            assert (await one.having(key=key).get("/v1/agents")).code == "unauthenticated"
    assert FRESH + 0.01 < 1


async def test_a_new_key_opens_a_second_later_and_the_last_one_s_end_opens_the_host(
    world: World, client: Client
) -> None:
    assert (await client.get("/v1/agents")).status == 200
    key = await key_of(world, "k", "read")
    world.clock.turn(1)
    assert (await client.get("/v1/agents")).status == 401
    assert (await client.having(key=key).get("/v1/agents")).status == 200
    await world.control.keys.revoke("k")
    world.clock.turn(1)
    assert (await client.get("/v1/agents")).status == 200


async def test_a_key_expires_to_the_second_and_opens_nothing_by_it(world: World, client: Client) -> None:
    key = await key_of(world, "k", "read", expires_at=NOON + timedelta(seconds=10))
    bearer = client.having(key=key)
    world.clock.turn(9.5)
    assert (await bearer.get("/v1/agents")).status == 200
    world.clock.turn(0.5)
    assert (await bearer.get("/v1/agents")).code == "unauthenticated"
    world.clock.turn(60)
    assert (await bearer.get("/v1/agents")).code == "unauthenticated"
    # That it has ended is no reason to let everybody in.
    assert (await client.get("/v1/agents")).code == "unauthenticated"


async def test_its_last_use_is_written_once_a_minute(world: World, client: Client) -> None:
    bearer = client.having(key=await key_of(world, "k", "read"))
    used = "SELECT last_used_at FROM tocsin.keys"
    assert await world.value(used) is None
    for seconds, last in ((0, 0), (30, 0), (30, 60), (10, 60)):
        world.clock.turn(seconds)
        assert (await bearer.get("/v1/agents")).status == 200
        assert await world.value(used) == NOON + timedelta(seconds=last)


async def test_failures_are_limited_for_each_address_and_keep_nobody_else_out(world: World, client: Client) -> None:
    good = client.having(key=await key_of(world, "k", "read"), address="192.0.2.7")
    guesser = client.having(key="tocsin_guessed", address="192.0.2.7")
    statuses = [(await guesser.get("/v1/agents")).status for _ in range(FAILURES + 5)]
    assert statuses == [401] * FAILURES + [429] * 5
    told = await guesser.get("/v1/agents")
    assert (told.code, int(told.headers["retry-after"])) == ("throttled", REFILL)
    assert (await good.get("/v1/agents")).status == 200
    assert (await guesser.having(address="192.0.2.8").get("/v1/agents")).status == 401
    world.clock.turn(REFILL)
    assert [(await guesser.get("/v1/agents")).status for _ in range(2)] == [401, 429]
    assert client.log.count("key.refused") == FAILURES + 2


async def test_a_flood_of_wrong_keys_costs_one_look_a_second(world: World, client: Client) -> None:
    await key_of(world, "k", "read")
    await client.get("/v1/agents")
    before = world.database.calls
    for number in range(200):
        await client.having(key=f"tocsin_{number}", address=f"10.0.{number // 100}.{number % 100}").get("/v1/agents")
    assert world.database.calls == before


def test_an_ipv6_network_is_one_address(world: World) -> None:
    throttle = Throttle(clock=world.clock)
    waits = [throttle.fail(f"2001:db8::{number:x}") for number in range(FAILURES + 1)]
    assert [wait is None for wait in waits] == [True] * FAILURES + [False]
    assert throttle.fail("2001:db8:0:1::1") is None
    assert throttle.fail("::ffff:192.0.2.7") is None


async def test_keys_are_made_listed_and_revoked_over_http(world: World, client: Client) -> None:
    made = await client.post("/v1/keys", {"name": "root", "scopes": ["admin"], "expires_at": "2027-01-01T00:00:00Z"})
    assert (made.status, made.json["created_by"], made.json["state"]) == (201, "http:127.0.0.1", "valid")
    world.clock.turn(1)
    root = client.having(key=made.json["key"])
    assert (await root.post("/v1/keys", {"name": "root", "scopes": ["read"]})).code == "conflict"
    for wrong in (
        {"name": "x"},
        {"name": "x", "scopes": ["agent"]},
        {"name": "x", "scopes": ["read"], "agents": ["a"]},
    ):
        assert (await root.post("/v1/keys", wrong)).code == "bad_input"
    assert (await root.post("/v1/keys", {"name": "x", "scopes": ["root"]})).status == 422
    past = await root.post("/v1/keys", {"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"})
    assert past.code == "bad_input"
    (row,) = (await root.get("/v1/keys")).json["items"]
    assert (row["name"], row["last_used_at"] is not None, "key" in row, "digest" in row) == ("root", True, False, False)
    assert (await root.delete("/v1/keys/nobody")).code == "not_found"
    assert (await root.delete("/v1/keys/root")).json == {"key": "root", "revoked": True}


async def test_no_key_is_ever_logged_kept_or_repeated(world: World, client: Client) -> None:
    root = client.having(key=await key_of(world, "root", "admin"))
    made = (await root.post("/v1/keys", {"name": "new", "scopes": ["read"]}, once="k")).json["key"]
    wrong = client.having(key="tocsin_planted-canary")
    said = [await wrong.get("/v1/agents"), await wrong.post("/v1/triggers", {"name": "tocsin_planted-canary"})]
    said.append(await root.post("/v1/triggers", {"name": "t", "agent": {"secret": "tocsin_planted-canary"}}))
    assert "canary" not in str(said)
    assert "canary" not in str(client.log.events)
    assert made not in str(client.log.events)
    tables = await world.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'tocsin'")
    for table in (row["table_name"] for row in tables):
        text = str(await world.rows(f"SELECT x::text FROM tocsin.{table} x"))
        assert made not in text, table
        assert made.encode().hex() not in text, table
