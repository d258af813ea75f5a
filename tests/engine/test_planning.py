"""The planner's step on a real database: locked, decided, inserted, moved on, in one transaction."""

import asyncio
from datetime import timedelta

import pytest

from tests.engine.building import DEADLINE, MINUTE, NOON, SECOND, World, a_trigger, an_end
from tocsin import at, cron, every
from tocsin.domain import planning
from tocsin.domain.errors import StatementRefused
from tocsin.domain.trigger import CatchUp, Overlap
from tocsin.engine.desk import Kept
from tocsin.engine.planner import Planner
from tocsin.store.database import Database

HOUR = timedelta(hours=1)
MINUTELY = cron("* * * * *")


async def test_a_due_trigger_becomes_a_run_with_its_policy(world: World) -> None:
    await world.declare(
        a_trigger(schedule=MINUTELY, input={"repo": "x"}, priority=8, expires_after=HOUR),
        deadline=2 * HOUR,
        max_attempts=4,
    )
    peer = await world.peer()
    await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    world.clock.turn(MINUTE + SECOND)
    await peer.planner.run_once()
    run = await world.row("SELECT * FROM tocsin.runs")
    due = NOON + MINUTE
    assert (run["nominal_at"], run["effective_at"], run["available_at"], run["queued_at"]) == (
        due,
        due,
        due,
        due + SECOND,
    )
    assert (run["kind"], run["lane"], run["priority"], run["max_attempts"]) == ("schedule", "live", 8, 4)
    assert (run["not_after"], run["deadline_at"]) == (due + HOUR, due + SECOND + 2 * HOUR)
    assert (run["overlap"], run["scope"], run["input"]) == ("skip", str(run["trigger_id"]), '{"repo": "x"}')
    assert await world.trail(run["id"]) == [(None, "queued", "due")]
    row = await world.row("SELECT next_at, wake_at FROM tocsin.triggers")
    assert (row["next_at"], row["wake_at"]) == (NOON + 2 * MINUTE, NOON + 2 * MINUTE)


async def test_the_scope_of_overlap_is_the_trigger_the_agent_or_a_part_of_the_input(world: World) -> None:
    await world.declare(
        a_trigger("own", MINUTELY),
        a_trigger("agents", MINUTELY, overlap_scope="agent"),
        a_trigger("parts", MINUTELY, overlap_scope="input.repo.name", input={"repo": {"name": "x"}}),
        a_trigger("missing", MINUTELY, overlap_scope="input.repo.name", input=7),
        a_trigger("free", MINUTELY, overlap=Overlap.ALLOW),
    )
    peer = await world.peer()
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    rows = await world.rows(
        "SELECT t.name, t.id, r.scope FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id"
    )
    scopes = {row["name"]: row["scope"] for row in rows}
    assert scopes == {
        "own": str(next(row["id"] for row in rows if row["name"] == "own")),
        "agents": "agent:agent",
        "parts": "agent:agent:input.repo.name=x",
        "missing": "agent:agent:input.repo.name=",
        "free": None,
    }


async def test_planners_at_once_give_each_occurrence_one_decision(world: World) -> None:
    await world.declare(*(a_trigger(f"t{n}", MINUTELY) for n in range(50)))
    peers = [await world.peer() for _ in range(4)]
    for _ in range(5):
        world.clock.turn(MINUTE)
        await asyncio.gather(*(peer.planner.run_once() for peer in peers for _ in range(2)))
    counts = await world.row(
        "SELECT count(*) AS runs, count(DISTINCT (trigger_id, nominal_at)) AS occurrences FROM tocsin.runs"
    )
    assert (counts["runs"], counts["occurrences"]) == (250, 250)
    assert await world.value("SELECT count(DISTINCT next_at) FROM tocsin.triggers") == 1


async def test_an_occurrence_that_is_there_already_moves_the_cursor_on(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer()
    await world.queue(at=MINUTE)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1
    assert await world.value("SELECT next_at FROM tocsin.triggers") == NOON + 2 * MINUTE


async def test_a_step_that_fails_midway_leaves_no_half_decision(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer()
    world.clock.turn(MINUTE)
    await world.admin.execute("""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON tocsin.triggers FOR EACH ROW EXECUTE FUNCTION public.refuse();
    """)
    async with world.database.transaction() as session:
        now, due = await peer.triggers.lock_due(session, batch=10)
        assert now == NOON + MINUTE
        decisions = [peer.planner.decide(trigger, now, Kept(None)) for trigger in due]
    with pytest.raises(StatementRefused):
        async with world.database.transaction() as session:
            await peer.triggers.materialise(session, decisions)
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    assert await world.value("SELECT next_at FROM tocsin.triggers") == NOON + MINUTE


async def test_more_than_a_batch_is_due_in_steps(world: World) -> None:
    await world.declare(*(a_trigger(f"t{n}", MINUTELY) for n in range(25)))
    peer = await world.peer()
    planner = Planner(
        database=world.database,
        triggers=peer.triggers,
        clock=world.clock,
        time=peer.time,
        log=peer.log,
        batch=10,
        fired=lambda: None,
    )
    world.clock.turn(MINUTE)
    assert [await planner.run_once() for _ in range(3)] == [True, True, False]
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 25
    assert planner.rest() == pytest.approx(60, abs=0.01)


async def test_a_long_gap_is_one_row_however_many_steps_it_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "WALK", 500)
    await world.declare(a_trigger(schedule=MINUTELY, catch_up=CatchUp.SKIP), a_trigger("s", every("1s")))
    peer = await world.peer()
    world.clock.turn(timedelta(days=3))
    for _ in range(20):
        await peer.planner.run_once()
    rows = await world.rows(
        "SELECT t.name, s.reason, s.first_at, s.count FROM tocsin.skips s "
        "JOIN tocsin.triggers t ON t.id = s.trigger_id ORDER BY t.name DESC"
    )
    assert [(row["name"], row["reason"], row["first_at"]) for row in rows] == [
        ("t", "missed", NOON + MINUTE),
        ("s", "missed", NOON + SECOND),
    ]
    minutes, seconds = 3 * 24 * 60, 3 * 24 * 3600
    runs = {
        row["name"]: row["count"]
        for row in await world.rows(
            "SELECT t.name, count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id GROUP BY 1"
        )
    }
    assert rows[0]["count"] + runs["t"] == minutes
    assert rows[1]["count"] + runs["s"] == seconds
    assert (runs["t"], runs["s"]) == (2, 61)


async def test_what_was_missed_enters_by_the_late_lane(world: World) -> None:
    await world.declare(a_trigger(schedule=cron("0 * * * *"), catch_up=CatchUp.ALL, catch_up_window=24 * HOUR))
    peer = await world.peer()
    world.clock.turn(3 * HOUR)
    await peer.planner.run_once()
    rows = await world.rows("SELECT nominal_at, lane FROM tocsin.runs ORDER BY 1")
    assert [(row["nominal_at"] - NOON, row["lane"]) for row in rows] == [
        (HOUR, "late"),
        (2 * HOUR, "late"),
        (3 * HOUR, "live"),
    ]
    assert await world.value("SELECT count(*) FROM tocsin.transitions WHERE reason = 'caught_up'") == 2


async def test_a_one_shot_fires_once_and_is_ended(world: World) -> None:
    await world.declare(a_trigger(schedule=at(NOON + MINUTE)))
    peer = await world.peer()
    world.clock.turn(MINUTE)
    for _ in range(3):
        await peer.planner.run_once()
        world.clock.turn(HOUR)
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1
    assert await world.value("SELECT status FROM tocsin.triggers") == "ended"


async def test_what_counts_from_the_end_is_armed_again_by_the_end(world: World) -> None:
    await world.declare(a_trigger(schedule=every("10m", after_completion=True)))
    peer = await world.peer(lease=HOUR)
    first = await world.value("SELECT next_at FROM tocsin.triggers")
    world.clock.turn(first - NOON)
    await peer.planner.run_once()
    held = await peer.claim_one()
    assert await world.value("SELECT status FROM tocsin.triggers") == "waiting"
    world.clock.turn(3 * MINUTE)
    assert await peer.triggers.rearm(batch=10) == 0
    await peer.settle(an_end(held))
    ended = world.clock.now()
    world.clock.turn(SECOND)
    assert await peer.triggers.rearm(batch=10) == 1
    row = await world.row("SELECT status, next_at, wake_at FROM tocsin.triggers")
    assert (row["status"], row["next_at"], row["wake_at"]) == ("armed", ended + 10 * MINUTE, ended + 10 * MINUTE)


async def test_what_a_peer_has_locked_is_left_to_it(world: World) -> None:
    await world.declare(a_trigger("locked", MINUTELY), a_trigger("free", MINUTELY))
    peer = await world.peer()
    world.clock.turn(MINUTE)
    async with world.admin.transaction():
        await world.admin.fetch("SELECT FROM tocsin.triggers WHERE name = 'locked' FOR UPDATE")
        async with asyncio.timeout(DEADLINE):
            await peer.planner.run_once()
        assert await world.value("SELECT count(*) FROM tocsin.runs") == 1
    await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 2


@pytest.mark.parametrize("count", [100, 10_000])
async def test_a_batch_costs_the_same_statements_however_many_triggers_are_due(world: World, count: int) -> None:
    await world.declare(*(a_trigger(f"t{n}", MINUTELY) for n in range(count)))
    database = Database(world.dsn)
    try:
        peer = await world.peer()
        planner = Planner(
            database=database,
            triggers=type(peer.triggers)(database=database, clock=world.clock, who=peer.who),
            clock=world.clock,
            time=peer.time,
            log=peer.log,
            batch=count,
            fired=lambda: None,
        )
        world.clock.turn(MINUTE)
        await database.open()
        before = database.calls
        await planner.run_once()
        # BEGIN, lock, write, COMMIT.
        assert database.calls - before == 4
        assert await world.value("SELECT count(*) FROM tocsin.runs") == count
    finally:
        await database.close()
