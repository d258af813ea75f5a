"""What once went wrong between a claim and its end, or between two holders, and must not again."""

import asyncio
from random import Random
from uuid import UUID

import asyncpg

from tests.engine.building import (
    MINUTE,
    SECOND,
    Heard,
    Scripted,
    World,
    a_replica,
    a_trigger,
    an_end,
    eventually,
    no_agent,
)
from tocsin.domain.run import FollowUp, RunState, Succeeded
from tocsin.domain.trigger import Overlap
from tocsin.run import Run
from tocsin.store.database import Database


async def test_a_result_fenced_by_our_own_sweep_is_kept_apart(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue()
    held = await peer.claim_one()
    await peer.sweep(peer.who.holder)
    assert await peer.settle(an_end(held, output=b'"late"')) == set()
    assert (await world.run(run_id))["state"] == "queued"
    assert await world.value("SELECT output FROM tocsin.late_results") == '"late"'


async def test_a_cancel_outlives_an_attempt_that_fails_by_itself(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(max_attempts=3)
    held = await peer.claim_one()
    assert await peer.runs.cancel(run_id, reason="cancelled") == ("running", "running")
    end = an_end(held, RunState.QUEUED, reason="retry")
    assert await peer.settle(end) == {run_id}
    assert (await world.run(run_id))["state"] == "cancelled"
    assert (await world.trail(run_id))[-1] == ("running", "cancelled", "cancelled")


async def test_a_key_of_any_length_limits_and_excludes_like_any_other(world: World) -> None:
    # Random, because what compresses well would fit into an index by luck.
    long = Random(1).randbytes(16_000).hex()
    await world.declare(
        a_trigger(input={"doc": long}, overlap=Overlap.SKIP, overlap_scope="input.doc"),
        a_trigger("other", agent="other"),
        agents=("agent", "other"),
        concurrency=1,
        concurrency_key="doc",
    )
    peer = await world.peer()
    first, second = await world.control.fire("t"), await world.control.fire("t")
    other = await world.control.fire("other")
    claimed = await peer.claim()
    assert [held.run_id for held in claimed.assignments] in ([first["id"]], [second["id"]])
    assert [held.run_id for held in (await peer.claim("other")).assignments] == [other["id"]]
    assert len(await world.value("SELECT scope FROM tocsin.runs WHERE id = $1", first["id"])) < 200


async def test_more_runs_of_a_dead_holder_than_a_batch_need_no_second_proof(world: World) -> None:
    await world.declare(a_trigger())
    peer, sweeper = await world.peer(), await world.peer()
    for n in range(3):
        await world.queue(at=-n * SECOND)
    assert len((await peer.claim()).assignments) == 3
    first = await sweeper.runs.sweep(dead_holders=[peer.who.holder], by_lease=False, batch=2)
    rest = await sweeper.runs.sweep(dead_holders=[], by_lease=False, batch=2)
    assert (len(first), len(rest)) == (2, 1)


async def test_a_deleted_trigger_runs_no_more_retries_and_follow_ups(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    retried = await world.queue(at=-SECOND, max_attempts=3)
    await peer.settle(an_end(await peer.claim_one(), RunState.QUEUED, reason="retry", delay=MINUTE))
    running = await world.queue()
    held = await peer.claim_one()
    await world.control.delete_trigger("t")
    await peer.settle(an_end(held, follow_ups=(FollowUp(None, SECOND, "null"),)))
    states: dict[UUID, str] = {row["id"]: row["state"] for row in await world.rows("SELECT id, state FROM tocsin.runs")}
    assert states == {retried: "cancelled", running: "succeeded"}


async def test_a_lowered_limit_holds_while_higher_permits_are_still_held(world: World) -> None:
    await world.declare(a_trigger(), concurrency=5)
    peer = await world.peer()
    for n in range(5):
        await world.queue(at=-n * SECOND)
    held = (await peer.claim()).assignments
    by_permit = {row["permit"]: row["id"] for row in await world.rows("SELECT id, permit FROM tocsin.runs")}
    await peer.settle(*(an_end(one) for one in held if one.run_id != by_permit[4]))
    await world.declare(a_trigger(), concurrency=2)
    for n in range(5):
        await world.queue(at=n * -SECOND - MINUTE)
        await world.queue(at=n * -SECOND - 2 * MINUTE, lane="late")
    await peer.claim(late=5)
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE state = 'running'") == 2


async def test_a_lock_that_another_session_holds_is_not_advertised(world: World) -> None:
    peer = await world.peer()
    former = Database(world.dsn, size=1)
    row = await former.fetchrow("hold_lock", holder=peer.who.holder)
    assert row is not None
    assert row["held"] is True
    assert await world.value("SELECT lock_key IS NOT NULL FROM tocsin.leases") is True
    assert not await peer.leases.hold_lock()
    assert await world.value("SELECT lock_key FROM tocsin.leases") is None
    await former.close()


async def test_work_that_queues_behind_what_was_begun_with_its_insert_begins_when_that_ends(world: World) -> None:
    """No look comes to help: the end of whatever fills the slots makes room."""
    begun: list[str] = []
    go_on = asyncio.Event()

    async def agent(run: Run) -> None:
        begun.append(run.id)
        await go_on.wait()

    await world.declare(a_trigger(overlap=Overlap.ALLOW), agents={"agent": agent})
    async with a_replica(world.dsn, {"agent": agent}, slots=1, poll_every=600, lease=30) as replica:
        control = replica.control("test")
        # The first tells whose trigger it is; from then on a slot is kept.
        await control.fire("t")
        await eventually(lambda: len(begun) == 1)
        go_on.set()
        [runner] = replica.runners
        await eventually(lambda: not len(replica.hands) and not runner.claiming and not runner._saturated)
        go_on.clear()
        first = await control.fire("t")
        second = await control.fire("t")
        assert (first["state"], second["state"]) == ("running", "queued")
        await eventually(lambda: len(begun) == 2)
        go_on.set()
        await eventually(lambda: len(begun) == 3)


async def test_a_runner_that_had_no_slot_is_woken_by_the_next_end(world: World) -> None:
    """Whoever filled the slot: here it was kept for an insert, so no claim has seen that work may be queued."""
    await world.declare(a_trigger())
    executor = Scripted(slots=1)
    peer = await world.peer(executor=executor)
    woken: list[bool] = []
    peer.runner._wake = lambda: woken.append(True)
    await world.queue()
    [assignment] = (await peer.claim()).assignments
    assert peer.runner.keep()
    peer.runner.begin([assignment])
    peer.runner.give_back(1)
    assert not await peer.runner.run_once()
    assert not woken
    await asyncio.sleep(0)
    await executor.end_all(Succeeded(b"1"))
    assert woken == [True]


async def test_a_fire_that_a_peer_was_before_unseen_queues_behind_it(world: World) -> None:
    await world.declare(a_trigger())
    async with a_replica(world.dsn, {"agent": no_agent}) as replica:
        control = replica.control("test")
        await control.fire("t")
        await eventually(lambda: world.value("SELECT state = 'succeeded' FROM tocsin.runs"))
        rival = await asyncpg.connect(world.dsn)
        try:
            held = rival.transaction()
            await held.start()
            await rival.execute(
                "INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, lane,"
                " priority, overlap, scope, available_at, max_attempts, input, queued_at, asked_by, state, holder,"
                " claimed_by, fence, attempt, seq, started_at)"
                " SELECT gen_random_uuid(), t.id, 1, t.agent, 'schedule', now(), now(), 'live', 5, 'skip', t.id::text,"
                " now(), 1, 'null', now(), 'rival', 'running', p.id, p.id, 1, 1, 2, now()"
                " FROM tocsin.triggers t, tocsin.replicas p"
            )
            fire = asyncio.create_task(control.fire("t"))
            await eventually(lambda: world.value("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))
            await held.commit()
            assert (await fire)["state"] == "queued"
        finally:
            await rival.close()


async def test_what_is_about_to_begin_is_no_stray(world: World) -> None:
    await world.declare(a_trigger())
    async with a_replica(world.dsn, {"agent": no_agent}) as replica:
        [runner] = replica.runners
        assert runner.keep()
        replica._give_back([(UUID(int=7), 1)])
        assert not len(replica.settler)
        runner.give_back(1)
        replica._give_back([(UUID(int=7), 1)])
        assert len(replica.settler) == 1


async def test_many_asked_for_with_one_key_twice_are_told_apart(world: World) -> None:
    await world.declare(a_trigger())
    fired = await world.control.fire_many("t", [("k", 1), ("k", 2), ("z", 3), (None, 4)])
    assert [run["created"] for run in fired].count(True) == 3
    assert fired[0]["id"] == fired[1]["id"]
    assert len({run["id"] for run in fired}) == 3
    again = await world.control.fire_many("t", [("z", 3), ("new", 5)])
    assert [run["created"] for run in again] == [False, True]
    assert again[0]["id"] == fired[2]["id"]


async def test_a_row_that_the_database_refuses_to_claim_holds_up_its_own_agent_only(world: World) -> None:
    agents = {"bad": no_agent, "good": no_agent}
    await world.declare(a_trigger("b", agent="bad", priority=9), a_trigger("g", agent="good"), agents=agents)
    await world.admin.execute("ALTER TABLE tocsin.runs ADD CHECK (NOT (agent = 'bad' AND state = 'running'))")
    log = Heard()
    bad = (await world.control.fire("b"))["id"]
    good = (await world.control.fire("g"))["id"]

    async def has_run() -> bool:
        return bool((await world.run(good))["state"] == "succeeded")

    async with a_replica(world.dsn, agents, log=log):
        await eventually(has_run)
    assert (await world.run(bad))["state"] == "queued"
    assert log.count("claim.refused") > 0
