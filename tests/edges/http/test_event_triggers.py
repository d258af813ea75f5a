"""Triggers that events call, over the API: made, listed, changed, and what came of them."""

from typing import Any

import pytest

from tests.edges.http.client import Client
from tests.engine.building import World, a_trigger
from tocsin.domain.event import Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.schedule import every

pytestmark = pytest.mark.anyio

RULE = {
    "type": "order.paid",
    "source": "/shop/*",
    "where": "data.n > `1`",
    "input": "data",
    "per": "subject",
    "debounce_seconds": 5.0,
}
IN_WORDS = "on order.paid source /shop/* where data.n > `1` debounce 5s per subject"
HOURLY = {"rules": [{"cron": "0 * * * *"}]}


async def a_listener(client: Client, name: str = "t", **fields: Any) -> dict[str, Any]:
    made = await client.post(
        "/v1/triggers", {"name": name, "agent": "agent", "event": {"type": "order.paid"}, **fields}
    )
    assert made.status == 201, made.json
    row: dict[str, Any] = made.json
    return row


async def test_a_trigger_that_listens_is_made_and_read_back(world: World, client: Client) -> None:
    await world.declare()
    row = await a_listener(client, event=RULE)
    assert (row["status"], row["event"], row["event_text"]) == ("listening", RULE, IN_WORDS)
    assert (row["schedule"], row["schedule_text"], row["next_at"], row["input"]) == (None, None, None, None)
    assert "event" not in row["policy"]
    assert (await client.get("/v1/triggers/t")).json == row
    assert (await client.get("/v1/triggers/t/preview")).json["instants"] == []
    told = (await client.get("/v1/triggers/t/why")).json
    assert told["standing"][0] == f"It runs when an event comes: {IN_WORDS}."


async def test_what_comes_is_not_dropped_unless_that_is_asked_for(world: World, client: Client) -> None:
    await world.declare()
    assert (await a_listener(client))["policy"]["overlap"] == "queue_all"
    assert (await a_listener(client, "prompt", policy={"priority": 9}))["policy"]["overlap"] == "queue_all"
    assert (await a_listener(client, "choosy", policy={"overlap": "skip"}))["policy"]["overlap"] == "skip"


async def test_an_event_calls_a_trigger_that_was_made_here(world: World, client: Client) -> None:
    await world.declare()
    await a_listener(client, event={"type": "order.*", "where": "data.n > `1`", "input": "data.n"})
    events = [Event(id=str(n), source="/shop", type="order.paid", data={"n": n}) for n in (1, 2, 3)]
    await world.control.emit(events)
    runs = (await client.get("/v1/runs", trigger="t")).json["items"]
    assert [(run["kind"], run["state"], run["input"]) for run in runs] == [
        ("event", "queued", 3),
        ("event", "queued", 2),
    ]
    await client.post("/v1/triggers/t/pause")
    await world.control.emit([Event(id="4", source="/shop", type="order.paid", data={"n": 4})])
    decisions = (await client.get("/v1/decisions", trigger="t")).json["items"]
    assert sorted(row["reason"] for row in decisions) == ["paused", "withdrawn", "withdrawn"]
    assert [row["reason"] for row in (await client.get("/v1/decisions", reason="filter")).json["items"]] == []


async def test_a_listing_shows_what_listens(world: World, client: Client) -> None:
    await world.declare(
        a_trigger("asleep", event=on_event("b")), a_trigger("ear", event=on_event("a")), a_trigger("hand")
    )
    await world.control.pause("asleep")

    async def names(**query: Any) -> list[str]:
        return [row["name"] for row in (await client.get("/v1/triggers", **query)).json["items"]]

    assert await names(status="listening") == ["ear"]
    assert await names(status="paused") == ["asleep"]
    listed = (await client.get("/v1/triggers")).json["items"]
    assert [row["event"] for row in listed] == [{"type": "b"}, {"type": "a"}, None]


async def test_a_schedule_and_an_event_rule_take_each_other_s_place(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h"), input={"n": 1}))

    async def edited(change: dict[str, Any]) -> dict[str, Any]:
        answer = await client.patch("/v1/triggers/t", change, if_match="*")
        assert answer.status == 200, answer.json
        row: dict[str, Any] = answer.json
        return row

    row = await edited({"event": RULE})
    assert (row["status"], row["event"], row["schedule"], row["input"]) == ("listening", RULE, None, None)
    # As it was before, since nobody has said otherwise.
    assert row["policy"]["overlap"] == "skip"
    row = await edited({"event": {"type": "other"}, "policy": {"overlap": "allow"}})
    assert (row["event"], row["policy"]["overlap"]) == ({"type": "other"}, "allow")
    row = await edited({"schedule": HOURLY, "input": [1]})
    assert (row["status"], row["event"], row["event_text"], row["schedule"]) == ("armed", None, None, HOURLY)
    row = await edited({"event": None})
    assert (row["status"], row["input"]) == ("armed", [1])
    row = await edited({"event": {"type": "x"}})
    row = await edited({"event": None})
    assert (row["status"], row["version"]) == ("manual", 7)


async def test_what_was_read_may_be_written_as_it_is(world: World, client: Client) -> None:
    await world.declare()
    row = await a_listener(client, event={"type": "run.*", "subject": "fetch", "batch_seconds": 60, "batch_size": 7})
    again = {name: row[name] for name in ("agent", "schedule", "event", "input", "policy")}
    edited = await client.patch("/v1/triggers/t", again, if_match='"1"')
    assert (edited.status, edited.json["event"], edited.json["policy"]) == (200, row["event"], row["policy"])


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({}, "an event rule needs a type"),
        ({"type": ""}, "type ''"),
        ({"type": 5}, "type 5"),
        ({"type": "x", "where": "data["}, "where 'data['"),
        ({"type": "x", "input": 5}, "input 5"),
        ({"type": "x", "debounce_seconds": 0}, "debounce must be"),
        ({"type": "x", "debounce_seconds": "5s"}, "debounce_seconds must be a number"),
        ({"type": "x", "debounce": "5s"}, "say debounce_seconds"),
        ({"type": "x", "debounce_seconds": 5, "batch_seconds": 5}, "one window at most"),
        ({"type": "x", "per": "subject"}, "per does nothing"),
        ({"type": "x", "batch_seconds": 5, "batch_size": 1_001}, "batch_size"),
        ({"type": "x", "throttle_seconds": 1e300}, "throttle"),
        ({"type": "x", "batch_seconds": True}, "batch_seconds"),
        ({"type": "x", "max_depth": 0}, "max_depth"),
        ({"type": "x", "hears": []}, "no 'hears': there are type, source, subject"),
        ({"type": "x", "batch": 5}, "no 'batch': say batch_seconds"),
        ({"tpye": "x"}, "no 'tpye'"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(
    world: World, client: Client, event: dict[str, Any], said: str
) -> None:
    await world.declare(a_trigger("there"))
    answer = await client.post("/v1/triggers", {"name": "t", "agent": "agent", "event": event})
    assert (answer.status, answer.code, answer.json["field"]) == (422, "bad_input", "event")
    assert said in answer.json["detail"]
    assert (await client.patch("/v1/triggers/there", {"event": event}, if_match="*")).json["field"] == "event"
    assert await world.value("SELECT count(*) FROM tocsin.triggers WHERE status = 'listening'") == 0


async def test_what_does_not_go_together_is_refused(world: World, client: Client) -> None:
    await world.declare()
    listens = {"name": "t", "agent": "agent", "event": {"type": "x"}}
    for more, said in (({"schedule": HOURLY}, "make it two triggers"), ({"input": {}}, "an event brings its own")):
        answer = await client.post("/v1/triggers", {**listens, **more})
        assert (answer.status, answer.code) == (422, "bad_input")
        assert said in answer.json["detail"]
    assert (await client.post("/v1/triggers", {**listens, "event": "x"})).json["field"] == "event"
    await a_listener(client)
    assert (await client.patch("/v1/triggers/t", {"input": [1]}, if_match="*")).code == "bad_input"
    assert (await client.patch("/v1/triggers/t", {"event": RULE}, if_match='"7"')).code == "stale"
