"""/v1/triggers: each operation, what it answers, and what it refuses."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.edges.http.client import Client
from tests.engine.building import MINUTE, NOON, SECOND, World, a_trigger
from tocsin.domain.schedule import cron, every

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
HOURLY = {"rules": [{"cron": "0 * * * *"}]}


def z(moment: Any) -> str:
    return str(moment.isoformat()).replace("+00:00", "Z")


async def test_a_trigger_is_created_read_changed_and_deleted(world: World, client: Client) -> None:
    await world.declare(agents=("agent", "other"))
    body = {
        "name": "t",
        "agent": "agent",
        "schedule": HOURLY,
        "input": {"n": 1},
        "policy": {"grace": "2m", "priority": 7},
    }
    created = await client.post("/v1/triggers", body)
    assert (created.status, created.headers["location"], created.headers["etag"]) == (201, "/v1/triggers/t", '"1"')
    row = created.json
    assert (row["schedule"], row["schedule_text"], row["input"]) == (HOURLY, "cron 0 * * * *", {"n": 1})
    assert (row["policy"]["grace"], row["policy"]["priority"], row["next_at"]) == (120.0, 7, z(NOON + HOUR))
    assert (await client.get("/v1/triggers/t")).json == row
    edited = await client.patch("/v1/triggers/t", {"agent": "other", "policy": {"overlap": "allow"}}, if_match='"1"')
    assert (edited.status, edited.headers["etag"]) == (200, '"2"')
    assert (edited.json["agent"], edited.json["policy"]["overlap"], edited.json["policy"]["priority"]) == (
        "other",
        "allow",
        7,
    )
    unscheduled = await client.patch("/v1/triggers/t", {"schedule": None, "input": None}, if_match="*")
    assert (unscheduled.json["status"], unscheduled.json["input"]) == ("manual", None)
    gone = await client.delete("/v1/triggers/t")
    assert (gone.status, gone.json) == (200, {"trigger": "t", "deleted": True, "withdrawn": 0})
    assert (await client.get("/v1/triggers/t")).code == "not_found"


async def test_a_listing_is_cut_filtered_and_goes_on(world: World, client: Client) -> None:
    await world.declare(
        *(a_trigger(f"a{n}", every("1h")) for n in range(5)), a_trigger("b", agent="other"), agents=("agent", "other")
    )
    await world.control.pause("a3")
    pages, cursor = [], None
    while True:
        page = (await client.get("/v1/triggers", limit=2, **({"cursor": cursor} if cursor else {}))).json
        pages.append([row["name"] for row in page["items"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == [["a0", "a1"], ["a2", "a3"], ["a4", "b"]]

    async def names(**query: Any) -> list[str]:
        return [row["name"] for row in (await client.get("/v1/triggers", **query)).json["items"]]

    assert await names(agent="other") == ["b"]
    assert await names(status="paused") == ["a3"]
    assert await names(status="manual", source="app.py") == ["b"]
    assert await names(source="elsewhere.py") == []


async def test_a_listing_begins_behind_a_name(world: World, client: Client) -> None:
    await world.declare(*(a_trigger(name) for name in "abc"), agents=("agent", "other"))
    page = (await client.get("/v1/triggers", after="a", limit=1)).json
    assert [row["name"] for row in page["items"]] == ["b"]
    page = (await client.get("/v1/triggers", after="a", cursor=page["next_cursor"])).json
    assert [row["name"] for row in page["items"]] == ["c"]
    assert [row["name"] for row in (await client.get("/v1/agents", after="agent")).json["items"]] == ["other"]


async def test_a_refusal_has_what_its_text_names(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    assert (await client.get("/v1/triggers/nope")).json["about"] == {"kind": "trigger", "name": "nope"}
    stale = await client.patch("/v1/triggers/t", {"agent": "agent"}, if_match='"7"')
    assert (stale.json["code"], stale.json["about"]) == ("stale", {"version": 1})
    assert "about" not in (await client.post("/v1/triggers/t/resume")).json


async def test_the_instant_is_the_databases(world: World, client: Client) -> None:
    assert (await client.get("/v1/now")).json == {"now": z(NOON)}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"status": "asleep"}, "status"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cursor": "WzFd"}, "cursor"),
        ({"agnet": "digest"}, "agnet"),
        ({"agent": "a\0b"}, "agent"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(client: Client, query: dict[str, Any], field: str) -> None:
    answer = await client.get("/v1/triggers", **query)
    assert (answer.status, answer.code, answer.json["field"]) == (422, "bad_input", field)


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({"rules": [{"cron": "61 * * * *"}]}, "minute"),
        ({"rules": [{"cron": "0 9 * *"}]}, "cron"),
        ({"rules": [{"cron": "0 0 30 2 *"}]}, "day of month"),
        ({"rules": [{"cron": "0 9 * * *", "tz": "Mars/Phobos"}]}, "tz"),
        ({"rules": [{"cron": "0 9 * * *", "gap": "jump"}]}, "gap"),
        ({"rules": [{"every_seconds": 0.5}]}, "every"),
        ({"rules": [{"at": ["tomorrow"]}]}, "at"),
        ({"rules": []}, "rules"),
        ({"rules": [{}]}, "rules"),
        ({"rules": [{"cron": "0 9 * * *"}], "jitter_seconds": -1}, "jitter_seconds"),
        ({"rules": [{"cron": "0 9 * * *"}], "start_at": "2026-01-01"}, "start_at"),
        ({"rules": [{"cron": "0 9 * * *"}], "max_occurrences": 3}, "max_occurrences"),
        ({"rules": [{"cron": "0 9 * * *"}], "except": [{"from": "2026-13-01"}]}, "except"),
        ({"rule": []}, "schedule"),
        ({}, "rules"),
    ],
)
async def test_a_schedule_that_is_malformed_is_refused_and_the_field_is_named(
    world: World, client: Client, schedule: dict[str, Any], field: str
) -> None:
    await world.declare()
    answer = await client.post("/v1/triggers", {"name": "t", "agent": "agent", "schedule": schedule})
    assert (answer.status, answer.code, answer.json["field"]) == (422, "invalid_schedule", field)
    assert await world.value("SELECT count(*) FROM tocsin.triggers") == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 5}, "name"),
        ({"schedule": "0 9 * * *"}, "schedule"),
        ({"policy": {"priority": 10}}, "policy.priority"),
        ({"policy": {"priority": "5"}}, "policy.priority"),
        ({"policy": {"overlap": "maybe"}}, "policy.overlap"),
        ({"policy": {"grace": "soon"}}, "policy.grace"),
        ({"policy": {"max_catch_up": 0}}, "policy.max_catch_up"),
        ({"policy": {"colour": "red"}}, "policy.colour"),
        ({"polcy": {}}, "polcy"),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_and_the_field_is_named(
    world: World, client: Client, change: dict[str, Any], field: str
) -> None:
    await world.declare()
    answer = await client.post("/v1/triggers", {"name": "t", "agent": "agent", **change})
    assert (answer.status, answer.code, answer.json["field"]) == (422, "bad_input", field)
    assert await world.value("SELECT count(*) FROM tocsin.triggers") == 0


async def test_what_cannot_be_done_is_told_apart(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    taken = await client.post("/v1/triggers", {"name": "t", "agent": "agent"})
    assert (taken.status, taken.code) == (409, "conflict")
    unknown = await client.post("/v1/triggers", {"name": "u", "agent": "nobody"})
    assert (unknown.status, unknown.code) == (404, "not_found")
    unnamed = await client.post("/v1/triggers", {"name": "two words", "agent": "agent"})
    assert (unnamed.status, unnamed.code) == (422, "bad_input")
    nearly = await client.get("/v1/triggers/tt")
    assert "did you mean 't'?" in nearly.json["detail"]
    assert (await client.get("/v1/triggers/a\0b")).code == "not_found"


# --- If-Match


async def test_an_edit_says_which_version_it_is_of(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", cron("0 9 * * *")))
    change = {"policy": {"priority": 9}}
    missing = await client.patch("/v1/triggers/t", change)
    assert (missing.status, missing.code, missing.json["field"]) == (428, "precondition_required", "If-Match")
    for stale in ('"2"', 'W/"1"', "1", '"x"', '""', ""):
        refused = await client.patch("/v1/triggers/t", change, if_match=stale)
        assert (refused.status, refused.code) == (412, "stale"), stale
    assert (await client.patch("/v1/triggers/t", change, if_match='"7", "1"')).status == 200
    assert (await client.delete("/v1/triggers/t", if_match='"1"')).status == 412
    assert (await client.delete("/v1/triggers/t", if_match='"2"')).status == 200
    assert (await client.patch("/v1/triggers/t", change, if_match='"2"')).status == 404


async def test_of_many_edits_of_one_version_one_is_made(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    edits = [client.patch("/v1/triggers/t", {"policy": {"priority": n % 10}}, if_match='"1"') for n in range(16)]
    statuses = [answer.status for answer in await asyncio.gather(*edits)]
    assert sorted(statuses) == [200] + [412] * 15
    assert (await world.control.trigger("t"))["version"] == 2


async def test_nothing_to_change_is_refused(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    nothing: list[dict[str, Any]] = [{}, {"policy": {}}]
    for body in nothing:
        assert (await client.patch("/v1/triggers/t", body, if_match='"1"')).code == "bad_input"


# --- pause, resume


async def test_a_pause_with_a_reason_and_an_end(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    told = await client.post("/v1/triggers/t/pause", {"reason": "holiday", "until": "2026-03-02T13:00:00+01:00"})
    assert (told.status, told.json["status"], told.json["paused"]) == (200, "paused", ["holiday"])
    assert told.json["paused_until"] == {"holiday": "2026-03-02T12:00:00Z"}
    assert (await client.post("/v1/triggers/t/pause")).json["paused"] == ["holiday", "user"]
    assert (await client.post("/v1/triggers/t/resume", {"reason": "user"})).json["status"] == "paused"
    assert (await client.post("/v1/triggers/t/resume")).json["status"] == "armed"
    assert (await client.post("/v1/triggers/t/resume")).code == "conflict"
    late = await client.post("/v1/triggers/t/pause", {"until": z(NOON)})
    assert (late.status, late.code) == (422, "bad_input")
    local = await client.post("/v1/triggers/t/pause", {"until": "2026-03-02T13:00:00"})
    assert (local.status, local.json["field"]) == (422, "until")


async def test_resuming_may_catch_up(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    await client.post("/v1/triggers/t/pause")
    world.clock.turn(2 * HOUR)
    await client.post("/v1/triggers/t/resume", {"catch_up": "latest"})
    assert await world.value("SELECT nominal_at FROM tocsin.runs") == NOON + 2 * HOUR
    assert (await client.post("/v1/triggers/t/resume", {"catch_up": "all"})).json["field"] == "catch_up"


# --- fire, backfill, preview, why


async def test_firing_gives_one_run_for_one_key(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", input="its own"))
    first = await client.post("/v1/triggers/t/fire", {"input": {"n": 1}}, once="k")
    again = await client.post("/v1/triggers/t/fire", {"input": {"n": 2}}, once="k")
    assert (first.status, first.json["created"], first.json["input"]) == (201, True, {"n": 1})
    assert (again.status, again.json["created"], again.json["id"]) == (200, False, first.json["id"])
    assert first.headers["location"] == f"/v1/runs/{first.json['id']}"
    assert (await client.post("/v1/triggers/t/fire")).json["input"] == "its own"
    assert (await client.post("/v1/triggers/t/fire", once="x" * 256)).json["field"] == "Idempotency-Key"
    assert (await client.post("/v1/triggers/u/fire")).status == 404
    # The command line's key is the same one.
    assert (await world.control.fire("t", key="k"))["id"].hex == first.json["id"].replace("-", "")


async def test_firing_many_times_at_once_gives_one_run_for_one_key(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    fired = await asyncio.gather(*(client.post("/v1/triggers/t/fire", once="k") for _ in range(12)))
    assert sorted(answer.status for answer in fired) == [200] * 11 + [201]
    assert len({answer.json["id"] for answer in fired}) == 1


async def test_a_backfill_is_counted_begun_and_cancelled(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1h")))
    asked = {"since": z(NOON - 3 * HOUR), "until": z(NOON)}
    dry = await client.post("/v1/triggers/t/backfills", {**asked, "dry_run": True})
    assert (dry.status, dry.json["count"], dry.json["id"]) == (200, 4, None)
    begun = await client.post("/v1/triggers/t/backfills", asked)
    assert begun.json["count"] == 4
    gone = await client.delete(f"/v1/triggers/t/backfills/{begun.json['id']}")
    assert (gone.status, gone.json["cancelled"]) == (200, 4)
    assert (await client.delete("/v1/triggers/t/backfills/00000000-0000-0000-0000-000000000000")).code == "not_found"
    assert (await client.delete("/v1/triggers/t/backfills/x")).status == 422
    ahead = await client.post("/v1/triggers/t/backfills", {"since": z(NOON), "until": z(NOON + HOUR)})
    assert (ahead.status, ahead.code) == (422, "bad_input")
    assert (await client.post("/v1/triggers/t/backfills", {})).json["field"] == "since"


async def test_previews(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", cron("30 2 * * *", "Europe/Paris")))
    told = (await client.get("/v1/triggers/t/preview", count=2, after="2026-03-28T12:00:00Z")).json
    assert told["instants"][0]["local"] == "2026-03-29T03:00:00+02:00"
    assert told["instants"][0]["notes"][0].startswith("moved: ")
    alone = await client.post("/v1/preview", {"schedule": HOURLY, "count": 1, "after": z(NOON)})
    assert [one["at"] for one in alone.json["instants"]] == [z(NOON + HOUR)]
    assert (await client.post("/v1/preview", {"schedule": {"rules": [{"cron": "x"}]}})).code == "invalid_schedule"
    assert (await client.get("/v1/triggers/t/preview", count=1_001)).json["field"] == "count"


async def test_why_tells_of_a_range(world: World, client: Client) -> None:
    await world.declare(a_trigger("t", every("1m")))
    peer = await world.peer(lease=HOUR)
    world.clock.turn(MINUTE + SECOND)
    await peer.planner.run_once()
    told = (await client.get("/v1/triggers/t/why")).json
    assert [(row["at"], row["decision"]) for row in told["decisions"]] == [(z(NOON + MINUTE), "queued")]
    assert told["standing"][0].startswith("It is armed")
    nothing = (await client.get("/v1/triggers/t/why", until=z(NOON))).json
    assert (nothing["decisions"], nothing["since"]) == ([], z(NOON - 24 * HOUR))
    assert (await client.get("/v1/triggers/t/why", since=z(NOON), until="0001-01-01T00:00:00Z")).status == 422
    assert (await client.get("/v1/triggers/t/why", until="0001-01-01T00:00:00Z")).status == 200
    assert (await client.get("/v1/triggers/t/why", since="yesterday")).json["field"] == "since"
