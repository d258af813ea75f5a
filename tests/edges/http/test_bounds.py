"""What lies at the ends: of the calendar, of what numbers the store has, of what a name may be."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.edges.http.client import Client
from tests.engine.building import World, a_trigger
from tocsin.domain.schedule import every
from tocsin.edges.http.operation import to_cursor

pytestmark = pytest.mark.anyio

ID = "0199f0c2-0000-7000-8000-000000000000"
LAST = "9999-12-31T23:59:59.999999Z"
STRUCTURED = {"content-type": "application/cloudevents+json"}
TIMED = ("/v1/instances", "/v1/replicas", "/v1/decisions")


@pytest.mark.parametrize(
    ("path", "position"),
    [
        *((path, (text,)) for path in ("/v1/triggers", "/v1/agents") for text in ("\0", "a\0b")),
        *((path, (number,)) for path in ("/v1/events", "/v1/audit") for number in (2**63, -(2**63) - 1, 10**30)),
        *(
            (path, (at, ID))
            for path in TIMED
            for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00")
        ),
        ("/v1/decisions", ("2026-01-01T00:00:00Z", "a\0")),
    ],
)
async def test_a_cursor_that_was_forged_is_refused(client: Client, path: str, position: tuple[Any, ...]) -> None:
    answer = await client.get(path, cursor=to_cursor(*position))
    assert (answer.status, answer.code, answer.json["field"]) == (422, "bad_input", "cursor")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/audit"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_a_number_that_no_record_has_is_refused(client: Client, path: str, number: int) -> None:
    answer = await client.get(path, before=number)
    assert (answer.status, answer.json["field"]) == (422, "before")
    assert (await client.get(path, before=2**63 - 1)).status == 200


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59.9999999Z",
    ],
)
async def test_an_event_of_a_time_that_the_calendar_has_not_is_refused(client: Client, time: str) -> None:
    form = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "time": time}
    answer = await client.ask("POST", "/v1/events", json=form, headers=STRUCTURED)
    assert (answer.status, answer.code) == (422, "bad_input")
    assert "event time" in answer.json["detail"]
    binary = {f"ce-{name}": value for name, value in form.items()}
    assert (await client.ask("POST", "/v1/events", body=b"", headers=binary)).status == 422


async def test_a_key_that_expires_at_the_calendar_s_end_shuts_nobody_out(world: World, client: Client) -> None:
    """The driver takes that instant for infinity, and no database can say how far off that is."""
    root = client.having(key=(await world.control.keys.create("root", scopes=["admin"]))["key"])
    answer = await root.post("/v1/keys", {"name": "ever", "scopes": ["read"], "expires_at": LAST})
    assert (answer.status, answer.code) == (422, "bad_input")
    assert "expires_at" in answer.json["detail"]
    world.clock.turn(timedelta(seconds=1))
    assert (await root.get("/v1/now")).status == 200
    assert (
        await root.post("/v1/keys", {"name": "late", "scopes": ["read"], "expires_at": LAST[:-8] + "Z"})
    ).status == 201
    world.clock.turn(timedelta(seconds=1))
    assert (await root.get("/v1/keys")).json["items"][0]["state"] == "valid"


async def test_a_pause_until_the_calendar_s_end_is_refused(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1m")))
    answer = await client.post("/v1/triggers/t/pause", {"until": LAST})
    assert (answer.status, answer.code) == (422, "bad_input")
    assert (await client.post("/v1/triggers/t/pause", {"until": LAST[:-8] + "Z"})).status == 200


@pytest.mark.parametrize("jitter", [0, 3_600])
async def test_what_is_due_beyond_the_calendar_is_never_due(world: World, client: Client, jitter: int) -> None:
    await world.declare()
    schedule = {"rules": [{"at": [LAST]}], "jitter_seconds": jitter}
    answer = await client.post("/v1/triggers", {"name": "t", "agent": "agent", "schedule": schedule})
    assert (answer.status, answer.json["status"]) == (201, "ended")
    assert (await client.post("/v1/preview", {"schedule": schedule})).json["instants"] == []
    assert (await client.get("/v1/triggers/t/preview")).json["instants"] == []


async def test_a_backfill_from_the_calendar_s_first_instant_on_is_judged_as_any_other(
    world: World, client: Client
) -> None:
    await world.declare(a_trigger("t", every("1m")))
    answer = await client.post("/v1/triggers/t/backfills", {"since": "0001-01-01T00:00:00Z"})
    assert (answer.status, answer.code) == (422, "bad_input")
    assert "more than 1000" in answer.json["detail"]


@pytest.mark.parametrize("name", ["名前", "ünïcode", "a%2Fb?c#d"])
async def test_a_trigger_of_any_name_is_told_where_it_stands(world: World, client: Client, name: str) -> None:
    await world.declare()
    answer = await client.post("/v1/triggers", {"name": name, "agent": "agent"}, once="1")
    assert (answer.status, answer.headers["location"]) == (201, f"/v1/triggers/{quote(name)}")
    again = await client.post("/v1/triggers", {"name": name, "agent": "agent"}, once="1")
    assert (again.status, again.headers["location"]) == (201, answer.headers["location"])


@pytest.mark.parametrize("name", [".", "..", "..."])
async def test_a_name_that_is_a_step_in_a_path_is_refused(world: World, client: Client, name: str) -> None:
    """Whoever asks for it over HTTP would ask for something else, and could not take it away."""
    await world.declare()
    for path, form in (("/v1/triggers", {"agent": "agent"}), ("/v1/keys", {"scopes": ["read"]})):
        answer = await client.post(path, {"name": name, **form})
        assert (answer.status, answer.code) == (422, "bad_input")
