"""What is ahead and what has been, over many triggers."""

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.engine.building import MINUTE, NOON, SECOND, World, a_trigger, an_end
from tocsin.domain.errors import BadInput, NotFound
from tocsin.domain.schedule import cron, every
from tocsin.domain.trigger import Overlap

HOUR = timedelta(hours=1)
MINUTELY = every("1m")


async def ended_with(world: World, trigger: str, *usage: dict[str, Any]) -> None:
    """A run of the trigger has ended and told of its usage."""
    peer = await world.peer(lease=HOUR)
    await world.control.fire(trigger)
    agent = (await world.control.trigger(trigger))["agent"]
    held = await peer.claim_one(agent)
    assert await peer.settle(an_end(held, usage=json.dumps(list(usage)))) == {held.run_id}


async def test_usage_is_added_up_by_what_is_asked_for(world: World) -> None:
    await world.declare(a_trigger("a"), a_trigger("b"), a_trigger("c", agent="other"), agents=("agent", "other"))
    await ended_with(world, "a", {"model": "m", "input_tokens": 10, "cost_usd": 0.5}, {"model": "n", "input_tokens": 1})
    await ended_with(world, "b", {"model": "m", "input_tokens": 5, "note": "text"})
    world.clock.turn(timedelta(days=1))
    await ended_with(world, "c", {"output_tokens": 7})
    since = NOON - HOUR
    by_agent = await world.control.insight.usage(by=["agent"], since=since)
    assert by_agent["items"] == [
        {"agent": "agent", "runs": 2, "attempts": 2, "sums": {"input_tokens": 16, "cost_usd": 0.5}},
        {"agent": "other", "runs": 1, "attempts": 1, "sums": {"output_tokens": 7}},
    ]
    by_model = (await world.control.insight.usage(by=["model", "day"], since=since))["items"]
    assert [(row["day"], row["model"], row["sums"]) for row in by_model] == [
        ("2026-03-01", "m", {"input_tokens": 15, "cost_usd": 0.5}),
        ("2026-03-01", "n", {"input_tokens": 1}),
        ("2026-03-02", "", {"output_tokens": 7}),
    ]
    assert [
        row["runs"] for row in (await world.control.insight.usage(by=["trigger"], trigger="b", since=since))["items"]
    ] == [1]
    # The range is the last day, unless it is told otherwise.
    assert [row["agent"] for row in (await world.control.insight.usage(since=NOON + HOUR))["items"]] == ["other"]
    assert (await world.control.insight.usage(by=[], since=since))["items"][0]["runs"] == 3
    with pytest.raises(BadInput, match="by 'colour'"):
        await world.control.insight.usage(by=["colour"])
    with pytest.raises(NotFound):
        await world.control.insight.usage(trigger="z")


async def test_a_sum_that_no_number_holds_is_told_as_the_largest_one(world: World) -> None:
    """One agent that counts nonsense does not keep what the others have told from being read."""
    most = 1.7976931348623157e308
    await world.declare(a_trigger("a"), a_trigger("b", agent="other"), agents=("agent", "other"))
    await ended_with(world, "a", {"up": most, "down": -most, "both": most}, {"up": most, "down": -most, "both": -most})
    await ended_with(world, "a", {"up": 0.5, "down": 0.5, "both": 0.5})
    await ended_with(world, "b", {"cost_usd": 5e-324})
    rows = (await world.control.insight.usage())["items"]
    assert [{name: float(total) for name, total in row["sums"].items()} for row in rows] == [
        {"up": most, "down": -most, "both": 0.5},
        {"cost_usd": 5e-324},
    ]


async def test_decisions_of_all_triggers_come_page_by_page(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY, overlap=Overlap.ALLOW), a_trigger("u", MINUTELY))
    peer = await world.peer(lease=HOUR)
    await world.control.pause("t")
    world.clock.turn(5 * MINUTE)
    await world.control.resume("t")
    world.clock.turn(SECOND)
    await peer.planner.run_once()
    world.clock.turn(SECOND)
    await world.control.pause("u")
    world.clock.turn(SECOND)
    everything = await world.control.insight.decisions(limit=100)
    assert [(row["trigger"], row["reason"], row["count"]) for row in everything] == [
        ("u", "withdrawn", 1),
        ("u", "missed", 4),
        ("t", "paused", 5),
    ]
    seen, before = [], None
    while page := await world.control.insight.decisions(limit=1, before=before):
        seen += page
        before = (page[-1]["decided_at"], page[-1]["key"])
    assert seen == everything
    assert [row["trigger"] for row in await world.control.insight.decisions(limit=9, trigger="t")] == ["t"]
    assert [row["run_id"] for row in await world.control.insight.decisions(limit=9, reason="paused")] == [None]
    assert await world.control.insight.decisions(limit=9, until=NOON) == []
    with pytest.raises(BadInput, match="reason 'whim'"):
        await world.control.insight.decisions(limit=9, reason="whim")
    with pytest.raises(BadInput, match="must not be after until"):
        await world.control.insight.decisions(limit=9, since=NOON, until=NOON - HOUR)


async def test_a_trigger_s_next_instants_tell_of_its_jitter_and_of_the_clocks(world: World) -> None:
    await world.declare(a_trigger("t", cron("30 2 * * *", "Europe/Paris", jitter="10m")), a_trigger("by-hand"))
    told = await world.control.insight.preview("t", count=40)
    moved = [one for one in told["instants"] if one["notes"]]
    assert len(told["instants"]) == 40
    assert moved[0]["local"] == "2026-03-29T03:00:00+02:00"
    delays = {one["effective_at"] - one["at"] for one in told["instants"]}
    assert len(delays) == 1
    assert timedelta(0) < delays.pop() < timedelta(minutes=10)
    assert (await world.control.insight.preview("by-hand"))["instants"] == []
    alone = await world.control.insight.preview_schedule(MINUTELY, count=2, after=NOON)
    assert [one["at"] for one in alone["instants"]] == [NOON + MINUTE, NOON + 2 * MINUTE]
    with pytest.raises(BadInput, match="count 0"):
        await world.control.insight.preview("t", count=0)


async def test_the_load_ahead(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY), a_trigger("u", every("1h")), a_trigger("paused", MINUTELY))
    await world.control.pause("paused")
    told = await world.control.insight.forecast(1)
    assert (told["triggers"], told["fires"], told["cut"]) == (2, 61, [])
    assert told["collisions"] == [{"at": NOON + HOUR, "fires": 2, "triggers": ["t", "u"]}]
    with pytest.raises(BadInput, match="hours"):
        await world.control.insight.forecast(0)
