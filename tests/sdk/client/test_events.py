"""Events and webhooks through the client, against a real API on a real database."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.engine.building import World
from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.cloudevents import read_structured, structured
from tocsin.domain.errors import BadInput, NotFound, PayloadTooLarge
from tocsin.domain.event import MAX_DATA, Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.hook import webhook
from tocsin.domain.trigger import TriggerSpec
from tocsin.sdk.client import Client
from tocsin.sdk.client.emitting import MOST, batches

pytestmark = pytest.mark.anyio

FULL = Event(
    id="42",
    source="/shop",
    type="order.paid",
    subject="é",
    time=datetime(2026, 3, 29, 1, 0, 0, 5, tzinfo=UTC),
    data={"n": [1, None, "é"]},
    extensions={"region": "eu", "urgent": True, "count": 3},
)


async def every_one(rows: AsyncIterator[Any]) -> list[Any]:
    return [row async for row in rows]


@pytest.mark.parametrize("event", [FULL, Event(id="1", source="/s", type="t"), replace(FULL, data=0, time=None)])
async def test_what_is_sent_is_read_as_the_same_event(event: Event) -> None:
    assert read_structured(msgspec.json.decode(msgspec.json.encode(structured(event)))) == event


async def test_what_is_told_calls_who_listens_once_and_is_looked_at(world: World, client: Client) -> None:
    await world.declare(
        TriggerSpec(name="paid", agent="agent", event=on_event("order.paid")),
        TriggerSpec(name="other", agent="agent", event=on_event("order.*", where="data.n == `1`")),
    )
    [told] = await client.emit([FULL])
    assert (told["accepted"], told["triggers"]) == (True, ["paid"])
    assert (await client.run(told["runs"][0]))["input"] == FULL.view()
    [again, new] = await client.emit([FULL, replace(FULL, id="43")])
    assert (again["accepted"], again["runs"], new["accepted"]) == (False, [], True)
    rows = await every_one(client.events(type="order.paid", called=True))
    assert rows == await world.control.events.page(limit=10)
    assert [row["id"] for row in rows] == ["43", "42"]
    assert await every_one(client.events(before=rows[0]["number"])) == rows[1:]
    assert await every_one(client.events(id="43", trigger="other")) == []
    assert [len(await every_one(client.events(type=t))) for t in ("order.*", "*.pai?", "order", "order_paid", "%")] == [
        2, 2, 0, 0, 0,
    ]  # fmt: skip
    assert len(await every_one(client.events(source="/sh*", type="*"))) == 2
    shown = await client.event(rows[1]["number"])
    assert shown == await world.control.events.show(rows[1]["number"])
    assert [one["trigger"] for one in shown["uncalled"]] == ["other"]
    with pytest.raises(NotFound, match="no event '77'"):
        await client.event(77)


async def test_many_go_in_several_requests_in_their_order(world: World, client: Client) -> None:
    events = [Event(id=str(n), source="/many", type="x", data=n) for n in range(MOST + 5)]
    told = await client.emit(events)
    assert [one["id"] for one in told] == [event.id for event in events]
    assert all(one["accepted"] for one in told)
    assert len(await every_one(client.events(source="/many"))) == MOST + 5


async def test_large_ones_go_in_requests_that_a_hub_takes(world: World, client: Client) -> None:
    large = [Event(id=str(n), source="/large", type="x", data="x" * (MAX_DATA // 2 - 200)) for n in range(5)]
    sizes = [len(msgspec.json.encode(batch)) for batch in batches(large)]
    assert len(sizes) == 3
    assert all(size <= MAX_PAYLOAD for size in sizes)
    largest = Event(id="largest", source="/large", type="x", data="x" * (MAX_DATA - 2))
    assert [one["accepted"] for one in await client.emit([*large, largest])] == [True] * 6


async def test_if_one_is_none_nothing_is_sent(world: World, client: Client) -> None:
    good = Event(id="1", source="/s", type="x")
    with pytest.raises(BadInput, match="event source 'tocsin'"):
        await client.emit([good, replace(good, source="tocsin")])
    with pytest.raises(PayloadTooLarge):
        await client.emit([good, replace(good, data="x" * MAX_DATA)])
    assert await every_one(client.events()) == []


async def test_a_hook_is_given_changed_and_taken_away_and_on_record(world: World, client: Client) -> None:
    await world.declare(agents=("agent",))
    github = webhook("github", secret="OLD_SECRET")
    row = await client.add_trigger(TriggerSpec(name="t", agent="agent", event=on_event("push"), hook=github))
    assert row["hook"] == {"scheme": "github", "secret": "OLD_SECRET"}
    both = webhook("github", secret=["NEW_SECRET", "OLD_SECRET"])
    row = await client.edit_trigger("t", lambda spec: replace(spec, hook=both, priority=7))
    assert (row["hook"], row["policy"]["priority"]) == (both.to_json(), 7)
    row = await client.edit_trigger("t", lambda spec: replace(spec, hook=None))
    assert (row["hook"], row["event"]) == (None, {"type": "push"})
    deeds = await every_one(client.audit(trigger="t"))
    assert [deed["detail"].get("after", {}).get("hook") for deed in deeds] == [None, both.to_json(), None]
    assert deeds[0]["detail"]["before"]["hook"] == both.to_json()
