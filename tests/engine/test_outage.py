"""The database goes away and comes back: nothing dies, leases are kept, and every occurrence has its one run."""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.engine.building import DEADLINE, PATIENCE, Heard, World, a_replica, a_trigger, an_app, eventually
from tests.engine.proxy import a_proxy
from tocsin import cron
from tocsin.clock import SystemClock
from tocsin.domain.run import StopReason
from tocsin.engine.control import Control
from tocsin.engine.sweeper import PROBE_EVERY
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.embedded import EmbeddedPostgres

LEASE = 2.0 * PATIENCE
QUICK: dict[str, Any] = {"lease": LEASE, "renew_every": 0.3}
APART = 4.0 * PATIENCE
"""Seconds between two probes of a lock, for tests on machines that stand still at times."""

SECONDLY = cron("* * * * * *")

SPINNER = """
import asyncio, sys, time
from tests.engine.building import a_replica

async def spin(run):
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        pass
    return run.fence

async def main():
    async with a_replica(sys.argv[1], {"agent": spin}, lease=float(sys.argv[3]), renew_every=1, drain_timeout=60):
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


class Agents:
    """A brief one that leaves a mark, and a long one that runs until it is stopped."""

    def __init__(self) -> None:
        self.marks: list[str] = []
        self.begun: list[int] = []
        self.stopped: list[StopReason | None] = []

    async def brief(self, run: Run) -> None:
        self.marks.append(run.id)

    async def long(self, run: Run) -> str:
        self.begun.append(run.fence)
        if len(self.begun) > 1:
            return "again"
        self.stopped.append(await run.cancelled)
        raise asyncio.CancelledError


async def declared(world: World, agents: Agents) -> Control:
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(
        an_app(
            a_trigger("ticks", SECONDLY, agent="brief"),
            a_trigger("once", agent="long"),
            agents={"brief": agents.brief, "long": agents.long},
        )
    )
    return control


async def check_one_run_each(world: World, agents: Agents) -> None:
    """Each second since the trigger was declared has exactly one decision, and a run that left a mark twice
    was begun again under a higher fence: its first attempt ended without being able to say so."""
    runs = await world.rows(
        "SELECT r.nominal_at, r.fence FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id"
        " WHERE t.name = 'ticks'"
    )
    row = await world.row("SELECT created_at, next_at FROM tocsin.triggers WHERE name = 'ticks'")
    skipped = await world.value("SELECT coalesce(sum(count), 0) FROM tocsin.skips")
    first = row["created_at"].replace(microsecond=0) + timedelta(seconds=1)
    assert len(runs) + skipped == (row["next_at"] - first).total_seconds()
    assert len(runs) == len({run["nominal_at"] for run in runs})
    again = len(agents.marks) - len(set(agents.marks))
    assert again <= sum(max(0, run["fence"] - 1) for run in runs)
    settled = "SELECT run_id FROM tocsin.transitions WHERE to_state = 'succeeded' GROUP BY run_id HAVING count(*) > 1"
    assert await world.rows(settled) == []


async def test_nothing_dies_while_the_database_is_gone_and_work_resumes(world: World) -> None:
    agents, log = Agents(), Heard()
    control = await declared(world, agents)
    loop = asyncio.get_running_loop()
    async with a_proxy(world.dsn) as proxy:
        functions = {"brief": agents.brief, "long": agents.long}
        async with a_replica(proxy.dsn, functions, log=log, **QUICK) as replica:
            run_id = (await control.fire("once"))["id"]
            await eventually(lambda: agents.begun and len(agents.marks) > 1)
            await proxy.refuse()
            gone_at, attempts = loop.time(), proxy.attempts
            # The long one is stopped at the local deadline, though nobody can be asked.
            await eventually(lambda: agents.stopped)
            assert agents.stopped == [StopReason.LEASE_LOST]
            await eventually(lambda: not replica.ready)
            await eventually(lambda: loop.time() - gone_at > 3 * LEASE)
            # Backing off: a handful of loops, each at most ten times a second and soon every second or two.
            assert proxy.attempts - attempts < 25 * (loop.time() - gone_at)
            marks = len(agents.marks)
            proxy.restore()
            await eventually(lambda: replica.ready)
            await eventually(lambda: len(agents.marks) > marks + 1)
            await eventually(lambda: len(agents.begun) == 2)

            async def ended() -> bool:
                return bool((await world.run(run_id))["state"] == "succeeded")

            await eventually(ended)
            assert agents.begun == [1, 2]
    assert log.count("loop.recovered") >= 3
    assert (await world.run(run_id))["attempt"] == 1
    await check_one_run_each(world, agents)


async def test_a_half_open_connection_stops_our_work_in_time_and_is_got_over(world: World) -> None:
    agents, log = Agents(), Heard()
    control = await declared(world, agents)
    loop = asyncio.get_running_loop()
    async with a_proxy(world.dsn) as proxy:
        functions = {"brief": agents.brief, "long": agents.long}
        async with a_replica(proxy.dsn, functions, log=log, **QUICK):
            await control.fire("once")
            await eventually(lambda: agents.begun and len(agents.marks) > 1)
            proxy.freeze()
            frozen_at = loop.time()
            await eventually(lambda: agents.stopped)
            assert agents.stopped == [StopReason.LEASE_LOST]
            await eventually(lambda: loop.time() - frozen_at > 2 * LEASE)
            marks = len(agents.marks)
            proxy.restore()
            await eventually(lambda: len(agents.marks) > marks + 1)
            await eventually(lambda: len(agents.begun) == 2)
    await check_one_run_each(world, agents)


async def test_connections_that_are_cut_again_and_again_double_nothing(world: World) -> None:
    agents = Agents()
    await declared(world, agents)
    async with a_proxy(world.dsn) as proxy:
        replicas = [a_replica(proxy.dsn, {"brief": agents.brief}, lease=3, renew_every=0.5) for _ in range(2)]
        async with replicas[0], replicas[1]:
            for _ in range(5):
                marks = len(agents.marks)
                await proxy.cut()
                await eventually(lambda marks=marks: len(agents.marks) > marks)
            marks = len(agents.marks)
            await eventually(lambda: len(agents.marks) > marks + 1)
    await check_one_run_each(world, agents)


async def test_a_server_that_crashes_and_recovers_keeps_what_it_promised(durable: EmbeddedPostgres) -> None:
    """A restarted server has forgotten every lock, which must not be taken for the death of their holders."""
    agents = Agents()
    database = Database(durable.dsn)
    admin = await asyncpg.connect(durable.dsn)
    keeping = asyncio.create_task(durable.keep())
    world = World(durable.dsn, database, admin)
    try:
        control = await declared(world, agents)
        let_go = asyncio.Event()

        async def steady(run: Run) -> int:
            agents.begun.append(run.fence)
            await let_go.wait()
            return run.fence

        settings: dict[str, Any] = {"lease": 20, "renew_every": 1}
        async with (
            a_replica(durable.dsn, {"brief": agents.brief}, **settings),
            a_replica(durable.dsn, {"long": steady}, **settings),
        ):
            run_id = (await control.fire("once"))["id"]
            await eventually(lambda: agents.begun and len(agents.marks) > 1)
            marks, former = len(agents.marks), durable.pid
            assert former is not None
            os.kill(former, signal.SIGQUIT)
            await eventually(lambda: durable.pid not in (None, former))
            await eventually(lambda: len(agents.marks) > marks + 2)
            let_go.set()
            await admin.close()
            world.admin = admin = await asyncpg.connect(durable.dsn)

            async def ended() -> bool:
                return bool((await world.run(run_id))["state"] == "succeeded")

            await eventually(ended)
        assert agents.begun == [1]
        assert await world.value("SELECT count(*) FROM tocsin.transitions WHERE reason = 'lost'") == 0
        await check_one_run_each(world, agents)
    finally:
        keeping.cancel()
        await admin.close()
        await database.close()


@pytest.mark.parametrize("seconds", [8.0])
async def test_an_agent_that_blocks_the_loop_does_not_stop_renewals(world: World, seconds: float) -> None:
    """Pure Python for longer than two leases, in another process, under the eyes of a peer that sweeps."""
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(an_app(a_trigger()))
    lease = 3 * PATIENCE
    seconds = float(os.environ.get("TOCSIN_TEST_SPIN", seconds * PATIENCE))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SPINNER,
        world.dsn,
        str(seconds),
        str(lease),
        stdin=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    try:
        async with a_replica(world.dsn, {"other": Agents().brief}, lease=lease, renew_every=1, sweep_every=0.2) as peer:
            run_id = (await control.fire("t"))["id"]

            async def state() -> str:
                return str((await world.run(run_id))["state"])

            async def began() -> bool:
                assert process.returncode is None, "the other process has ended"
                return await state() == "running"

            async def ended() -> bool:
                assert await world.value("SELECT count(*) FROM tocsin.leases WHERE ended_at IS NOT NULL") == 0
                assert await world.value("SELECT count(*) FROM tocsin.leases WHERE expires_at < now()") == 0
                return await state() not in ("queued", "running")

            await eventually(began)
            await eventually(ended, within=seconds + DEADLINE)
            assert peer.ready
        row = await world.run(run_id)
        assert (row["state"], row["fence"], row["output"]) == ("succeeded", 1, "1")
        assert (row["finished_at"] - row["started_at"]).total_seconds() >= seconds
        assert await world.trail(run_id) == [
            (None, "queued", "manual"),
            ("queued", "running", None),
            ("running", "succeeded", None),
        ]
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


async def test_a_live_holder_whose_session_was_cut_is_not_taken_for_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free until it has a new session, which must be sooner than a peer's second look."""
    # A busy machine has more time for it, and still less than passes until the next renewal.
    monkeypatch.setattr("tocsin.engine.sweeper.PROBE_APART", APART)
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(an_app(a_trigger()))
    let_go = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def agent(run: Run) -> int:
        await let_go.wait()
        return run.fence

    locks = "SELECT min(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1::bigint::oid"
    settings: dict[str, Any] = {"lease": 60, "renew_every": 15, "poll_every": 0.2, "sweep_every": 0.2}
    async with a_replica(world.dsn, {"agent": agent}, **settings) as holder:
        run_id = (await control.fire("t"))["id"]
        await eventually(lambda: len(holder.hands) == 1)
        key = "SELECT lock_key & 4294967295 FROM tocsin.leases WHERE holder = $1 AND lock_key IS NOT NULL"
        half = await eventually(lambda: world.value(key, holder.who.holder))
        async with a_replica(world.dsn, {"other": agent}, **settings) as peer:
            await eventually(lambda: peer.sweeper.rest() == PROBE_EVERY)
            for _ in range(3):
                former = await world.value(locks, half)
                assert former is not None
                await world.value("SELECT pg_terminate_backend($1)", former)

                async def taken_again(former: int = former) -> bool:
                    return await world.value(locks, half) not in (None, former)

                await eventually(taken_again, within=APART)
            cut_at = loop.time()
            await eventually(lambda: loop.time() - cut_at > APART + 3 * PROBE_EVERY)
            assert (await world.run(run_id))["state"] == "running"
            let_go.set()

            async def ended() -> bool:
                return bool((await world.run(run_id))["state"] == "succeeded")

            await eventually(ended)
    assert (await world.run(run_id))["fence"] == 1
    assert await world.value("SELECT count(*) FROM tocsin.leases WHERE end_reason = 'lost'") == 0
