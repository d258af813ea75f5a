"""Every operation that an edge can ask for, on rows and values."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.engine.building import MINUTE, NOON, SECOND, World, a_trigger, an_app, an_end
from tocsin import at, cron, every
from tocsin.domain.errors import BadInput, Conflict, NotFound, PayloadTooLarge
from tocsin.domain.run import RunState
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec

HOUR = timedelta(hours=1)
MINUTELY = cron("* * * * *")
HOURLY = cron("0 * * * *")


async def skips(world: World) -> list[tuple[str, timedelta, timedelta, int]]:
    rows = await world.rows("SELECT * FROM tocsin.skips ORDER BY first_at, reason")
    return [(r["reason"], r["first_at"] - NOON, r["last_at"] - NOON, r["count"]) for r in rows]


async def trigger(world: World, name: str = "t") -> dict[str, Any]:
    return await world.row("SELECT * FROM tocsin.triggers WHERE name = $1 AND status <> 'deleted'", name)


# --- declaring


async def test_declaring_again_changes_nothing(world: World) -> None:
    app = an_app(a_trigger(schedule=MINUTELY, input={"b": 1, "a": [1.5, None]}), a_trigger("u"))
    first = await world.control.declare(app)
    assert first["triggers"] == {"created": ["t", "u"], "changed": [], "unchanged": [], "pruned": [], "taken_over": []}
    assert first["agents"] == {"created": ["agent"], "changed": [], "unchanged": []}
    before = await world.rows("SELECT * FROM tocsin.triggers, tocsin.agents ORDER BY id")
    world.clock.turn(10)
    second = await world.control.declare(app)
    assert second["triggers"] == {"created": [], "changed": [], "unchanged": ["t", "u"], "pruned": [], "taken_over": []}
    assert second["agents"] == {"created": [], "changed": [], "unchanged": ["agent"]}
    assert await world.rows("SELECT * FROM tocsin.triggers, tocsin.agents ORDER BY id") == before


async def test_declaring_from_many_replicas_at_once_creates_each_once(world: World) -> None:
    app = an_app(*(a_trigger(f"t{n}", MINUTELY) for n in range(20)))

    async def declare() -> int:
        for _ in range(5):
            try:
                return len((await world.control.declare(app))["triggers"]["created"])
            except Exception as error:
                told = error
        raise told

    assert sum(await asyncio.gather(*(declare() for _ in range(4)))) == 20
    assert await world.value("SELECT count(*) FROM tocsin.triggers") == 20


async def test_a_changed_policy_keeps_the_cursor_and_a_changed_schedule_moves_it(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    world.clock.turn(10 * MINUTE)
    report = await world.declare(a_trigger(schedule=HOURLY, priority=9))
    assert report["triggers"]["changed"] == ["t"]
    row = await trigger(world)
    assert (row["version"], row["next_at"], row["wake_at"]) == (2, NOON + HOUR, NOON + HOUR)
    await world.declare(a_trigger(schedule=MINUTELY, priority=9))
    row = await trigger(world)
    assert (row["version"], row["next_at"]) == (3, NOON + 11 * MINUTE)


async def test_what_was_due_under_the_old_schedule_is_decided_by_it(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    world.clock.turn(2 * MINUTE)
    await world.declare(a_trigger(schedule=HOURLY))
    runs = await world.rows("SELECT nominal_at, state FROM tocsin.runs ORDER BY nominal_at")
    assert await skips(world) == []
    assert [(row["nominal_at"], row["state"]) for row in runs] == [
        (NOON + MINUTE, "queued"),
        (NOON + 2 * MINUTE, "queued"),
    ]
    assert (await trigger(world))["next_at"] == NOON + HOUR


async def test_pruning_takes_out_what_this_source_declares_no_more(world: World) -> None:
    await world.control.declare(an_app(a_trigger("mine"), a_trigger("old"), source="a.py"))
    await world.control.declare(an_app(a_trigger("theirs"), source="b.py"))
    await world.queue("old")
    world.clock.turn(SECOND)
    report = await world.control.declare(an_app(a_trigger("mine"), source="a.py"), prune=True)
    assert report["triggers"]["pruned"] == ["old"]
    assert [row["name"] for row in await world.control.triggers(limit=10)] == ["mine", "theirs"]
    run = await world.row("SELECT state, reason FROM tocsin.runs")
    assert (run["state"], run["reason"]) == ("skipped", "withdrawn")


async def test_a_declared_name_may_return_after_it_was_deleted(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    first = (await trigger(world))["id"]
    await world.control.delete_trigger("t")
    report = await world.declare(a_trigger(schedule=MINUTELY))
    assert report["triggers"]["created"] == ["t"]
    assert (await trigger(world))["id"] != first


# --- pause and resume


async def test_a_pause_survives_declaring(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    await world.control.pause("t")
    for schedule in (MINUTELY, HOURLY):
        await world.declare(a_trigger(schedule=schedule))
        assert (await world.control.trigger("t"))["status"] == "paused"
        assert (await trigger(world))["paused"] == ["user"]


async def test_a_paused_trigger_accounts_for_what_it_would_have_run(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer()
    world.clock.turn(30)
    await world.control.pause("t")
    for _ in range(5):
        world.clock.turn(30 * MINUTE)
        await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    await world.control.resume("t")
    assert await skips(world) == [("paused", MINUTE, 150 * MINUTE, 150)]
    row = await trigger(world)
    assert (row["next_at"], row["wake_at"]) == (NOON + 151 * MINUTE, NOON + 151 * MINUTE)
    assert (row["paused"], row["gap_reason"]) == ([], None)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    assert await world.value("SELECT nominal_at FROM tocsin.runs") == NOON + 151 * MINUTE


async def test_pausing_decides_what_is_due_and_withdraws_what_waits(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY, overlap=Overlap.ALLOW))
    peer = await world.peer()
    running = await world.queue(at=-MINUTE)
    await peer.claim_one()
    manual = await world.queue(kind="manual")
    world.clock.turn(MINUTE + SECOND)
    await world.control.pause("t")
    rows = await world.rows("SELECT id, state, reason, nominal_at FROM tocsin.runs ORDER BY nominal_at, id")
    assert [(row["state"], row["reason"]) for row in rows] == [
        ("running", None),
        ("queued", None),
        ("skipped", "withdrawn"),
    ]
    assert (rows[0]["id"], rows[1]["id"], rows[2]["nominal_at"]) == (running, manual, NOON + MINUTE)


async def test_every_reason_must_clear(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    await world.control.pause("t")
    await world.control.pause("t", reason="budget")
    assert (await world.control.trigger("t"))["paused"] == ["budget", "user"]
    with pytest.raises(Conflict, match="not paused for 'breaker'"):
        await world.control.resume("t", reason="breaker")
    assert (await world.control.resume("t", reason="user"))["status"] == "paused"
    assert (await world.control.resume("t", reason="budget"))["status"] == "armed"
    with pytest.raises(Conflict, match="is not paused"):
        await world.control.resume("t")


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 201])
async def test_a_reason_that_could_not_be_read_back_is_refused(world: World, reason: str) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    with pytest.raises(BadInput, match="reason"):
        await world.control.pause("t", reason=reason)
    assert (await world.control.trigger("t"))["paused"] == []


async def test_resuming_goes_on_from_now(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    await world.control.pause("t")
    world.clock.turn(2 * HOUR + MINUTE)
    resumed = await world.control.resume("t")
    assert resumed["next_at"] == NOON + 3 * HOUR
    assert await skips(world) == [("paused", HOUR, 2 * HOUR, 2)]
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


@pytest.mark.parametrize("accounted", [False, True])
async def test_resuming_with_catch_up_runs_the_last_occurrence_of_the_pause(world: World, accounted: bool) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    peer = await world.peer()
    await world.control.pause("t")
    for _ in range(2):
        world.clock.turn(HOUR)
        if accounted:
            await peer.planner.run_once()
            world.clock.turn(SECOND)
    if accounted:
        await world.admin.execute("UPDATE tocsin.triggers SET wake_at = next_at")
        await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    resumed = await world.control.resume("t", catch_up=CatchUp.LATEST)
    assert resumed["next_at"] == NOON + 3 * HOUR
    run = await world.row("SELECT * FROM tocsin.runs")
    assert (run["nominal_at"], run["lane"], run["kind"]) == (NOON + 2 * HOUR, "late", "schedule")


@pytest.mark.parametrize("accounted", [False, True])
async def test_a_one_shot_of_the_pause_can_be_caught_up(world: World, accounted: bool) -> None:
    await world.declare(a_trigger(schedule=at(NOON + MINUTE)))
    peer = await world.peer()
    await world.control.pause("t")
    world.clock.turn(2 * MINUTE)
    if accounted:
        await peer.planner.run_once()
    resumed = await world.control.resume("t", catch_up=CatchUp.LATEST)
    assert resumed["status"] == "ended"
    assert await world.value("SELECT nominal_at FROM tocsin.runs") == NOON + MINUTE


async def test_resuming_with_all_is_a_backfill(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    await world.control.pause("t")
    with pytest.raises(BadInput, match="trigger backfill"):
        await world.control.resume("t", catch_up=CatchUp.ALL)


# --- editing, adding, deleting


async def test_an_edit_of_a_version_that_moved_on_is_refused(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))

    def urgent(spec: TriggerSpec) -> TriggerSpec:
        return dataclasses.replace(spec, priority=9)

    edited = await world.control.edit_trigger("t", urgent, if_version=1)
    assert edited["version"] == 2
    with pytest.raises(Conflict, match="is at version 2, not 1"):
        await world.control.edit_trigger("t", urgent, if_version=1)
    with pytest.raises(BadInput, match="cannot be renamed"):
        await world.control.edit_trigger("t", lambda spec: dataclasses.replace(spec, name="u"))
    with pytest.raises(NotFound, match="no trigger 'x'"):
        await world.control.edit_trigger("x", urgent)
    assert (await trigger(world))["version"] == 2


async def test_an_edit_is_not_retroactive(world: World) -> None:
    """A schedule that would have been due long ago creates nothing before its commit."""
    await world.declare(a_trigger(schedule=HOURLY))
    peer = await world.peer()
    world.clock.turn(30 * MINUTE)
    await world.control.edit_trigger("t", lambda spec: dataclasses.replace(spec, schedule=every("1m")))
    await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    assert (await trigger(world))["next_at"] == NOON + 31 * MINUTE


async def test_a_claimed_run_keeps_the_input_it_was_queued_with(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY, input="old"))
    peer = await world.peer(lease=HOUR)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    await world.control.edit_trigger("t", lambda spec: dataclasses.replace(spec, input="new"))
    assert (await peer.claim_one()).input == '"old"'


async def test_a_trigger_added_by_hand_is_not_pruned_by_an_app(world: World) -> None:
    await world.control.declare(an_app(source="a.py"))
    added = await world.control.add_trigger(a_trigger(schedule=HOURLY))
    assert (added["source"], added["next_at"]) == ("by hand", NOON + HOUR)
    with pytest.raises(Conflict, match="exists already"):
        await world.control.add_trigger(a_trigger())
    with pytest.raises(NotFound, match="no agent 'nobody'"):
        await world.control.add_trigger(a_trigger("u", agent="nobody"))
    await world.control.declare(an_app(source="a.py"), prune=True)
    assert (await world.control.trigger("t"))["status"] == "armed"


async def test_deleting_withdraws_what_waits_and_lets_what_runs_end(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer()
    await world.queue(at=-SECOND)
    held = await peer.claim_one()
    await world.queue()
    await world.queue(kind="manual")
    assert (await world.control.delete_trigger("t"))["withdrawn"] == 2
    with pytest.raises(NotFound):
        await world.control.trigger("t")
    world.clock.turn(5 * MINUTE)
    await peer.leases.renew([], lease=MINUTE)
    await peer.planner.run_once()
    assert await peer.settle(an_end(held)) == {held.run_id}
    states = await world.rows("SELECT state, count(*) FROM tocsin.runs GROUP BY 1 ORDER BY 1")
    assert [(row["state"], row["count"]) for row in states] == [("skipped", 2), ("succeeded", 1)]
    assert len(await world.control.runs(limit=10)) == 3


async def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(world: World) -> None:
    await world.declare(a_trigger("backup"))
    with pytest.raises(NotFound, match="did you mean 'backup'"):
        await world.control.trigger("bakcup")


# --- firing


async def test_firing_twice_with_a_key_gives_one_run(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY, input="its own"))
    first = await world.control.fire("t", key="k", input={"n": 1})
    world.clock.turn(MINUTE)
    again = await world.control.fire("t", key="k", input={"n": 2})
    assert (again["id"], again["input"]) == (first["id"], {"n": 1})
    other = await world.control.fire("t", key="l")
    assert other["id"] != first["id"]
    assert (other["input"], other["kind"], other["nominal_at"]) == ("its own", "manual", NOON + MINUTE)
    assert await world.trail(other["id"]) == [(None, "queued", "manual")]
    assert (await trigger(world))["next_at"] == NOON + HOUR


async def test_the_same_key_from_many_at_once_gives_one_run(world: World) -> None:
    await world.declare(a_trigger())
    fired = await asyncio.gather(*(world.control.fire("t", key="k") for _ in range(8)))
    assert len({run["id"] for run in fired}) == 1
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1


async def test_firing_keeps_the_newest_of_those_that_wait(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.control.fire("t")
    held = await peer.claim_one()
    world.clock.turn(SECOND)
    older = (await world.control.fire("t"))["id"]
    world.clock.turn(SECOND)
    newer = (await world.control.fire("t"))["id"]
    await peer.settle(an_end(held))
    claimed = await peer.claim()
    assert [assignment.run_id for assignment in claimed.assignments] == [newer]
    assert [skipped.run_id for skipped in claimed.skipped] == [older]


async def test_a_payload_that_cannot_be_stored_is_refused_before_anything_is_written(world: World) -> None:
    await world.declare(a_trigger())
    with pytest.raises(PayloadTooLarge, match="input is 1,048,578 bytes"):
        await world.control.fire("t", input="x" * 1024 * 1024)
    with pytest.raises(BadInput, match="NUL"):
        await world.control.fire("t", input="\0")
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


# --- backfill


async def test_a_dry_backfill_counts_and_writes_nothing(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    told = await world.control.backfill("t", NOON - 3 * HOUR, NOON, dry_run=True)
    assert (told["count"], told["id"], told["dry_run"]) == (4, None, True)
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


async def test_a_backfill_runs_one_at_a_time_in_order_in_the_late_lane(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY, overlap=Overlap.ALLOW))
    peer = await world.peer()
    await world.control.backfill("t", NOON - 2 * HOUR, NOON)
    order = []
    for _ in range(3):
        claimed = await peer.claim(late=10)
        assert len(claimed.assignments) == 1
        order.append(claimed.assignments[0].nominal_at)
        await peer.settle(an_end(claimed.assignments[0]))
    assert order == [NOON - 2 * HOUR, NOON - HOUR, NOON]
    kinds = await world.rows("SELECT DISTINCT kind, lane FROM tocsin.runs")
    assert [(row["kind"], row["lane"]) for row in kinds] == [("backfill", "late")]


async def test_a_backfill_runs_again_what_has_run_already(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    await world.queue()
    await world.control.backfill("t", NOON, NOON)
    await world.control.backfill("t", NOON, NOON)
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE nominal_at = $1", NOON) == 3


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (NOON, NOON - HOUR, "in order"),
        (NOON, NOON + HOUR, "future"),
        (NOON - timedelta(days=365), NOON, "more than 1000"),
    ],
)
async def test_a_backfill_beyond_its_bounds_is_refused(world: World, since: Any, until: Any, said: str) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    with pytest.raises(BadInput, match=said):
        await world.control.backfill("t", since, until)
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


async def test_a_trigger_without_a_schedule_has_nothing_to_backfill(world: World) -> None:
    await world.declare(a_trigger())
    with pytest.raises(BadInput, match="no schedule"):
        await world.control.backfill("t", NOON - HOUR, NOON)


async def test_cancelling_a_backfill_leaves_what_runs_and_other_backfills_alone(world: World) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    peer = await world.peer()
    one = await world.control.backfill("t", NOON - 2 * HOUR, NOON)
    claimed = await peer.claim(late=1)
    two = await world.control.backfill("t", NOON - HOUR, NOON)
    assert (await world.control.cancel_backfill("t", one["id"]))["cancelled"] == 2
    states = await world.rows("SELECT state, count(*) FROM tocsin.runs GROUP BY 1 ORDER BY 1")
    assert [(row["state"], row["count"]) for row in states] == [("cancelled", 2), ("queued", 2), ("running", 1)]
    await peer.settle(an_end(claimed.assignments[0]))
    assert (await world.control.cancel_backfill("t", two["id"]))["cancelled"] == 2
    assert (await world.control.cancel_backfill("t", two["id"]))["cancelled"] == 0
    with pytest.raises(NotFound, match=r"no backfill .*see `tocsin run list --trigger t`"):
        await world.control.cancel_backfill("t", str(UUID(int=1)))


# --- runs


async def test_a_queued_run_is_cancelled_at_once_and_a_running_one_is_asked(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    running, queued = await world.queue(at=-SECOND), await world.queue(at=SECOND)
    await peer.claim_one()
    assert (await world.control.cancel_run(queued))["state"] == "cancelled"
    assert await world.trail(queued) == [(None, "queued", "due"), ("queued", "cancelled", "cancelled")]
    asked = await world.control.cancel_run(running)
    assert (asked["state"], asked["cancel_requested_at"]) == ("running", NOON)
    world.clock.turn(SECOND)
    assert (await world.control.cancel_run(running))["cancel_requested_at"] == NOON
    with pytest.raises(Conflict, match="already ended as cancelled"):
        await world.control.cancel_run(queued)
    with pytest.raises(NotFound):
        await world.control.cancel_run(uuid4())


async def test_retrying_an_ended_run_makes_a_new_one_with_its_input(world: World) -> None:
    await world.declare(a_trigger(input="the trigger's"))
    peer = await world.peer()
    run_id = await world.queue(input='{"n": 1}')
    with pytest.raises(Conflict, match="once it has ended"):
        await world.control.retry_run(run_id)
    held = await peer.claim_one()
    await peer.settle(an_end(held, RunState.FAILED, reason="error"))
    again = await world.control.retry_run(run_id)
    assert (again["input"], again["kind"], again["state"]) == ({"n": 1}, "manual", "queued")
    assert (await world.run(run_id))["state"] == "failed"


async def test_listing_pages_newest_first(world: World) -> None:
    await world.declare(a_trigger(), a_trigger("u"))
    ids = [(await world.control.fire("t" if n % 2 else "u"))["id"] for n in range(6)]
    first = await world.control.runs(limit=4)
    rest = await world.control.runs(limit=4, before=first[-1]["id"])
    assert [run["id"] for run in first + rest] == ids[::-1]
    assert [run["id"] for run in await world.control.runs(limit=9, trigger="u")] == ids[::2][::-1]
    assert await world.control.runs(limit=9, states=[RunState.RUNNING]) == []


# --- why


async def test_why_answers_from_recorded_decisions(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY, catch_up=CatchUp.SKIP))
    peer = await world.peer(lease=HOUR)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    held = await peer.claim_one()
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    await peer.claim()
    await peer.settle(an_end(held))
    world.clock.turn(30 * MINUTE + 30 * SECOND)
    await peer.planner.run_once()
    told = await world.control.why("t")
    decisions = [(d["at"] - NOON, d["decision"], d["reason"], d["count"]) for d in told["decisions"]]
    assert decisions == [
        (32 * MINUTE, "queued", "", 1),
        (3 * MINUTE, "skipped", "missed", 29),
        (2 * MINUTE, "skipped", "overlap", 1),
        (MINUTE, "succeeded", "", 1),
    ]
    assert told["standing"][0] == "It is armed; its next instant is 2026-03-01 12:33:00 UTC."
    assert any("has 1 queued, 0 running" in line for line in told["standing"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE tocsin.triggers SET paused = '{user}', paused_at = now()", "It is paused since"),
        (
            "UPDATE tocsin.triggers SET status = 'broken', broken_reason = 'odd', wake_at = NULL",
            "It is quarantined and fires nothing: odd",
        ),
        ("UPDATE tocsin.triggers SET status = 'ended', wake_at = NULL", "no further instant"),
        ("UPDATE tocsin.triggers SET status = 'manual', wake_at = NULL", "runs when fired"),
        ("UPDATE tocsin.triggers SET status = 'waiting', wake_at = NULL", "counts from the end"),
        ("UPDATE tocsin.triggers SET wake_at = wake_at - interval '2 hours'", "no replica has taken it up"),
    ],
)
async def test_why_tells_how_a_trigger_stands(world: World, change: str, said: str) -> None:
    await world.declare(a_trigger(schedule=HOURLY))
    await world.admin.execute(change)
    lines = (await world.control.why("t"))["standing"]
    assert said in lines[0]
    assert any("No live replica or instance serves agent 'agent'" in line for line in lines)


async def test_the_summary_adds_up(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY, catch_up=CatchUp.SKIP))
    peer = await world.peer()
    world.clock.turn(10 * MINUTE)
    await peer.leases.renew([], lease=HOUR)
    await peer.planner.run_once()
    world.clock.turn(2)
    claimed = await peer.claim()
    await peer.settle(*(an_end(assignment) for assignment in claimed.assignments))
    told = await world.control.summary(NOON - HOUR)
    assert (told["occurrences"], told["succeeded"]) == (2, 1)
    assert told["skipped"] == {"missed": 8, "overlap": 1}
    assert told["lateness"]["max"] == pytest.approx(62)


async def test_what_nobody_knows_is_not_found(world: World) -> None:
    control = world.control
    for ask in (
        control.trigger("x"), control.pause("x"), control.resume("x"), control.delete_trigger("x"), control.fire("x"),
        control.backfill("x", NOON, NOON), control.run(UUID(int=1)), control.why("x"), control.agent("x"),
        control.replica("x"), control.retry_run(UUID(int=1)), control.cancel_backfill("x", str(UUID(int=1))),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await ask
