"""What a replica asks of the database: the same for a hundred as for ten thousand, and next to nothing when idle."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.engine.building import Scripted, World, a_replica, a_trigger, an_app, eventually, no_agent
from tocsin import cron
from tocsin.clock import SystemClock
from tocsin.domain.run import Succeeded
from tocsin.engine.control import Control
from tocsin.hub import Replica
from tocsin.store.database import Database


async def armed(world: World, count: int, **policy: Any) -> None:
    """So many triggers, none of which is due for a long time."""
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(an_app(*(a_trigger(f"t{n}", cron("0 0 1 1 *")) for n in range(count)), **policy))


async def make_due(world: World) -> None:
    """Every trigger is due now, written behind the replica's back."""
    await world.admin.execute("UPDATE tocsin.triggers SET next_at = date_trunc('second', now()), wake_at = now()")


@pytest.mark.parametrize("count", [100, 10_000])
async def test_a_batch_of_the_whole_path_costs_the_same_statements(world: World, count: int) -> None:
    """Planned, claimed and settled: with a batch as large as what is due, each is a fixed number of statements."""
    await armed(world, count)
    executor = Scripted(slots=2 * count)
    database = Database(world.dsn)
    try:
        await database.open()
        peer = await world.peer(executor=executor)
        for part in (peer.attempts, peer.triggers):
            part._database = database  # counted by itself
        peer.planner._database = database
        peer.planner._batch = peer.runner._batch = count
        world.clock.turn(0)
        await world.admin.execute(
            "UPDATE tocsin.triggers SET next_at = $1::timestamptz, wake_at = $1::timestamptz", world.clock.now()
        )
        costs: dict[str, int] = {}
        before = database.calls
        assert await peer.planner.run_once()
        costs["planner"], before = database.calls - before, database.calls
        await peer.runner.run_once()
        costs["runner"], before = database.calls - before, database.calls
        await asyncio.sleep(0)
        assert len(executor.in_hand) == count
        await executor.end_all(Succeeded(b"1"))
        while await peer.settler.run_once():
            pass
        costs["settler"] = database.calls - before
        assert await world.value("SELECT count(*) FROM tocsin.runs WHERE state = 'succeeded'") == count
        # BEGIN, lock, write, COMMIT; one claim; one settlement for every 500.
        assert costs == {"planner": 4, "runner": 1, "settler": -(-count // 500)}
    finally:
        await database.close()


async def test_ten_thousand_due_at_once_cost_a_whole_replica_no_statement_each(world: World) -> None:
    done: Counter[str] = Counter()

    async def agent() -> None:
        done["runs"] += 1

    costs = {}
    for count in (100, 10_000):
        await world.admin.execute("TRUNCATE tocsin.triggers, tocsin.runs, tocsin.occurrences")
        await armed(world, count)
        done.clear()
        async with a_replica(world.dsn, {"agent": agent}, slots=1_000, poll_every=0.2) as replica:
            await eventually(lambda replica=replica: replica.ready)
            before = replica.statements
            await make_due(world)
            await eventually(lambda count=count: done["runs"] == count)

            async def settled(count: int = count) -> bool:
                return bool(await world.value("SELECT count(*) = $1 FROM tocsin.runs WHERE state = 'succeeded'", count))

            await eventually(settled)
            costs[count] = replica.statements - before
    assert costs[10_000] < 10_000 / 10, costs


async def test_an_idle_replica_asks_less_than_thirty_times_a_minute(world: World) -> None:
    """With the settings that a user gets, the keeper's session and the listener's included."""
    await armed(world, 1_000)
    seconds = 20.0
    loop = asyncio.get_running_loop()
    async with a_replica(
        world.dsn, {"agent": no_agent}, lease=30, renew_every=5, poll_every=5, sweep_every=5
    ) as replica:
        await eventually(lambda: replica.ready)
        # Its first steps are not idleness.
        await _rests(replica)
        calls, began = replica.statements, loop.time()
        await _until(lambda: loop.time() - began >= seconds)
        calls = replica.statements - calls
        took = loop.time() - began
    assert calls * 60 / took < 30, f"{calls} statements in {took:.0f} s"


async def test_a_replica_that_watches_a_peer_asks_little_too(world: World) -> None:
    """While a peer has work in hand its lock is probed: one statement more every 0.8 seconds."""
    await armed(world, 10)
    let_go = asyncio.Event()

    async def agent() -> None:
        await let_go.wait()

    control = Control(database=world.database, clock=SystemClock(), actor="test")
    slow: dict[str, Any] = {"lease": 30, "renew_every": 5, "poll_every": 5, "sweep_every": 5}
    loop = asyncio.get_running_loop()
    async with a_replica(world.dsn, {"agent": agent}, **slow) as busy:
        await control.fire("t0")
        await eventually(lambda: len(busy.hands) == 1)
        async with a_replica(world.dsn, {"other": no_agent}, **slow) as watching:
            await _rests(watching)
            calls, began = watching.statements, loop.time()
            await _until(lambda: loop.time() - began >= 8)
            calls = watching.statements - calls
            took = loop.time() - began
        let_go.set()
    assert calls <= took / 0.8 + took / 5 * 5, calls


async def _rests(replica: Replica) -> None:
    """The replica has sent nothing for half a second."""
    loop = asyncio.get_running_loop()
    seen, since = replica.statements, loop.time()

    def quiet() -> bool:
        nonlocal seen, since
        if replica.statements != seen:
            seen, since = replica.statements, loop.time()
        return loop.time() - since > 0.5

    await eventually(quiet)


async def _until(condition: Any) -> None:
    await eventually(condition, within=60)
