"""A drain: no new work, work in hand goes on under a renewed lease, what does not end is given back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.engine.building import DEADLINE, PATIENCE, Heard, Scripted, World, a_replica, a_trigger, an_app, eventually
from tocsin import cron
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.hub import Replica
from tocsin.run import Run


@dataclass
class Work:
    """An agent that runs until it is let go, and what was seen of it."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def agent(self, run: Run) -> str:
        self.begun.append(run.id)
        await self.let_go.wait()
        self.ended.append(run.id)
        return "done"


def present(world: World) -> Control:
    return Control(database=world.database, clock=SystemClock(), actor="test")


async def fired(world: World, count: int = 1) -> list[UUID]:
    return [(await present(world).fire(f"t{n}"))["id"] for n in range(count)]


@asynccontextmanager
async def working(
    world: World, agent: Callable[..., Any], count: int = 1, **settings: Any
) -> AsyncIterator[tuple[Replica, list[UUID], Heard]]:
    """A replica with so many runs in hand."""
    await present(world).declare(an_app(*(a_trigger(f"t{n}") for n in range(count))))
    runs = await fired(world, count)
    log = Heard()
    async with a_replica(world.dsn, {"agent": agent}, log=log, **settings) as replica:
        await eventually(lambda: sum(hand.task is not None for hand in replica.hands.all()) == count)
        yield replica, runs, log


async def states(world: World) -> dict[str, int]:
    rows = await world.rows("SELECT state, count(*) FROM tocsin.runs GROUP BY 1")
    return {row["state"]: row["count"] for row in rows}


async def test_work_in_hand_ends_under_a_lease_that_is_renewed_meanwhile(world: World) -> None:
    """The drain lasts longer than the lease, and a peer that sweeps finds nothing to take."""
    work = Work()
    quick: dict[str, Any] = {"lease": 3 * PATIENCE, "renew_every": 0.2, "sweep_every": 0.1, "drain_timeout": 600}
    async with (
        a_replica(world.dsn, {"other": work.agent}, **quick),
        working(world, work.agent, 3, **quick) as (replica, runs, log),
    ):
        await eventually(lambda: len(work.begun) == 3)

        async def end() -> None:
            await eventually(lambda: log.count("hub.draining"))
            until = await world.value("SELECT max(expires_at) FROM tocsin.leases")

            async def is_past() -> object:
                return await world.value("SELECT now() > $1::timestamptz + interval '0.5 s'", until)

            await eventually(is_past)
            assert work.ended == []
            work.let_go.set()

        ending = asyncio.create_task(end())
    await ending
    assert sorted(work.ended) == sorted(map(str, runs))
    assert await states(world) == {"succeeded": 3}
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE fence <> 1") == 0
    assert replica.released == 0
    ends = await world.rows("SELECT end_reason FROM tocsin.leases")
    assert [row["end_reason"] for row in ends] == ["released", "released"]


async def test_what_does_not_end_in_time_is_queued_again_uncounted(world: World) -> None:
    work = Work()
    async with working(world, work.agent, 2, drain_timeout=0.2) as (replica, runs, log):
        await eventually(lambda: len(work.begun) == 2)
    assert work.ended == []
    assert replica.released == 2
    for run_id in runs:
        row = await world.run(run_id)
        assert (row["state"], row["reason"], row["attempt"], row["fence"]) == ("queued", "interrupted", 0, 1)
        assert await world.trail(run_id) == [
            (None, "queued", "manual"),
            ("queued", "running", None),
            ("running", "queued", "interrupted"),
        ]
    assert log.count("hub.stopped") == 1
    assert not [task for task in asyncio.all_tasks() if (task.get_name() or "").startswith("tocsin-")]


async def test_a_released_run_is_begun_at_once_by_a_peer(world: World) -> None:
    work, other = Work(), Work()
    other.let_go.set()
    async with working(world, work.agent, 1, drain_timeout=0.1, poll_every=60) as (_, runs, _):
        await eventually(lambda: len(work.begun) == 1)
    async with a_replica(world.dsn, {"agent": other.agent}):
        await eventually(lambda: len(other.ended) == 1)

        async def succeeded() -> bool:
            return await states(world) == {"succeeded": 1}

        await eventually(succeeded)
    row = await world.run(runs[0])
    assert (row["attempt"], row["fence"]) == (1, 2)


async def test_hurrying_ends_the_wait_at_once_and_a_second_time_the_patience_too(world: World) -> None:
    stubborn_until = asyncio.Event()
    begun: list[str] = []

    async def stubborn(run: Run) -> None:
        begun.append(run.id)
        while not stubborn_until.is_set():
            try:
                await stubborn_until.wait()
            except asyncio.CancelledError:
                continue

    loop = asyncio.get_running_loop()
    async with working(world, stubborn, 1, drain_timeout=600) as (replica, runs, log):
        await eventually(lambda: len(begun) == 1)
        began = loop.time()

        async def hurry_twice() -> None:
            await eventually(lambda: log.count("hub.draining"))
            replica.hurry()
            await eventually(lambda: replica.hands.all()[0].stop.requested)
            replica.hurry()

        hurrying = asyncio.create_task(hurry_twice())
    await hurrying
    assert loop.time() - began < DEADLINE
    row = await world.run(runs[0])
    assert (row["state"], row["reason"]) == ("queued", "interrupted")
    stubborn_until.set()


async def test_a_draining_replica_is_unready_and_claims_nothing_more(world: World) -> None:
    work = Work()
    async with working(world, work.agent, 1, drain_timeout=20) as (replica, runs, log):
        await eventually(lambda: replica.ready)

        async def watch() -> None:
            await eventually(lambda: log.count("hub.draining"))
            assert not replica.ready
            await present(world).fire("t0")
            for _ in range(10):
                await asyncio.sleep(0.05)  # gives a claim that must not happen the time to happen
                assert len(replica.hands) == 1
            work.let_go.set()

        watching = asyncio.create_task(watch())
    await watching
    assert await states(world) == {"succeeded": 1, "queued": 1}
    assert work.begun == [str(runs[0])]


async def test_what_a_claim_brings_after_the_drain_has_begun_is_given_back_unbegun(world: World) -> None:
    await world.declare(a_trigger())
    executor = Scripted()
    peer = await world.peer(executor=executor)
    run_id = await world.queue()
    claiming = asyncio.create_task(peer.runner.run_once())
    await asyncio.sleep(0)
    peer.runner.accepting = False
    await claiming
    assert executor.in_hand == []
    assert [hand.assignment.run_id for hand in peer.hands.all()] == [run_id]
    await peer.settler.run_once()
    row = await world.run(run_id)
    assert (row["state"], row["reason"], row["attempt"], row["fence"]) == ("queued", "interrupted", 0, 1)
    assert await peer.runner.run_once() is False
    assert (await world.run(run_id))["state"] == "queued"


async def test_nothing_is_materialised_once_the_drain_has_begun(world: World) -> None:
    work = Work()
    async with working(world, work.agent, 1, drain_timeout=20) as (_, _, log):
        await present(world).declare(an_app(a_trigger("t0"), a_trigger("ticks", cron("* * * * * *"))))

        async def ticks() -> int:
            return int(await world.value("SELECT count(*) FROM tocsin.runs WHERE kind = 'schedule'"))

        await eventually(ticks)

        async def watch() -> int:
            await eventually(lambda: log.count("hub.draining"))
            await eventually(_planner_is_gone)
            before = await ticks()
            due = await world.value("SELECT next_at FROM tocsin.triggers WHERE name = 'ticks'")

            async def is_past() -> object:
                return await world.value("SELECT now() > $1::timestamptz + interval '1.2 s'", due)

            await eventually(is_past)
            work.let_go.set()
            return await ticks() - before

        watching = asyncio.create_task(watch())
    assert await watching == 0


def _planner_is_gone() -> bool:
    return not any(task.get_name() == "tocsin-planner" for task in asyncio.all_tasks())


async def test_a_rolling_restart_loses_doubles_and_cancels_nothing(world: World) -> None:
    """Three replicas are replaced one by one while a trigger fires every second."""
    effects: list[str] = []

    async def brief(run: Run) -> None:
        await asyncio.sleep(0.3)
        effects.append(run.id)

    await present(world).declare(
        an_app(*(a_trigger(f"t{n}", cron("* * * * * *")) for n in range(3)), agents={"agent": brief})
    )
    first = await world.value("SELECT min(next_at) FROM tocsin.triggers")
    # Long enough for a machine that stands still for a moment: nobody is to lose anything here.
    patient: dict[str, Any] = {"lease": 30, "drain_timeout": 30}
    replicas = [a_replica(world.dsn, {"agent": brief}, **patient) for _ in range(2)]
    for replica in replicas:
        await replica.__aenter__()
    for _ in range(3):
        replicas.append(a_replica(world.dsn, {"agent": brief}, **patient))
        await replicas[-1].__aenter__()
        await replicas.pop(0).__aexit__()
        seen = len(effects)
        await eventually(lambda seen=seen: len(effects) > seen + 3)
    for replica in replicas:
        await replica.__aexit__()
    rows = await world.rows("SELECT trigger_id, nominal_at, state, fence FROM tocsin.runs ORDER BY 1, 2")
    last = max(row["nominal_at"] for row in rows)
    seconds = int((last - first).total_seconds()) + 1
    decided = await world.value("SELECT coalesce(sum(count), 0) FROM tocsin.skips")
    assert len(rows) + decided in range(3 * seconds - 3, 3 * seconds + 1)
    assert len(effects) == len(set(effects))
    assert {row["state"] for row in rows} <= {"succeeded", "queued"}
    assert all(row["fence"] <= 1 for row in rows)


async def test_an_empty_replica_leaves_at_once_and_leaves_nothing(world: World) -> None:
    loop = asyncio.get_running_loop()
    async with a_replica(world.dsn, {"agent": Work().agent}, drain_timeout=600):
        began = loop.time()
    assert loop.time() - began < DEADLINE

    async def is_gone() -> bool:
        count = await world.value(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'tocsin%'"
        )
        return int(count) == 0

    await eventually(is_gone)
    assert await world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
