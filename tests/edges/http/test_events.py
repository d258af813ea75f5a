"""/v1/events: CloudEvents as others send them, taken once and strictly, and what each came to."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.v1.event import CloudEvent

from tests.edges.http.client import Answer, Client
from tests.engine.building import SECOND, World, a_trigger
from tocsin.domain.event import Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.trigger import Overlap, TriggerSpec

pytestmark = pytest.mark.anyio

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
EVENT: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "data": {"n": 2}}


def listening(name: str = "t", kind: str = "order.*", **rule: Any) -> TriggerSpec:
    return a_trigger(name, event=on_event(kind, **rule), overlap=Overlap.QUEUE_ALL)


async def tell(client: Client, form: Any, media: str = STRUCTURED) -> Answer:
    body = form if isinstance(form, bytes) else json.dumps(form).encode()
    return await client.ask("POST", "/v1/events", body=body, headers={"content-type": media})


async def binary(client: Client, body: bytes = b'{"n": 2}', media: str = "application/json", **ce: str) -> Answer:
    given = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid"} | ce
    headers = {f"ce-{name}": value for name, value in given.items() if value} | {"content-type": media}
    return await client.ask("POST", "/v1/events", body=body, headers=headers)


async def inputs(world: World) -> list[Any]:
    return [json.loads(row["input"]) for row in await world.rows("SELECT input FROM tocsin.runs ORDER BY id")]


# --- the three ways to say it


async def test_a_structured_event_is_taken_and_called_a_trigger(world: World, client: Client) -> None:
    await world.declare(listening(where="data.n > `1`"))
    more = {
        "subject": "order/42",
        "time": "2026-03-01T12:00:00.5+01:00",
        "traceparent": "00-ab",
        "hops": 3,
        "hot": True,
    }
    answer = await tell(client, EVENT | more)
    assert answer.status == 200
    [told] = answer.json["items"]
    assert (told["source"], told["id"], told["accepted"], told["triggers"]) == ("/shop", "1", True, ["t"])
    [run] = await world.rows("SELECT id, asked_by, input FROM tocsin.runs")
    assert told["runs"] == [str(run["id"])]
    assert run["asked_by"] == "http:127.0.0.1"
    assert json.loads(run["input"]) == {
        "id": "1",
        "source": "/shop",
        "type": "order.paid",
        "subject": "order/42",
        "time": "2026-03-01T12:00:00.500000+01:00",
        "traceparent": "00-ab",
        "hops": 3,
        "hot": True,
        "data": {"n": 2},
    }


async def test_a_batch_is_taken_in_its_order_and_each_told_once(world: World, client: Client) -> None:
    await world.declare(listening(input="data.n"))
    forms = [EVENT | {"id": str(n), "data": {"n": n}} for n in (3, 1, 2, 1)]
    answer = await tell(client, forms, BATCHED)
    assert [(told["id"], told["accepted"], len(told["runs"])) for told in answer.json["items"]] == [
        ("3", True, 1),
        ("1", True, 1),
        ("2", True, 1),
        ("1", False, 0),
    ]
    assert await inputs(world) == [3, 1, 2]
    assert (await tell(client, [], BATCHED)).json == {"items": []}


async def test_a_binary_event_has_its_attributes_as_headers(world: World, client: Client) -> None:
    await world.declare(listening())
    answer = await binary(client, subject="Euro%20%E2%82%AC%20%F0%9F%98%80", time="2026-03-01T12:00:00Z", myext='"a b"')
    assert answer.status == 200
    [given] = await inputs(world)
    assert (given["subject"], given["myext"], given["data"]) == ("Euro € 😀", "a b", {"n": 2})
    assert "datacontenttype" not in given
    await binary(client, b"hello", "text/plain; charset=utf-8", id="2")
    await binary(client, b"", "", id="3")
    assert [(one["data"], one.get("datacontenttype")) for one in (await inputs(world))[1:]] == [
        ("hello", "text/plain; charset=utf-8"),
        (None, None),
    ]


async def test_what_the_sdk_sends_is_understood(world: World, client: Client) -> None:
    await world.declare(listening(input="{id: id, subject: subject, tenant: tenant, data: data}"))
    attributes = {
        "specversion": "1.0",
        "id": "a-1",
        "source": "https://example.org/ü x".replace(" ", "%20"),
        "type": "order.paid",
        "subject": 'He said "50% off" – €',
        "time": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "datacontenttype": "application/json",
        "tenant": "acme",
    }
    sent = []
    for number, write in enumerate((sdk.to_binary_event, sdk.to_structured_event)):
        event = CloudEvent(attributes | {"id": f"a-{number}"}, {"n": [1, "ä"]})
        message = write(event)
        headers = {name.lower(): value for name, value in message.headers.items()}
        answer = await client.ask("POST", "/v1/events", body=message.body, headers=headers)
        assert answer.status == 200, answer.json
        sent.append(answer.json["items"][0]["accepted"])
    assert sent == [True, True]
    expected = {"subject": 'He said "50% off" – €', "tenant": "acme", "data": {"n": [1, "ä"]}}
    assert await inputs(world) == [{"id": "a-0"} | expected, {"id": "a-1"} | expected]


async def test_data_in_base64_is_what_its_type_says(world: World, client: Client) -> None:
    await world.declare(listening(input="data"))
    plain = {name: value for name, value in EVENT.items() if name != "data"}
    await tell(client, plain | {"data_base64": "eyJuIjogN30="})
    await tell(client, plain | {"id": "2", "data_base64": "aGVsbG8=", "datacontenttype": "text/plain"})
    assert await inputs(world) == [{"n": 7}, "hello"]
    for more, said in (
        ({"data_base64": "aGVsbG8=", "datacontenttype": "image/png"}, "image/png"),
        ({"data_base64": "%%%"}, "must be base64"),
        ({"data_base64": "eyJuIjogN30=", "data": 1}, "only one of them"),
        ({"data_base64": "/w==", "datacontenttype": "text/plain"}, "not UTF-8"),
        ({"data_base64": "aGVsbG8="}, "not JSON"),
    ):
        answer = await tell(client, plain | {"id": "3"} | more)
        assert (answer.status, answer.code) == (422, "bad_input"), more
        assert said in answer.json["detail"]


# --- once, and strictly


async def test_what_was_told_before_is_known_and_that_is_no_fault(world: World, client: Client) -> None:
    await world.declare(listening())
    assert (await tell(client, EVENT)).json["items"][0]["accepted"]
    again = await tell(client, EVENT | {"data": "something else"})
    assert (again.status, again.json["items"][0]["accepted"], again.json["items"][0]["runs"]) == (200, False, [])
    assert (await binary(client)).json["items"][0]["accepted"] is False
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion: is missing"),
        ({"id": None}, "id: is missing"),
        ({"id": ""}, "id"),
        ({"id": 1}, "id"),
        ({"source": ""}, "source"),
        ({"source": "a b"}, "no spaces"),
        ({"source": "tocsin"}, "the hub's own"),
        ({"source": "/hooks/t"}, "a webhook's own"),
        ({"type": ""}, "type"),
        ({"subject": ""}, "subject"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": "2026-03-01 12:00:00Z"}, "RFC 3339"),
        ({"time": "2026-03-01T12:00:00"}, "RFC 3339"),
        ({"time": "2026-02-30T12:00:00Z"}, "RFC 3339"),
        ({"time": 5}, "time"),
        ({"datacontenttype": ""}, "datacontenttype"),
        ({"myExt": "x"}, "lower-case"),
        ({"my-ext": "x"}, "lower-case"),
        ({"ext": {"a": 1}}, "ext"),
        ({"ext": 1.5}, "ext"),
        ({"ext": 2**31}, "32 bits"),
        ({"ext": "\x00"}, "NUL"),
        ({"ext": "\x07"}, "control"),
        ({"id": "x" * 501}, "at most 500"),
        ({"ext": "x" * 1001}, "at most 1000"),
    ],
)
async def test_what_is_no_event_is_refused_and_names_its_fault(
    world: World, client: Client, change: dict[str, Any], said: str
) -> None:
    answer = await tell(client, EVENT | change)
    assert answer.status in (400, 422), answer.json
    assert said in answer.json["detail"]
    batch = await tell(client, [EVENT | {"id": "9"}, EVENT | change], BATCHED)
    assert batch.status == answer.status
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


@pytest.mark.parametrize(
    ("ce", "media", "said"),
    [
        ({"specversion": ""}, "application/json", "ce-… headers"),
        ({"id": ""}, "application/json", "id: is missing"),
        ({"datacontenttype": "text/plain"}, "application/json", "Content-Type"),
        ({"data": "x"}, "application/json", "Content-Type and the body"),
        ({"subject": "%ff"}, "application/json", "percent-encoded"),
        ({}, "image/png", "image/png"),
        ({}, "application/cloudevents+avro", "in JSON"),
        ({}, "application/cloudevents+json", "specversion"),
    ],
)
async def test_a_binary_event_that_is_none_is_refused(
    world: World, client: Client, ce: dict[str, str], media: str, said: str
) -> None:
    answer = await binary(client, b'{"n": 2}', media, **ce)
    assert answer.status in (415, 422), answer.json
    assert said in answer.json["detail"]
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


async def test_bodies_have_their_limits(world: World, client: Client) -> None:
    for body, media, status in (
        (b"{", STRUCTURED, 400),
        (b"[" * 100_000, BATCHED, 400),
        (b"[]", STRUCTURED, 422),
        (b"{}", BATCHED, 422),
        (json.dumps([EVENT] * 1_001).encode(), BATCHED, 422),
        (json.dumps(EVENT | {"data": "x" * 1_048_576}).encode(), STRUCTURED, 413),
        (json.dumps(EVENT | {"data": "x" * 1_045_000}).encode(), STRUCTURED, 413),
        (b"{}", "application/json", 415),
        (b"", "", 415),
    ):
        assert (await tell(client, body, media)).status == status, (body[:20], media)
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


async def test_only_who_may_emit_is_heard(world: World, client: Client) -> None:
    keys = {
        scope: (await world.control.keys.create(scope, scopes=[scope]))["key"] for scope in ("read", "emit", "admin")
    }
    world.clock.turn(SECOND)
    assert (await tell(client, EVENT)).status == 401
    assert (await tell(client.having(key=keys["read"]), EVENT)).code == "forbidden"
    assert (await tell(client.having(key=keys["emit"]), EVENT)).status == 200
    assert (await tell(client.having(key=keys["admin"]), EVENT)).status == 200
    assert (await client.having(key=keys["emit"]).get("/v1/events")).code == "forbidden"
    assert (await client.having(key=keys["read"]).get("/v1/events")).status == 200


# --- what came of it


async def test_each_event_tells_what_it_came_to(world: World, client: Client) -> None:
    await world.declare(
        listening("called"),
        listening("choosy", where="data.n > `5`"),
        listening("typo", where="length(data.n) > `1`"),
        listening("asleep"),
        listening("other", "invoice.*"),
        listening("elsewhere", source="/other"),
    )
    await world.control.pause("asleep")
    await tell(client, EVENT | {"myext": "x"})
    await tell(client, EVENT | {"id": "2", "type": "nothing"})
    rows = (await client.get("/v1/events")).json["items"]
    assert [(row["id"], row["type"]) for row in rows] == [("2", "nothing"), ("1", "order.paid")]
    assert rows[0]["calls"] == []
    calls = {call["trigger"]: (call["state"], call["reason"]) for call in rows[1]["calls"]}
    assert calls == {"asleep": (None, "paused"), "called": ("queued", None), "typo": (None, "filter")}
    shown = (await client.get(f"/v1/events/{rows[1]['number']}")).json
    assert (shown["data"], shown["extensions"], shown["body"]) == ({"n": 2}, {"myext": "x"}, None)
    assert shown["uncalled"] == [
        {"trigger": "choosy", "because": "not so: data.n > `5`"},
        {"trigger": "elsewhere", "because": "source '/shop' is not /other"},
        {"trigger": "other", "because": "type 'order.paid' is not invoice.*"},
    ]


async def test_what_falls_into_a_window_tells_its_run(world: World, client: Client) -> None:
    await world.declare(listening(debounce="5s"))
    for number in (1, 2):
        await tell(client, EVENT | {"id": str(number)})
    [run] = await world.rows("SELECT id FROM tocsin.runs")
    rows = (await client.get("/v1/events")).json["items"]
    assert [[call["run_id"] for call in row["calls"]] for row in rows] == [[str(run["id"])]] * 2


async def test_events_told_from_sql_tell_what_they_came_to_once_they_are_matched(world: World, client: Client) -> None:
    from tests.engine.test_events import match_all  # noqa: PLC0415

    await world.declare(listening())
    await world.value("SELECT tocsin.emit('order.paid', '/shop')")
    [row] = (await client.get("/v1/events")).json["items"]
    assert (row["matched_at"], row["calls"]) == (None, [])
    await match_all(world)
    [row] = (await client.get("/v1/events")).json["items"]
    assert [(call["trigger"], call["state"]) for call in row["calls"]] == [("t", "queued")]
    with pytest.raises(Exception, match="a webhook's own"):
        await world.value("SELECT tocsin.emit('push', '/hooks/t')")


async def test_a_listing_has_pages_and_filters(world: World, client: Client) -> None:
    await world.declare(listening(), listening("never", "nothing"))
    events = [Event(id=str(n), source=f"/shop/{n % 2}", type="order.paid" if n % 3 else "other") for n in range(10)]
    await world.control.emit(events)

    async def ids(**query: Any) -> list[str]:
        answer = await client.get("/v1/events", **query)
        assert answer.status == 200, answer.json
        return [row["id"] for row in answer.json["items"]]

    everything = await ids()
    first = (await client.get("/v1/events", limit=4)).json
    second = (await client.get("/v1/events", limit=4, cursor=first["next_cursor"])).json
    third = (await client.get("/v1/events", limit=4, cursor=second["next_cursor"])).json
    assert [row["id"] for page in (first, second, third) for row in page["items"]] == everything
    assert third["next_cursor"] is None
    assert sorted(await ids(type="other")) == ["0", "3", "6", "9"]
    assert sorted(await ids(source="/shop/1", type="other")) == ["3", "9"]
    assert await ids(id="7", source="/shop/1") == ["7"]
    assert sorted(await ids(called=True)) == sorted(await ids(trigger="t")) == ["1", "2", "4", "5", "7", "8"]
    assert sorted(await ids(called=False)) == ["0", "3", "6", "9"]
    assert await ids(trigger="never") == []
    assert await ids(since="2030-01-01T00:00:00Z") == await ids(until="2020-01-01T00:00:00Z") == []
    assert (await client.get("/v1/events", trigger="nobody")).code == "not_found"
    for number in ("0", "999", str(2**70), "-1"):
        assert (await client.get(f"/v1/events/{number}")).code == "not_found"
    assert (await client.get("/v1/events/x")).code == "bad_input"


async def test_what_is_forgotten_is_forgotten_with_its_calls(world: World, client: Client) -> None:
    from tocsin.store.retention import Retention  # noqa: PLC0415

    await world.declare(listening())
    await tell(client, EVENT)
    assert await world.value("SELECT count(*) FROM tocsin.event_calls") == 1
    before = world.clock.now() + SECOND
    assert await Retention(database=world.database).prune_events(before, batch=10) == 1
    assert await world.value("SELECT count(*) FROM tocsin.event_calls") == 0
