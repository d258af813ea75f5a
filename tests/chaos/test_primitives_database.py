"""The server's clock steps, its disk is full, a backup of it is restored: what was promised holds."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.chaos.faults.clocks import MISSING as NO_FAKETIME
from tests.chaos.faults.clocks import WallClock, library
from tests.chaos.faults.disk import MISSING as NO_DISK
from tests.chaos.faults.disk import can_mount, small_disk
from tests.chaos.faults.firing import Firing
from tests.chaos.faults.server import Place, Server
from tests.engine.building import Heard, a_replica, a_trigger, an_app, eventually
from tocsin import cron, every
from tocsin.clock import SystemClock
from tocsin.domain.run import RunState, Settlement
from tocsin.domain.trigger import CatchUp, Overlap
from tocsin.engine.control import Control
from tocsin.run import Run
from tocsin.store.attempts import Attempts, Ended
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation
from tocsin.store.migrate import migrate

SECONDLY = cron("* * * * * *")
SECOND = timedelta(seconds=1)

needs_faketime = pytest.mark.skipif(library() is None and not os.environ.get("CI"), reason=NO_FAKETIME)

CHANGES = [
    # zone, rule, when the clock says so, and the instants at which it fires within the next hours
    ("Africa/Casablanca", "30 2 * * *", "2026-03-22 02:00:00", True),
    ("Asia/Beirut", "30 0 * * *", "2026-03-28 22:00:00", True),
    ("Europe/Paris", "30 2 * * *", "2026-03-29 01:00:00", True),
    ("Europe/London", "30 1 * * *", "2026-03-29 01:00:00", True),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 14:45:00", True),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 15:15:00", False),
    ("America/Santiago", "30 23 * * *", "2026-04-05 02:30:00", True),
    ("America/Santiago", "30 23 * * *", "2026-04-05 03:30:00", False),
]
"""Into the gap, moved to its end; in the fold, the first copy and not the second."""


@asynccontextmanager
async def a_server(**options: Any) -> AsyncIterator[tuple[Server, Control]]:
    """A migrated server of the test's own, and its control."""
    with Place() as place:
        env = options.pop("clock").env if "clock" in options else None
        async with Server(place, "server", env=env, **options) as server:
            await server.initialise()
            await server.start()
            await migrate(server.dsn)
            database = Database(server.dsn, size=2)
            try:
                yield server, Control(database=database, clock=SystemClock(), actor="test")
            finally:
                await database.close()


async def check_decided_once(server: Server) -> None:
    """Each second of each trigger has one decision, and each run ended at most once."""
    rows = await server.fetch(
        "SELECT t.name, t.created_at, t.next_at, count(r.id) AS runs, count(DISTINCT r.nominal_at) AS instants,"
        "       (SELECT coalesce(sum(s.count), 0) FROM tocsin.skips s WHERE s.trigger_id = t.id) AS skips"
        "  FROM tocsin.triggers t LEFT JOIN tocsin.runs r ON r.trigger_id = t.id AND r.kind = 'schedule'"
        " WHERE t.schedule IS NOT NULL GROUP BY t.id"
    )
    assert rows
    for row in rows:
        first = row["created_at"].replace(microsecond=0) + SECOND
        assert row["runs"] == row["instants"], row
        assert row["runs"] + row["skips"] == (row["next_at"] - first).total_seconds(), row
    twice = (
        "SELECT run_id FROM tocsin.transitions WHERE to_state IN ('succeeded', 'failed', 'cancelled')"
        " GROUP BY run_id HAVING count(*) > 1"
    )
    assert await server.fetch(twice) == []


@needs_faketime
async def test_steps_of_the_servers_clock_double_and_lose_nothing(tmp_path: Path) -> None:
    marks: list[tuple[str, int]] = []

    async def agent(run: Run) -> None:
        marks.append((run.id, run.fence))

    async def lasting(run: Run) -> None:
        marks.append((run.id, run.fence))
        await asyncio.sleep(0.8)

    functions: dict[str, Any] = {"agent": agent, "lasting": lasting}
    triggers = [
        a_trigger(f"t{n}", SECONDLY, agent=("agent", "lasting")[n % 2], overlap=Overlap.ALLOW, grace=2 * SECOND)
        for n in range(6)
    ]
    with Place() as place:
        clock = WallClock(place.directory / "clock")
        async with a_server(clock=clock) as (server, control):
            await control.declare(an_app(*triggers, agents=functions))
            async with a_replica(server.dsn, functions), a_replica(server.dsn, functions):

                async def settled(since: int) -> None:
                    await eventually(lambda: len(marks) > since + 8)

                await settled(0)
                # Forward past the grace and past every lease, back to before it, and forward by an hour.
                for step in (8, 4, 3600):
                    clock.step(step)
                    await settled(len(marks))
            assert len(marks) == len(set(marks)), "no fence was given twice"
            missed = await server.value("SELECT sum(count)::bigint FROM tocsin.skips WHERE reason = 'missed'")
            assert missed >= 6 * 3500
            await check_decided_once(server)
            lost = "SELECT id, lost FROM tocsin.runs WHERE lost > 3"
            assert await server.fetch(lost) == [], "a step past the leases may take work from the living, once a step"
            early = "SELECT id, started_at, effective_at FROM tocsin.runs WHERE started_at < effective_at"
            assert await server.fetch(early) == []


@needs_faketime
async def test_changes_of_daylight_saving_are_lived_through_as_declared() -> None:
    with Place() as place:
        clock = WallClock(place.directory / "clock")
        begins = datetime(2026, 3, 20, 12, tzinfo=UTC)
        clock.step(begins.timestamp() - time.time())

        async def agent(run: Run) -> None:
            """Its run says all there is to say."""

        rules = {zone.replace("/", "."): (zone, rule) for zone, rule, _, _ in CHANGES}
        triggers = [a_trigger(name, cron(rule, zone), catch_up=CatchUp.SKIP) for name, (zone, rule) in rules.items()]
        ticks = a_trigger("ticks", every(1), catch_up=CatchUp.SKIP, grace=2 * SECOND)
        async with a_server(clock=clock) as (server, control):
            await control.declare(an_app(*triggers, ticks))
            async with a_replica(server.dsn, {"agent": agent}), a_replica(server.dsn, {"agent": agent}):
                for zone, _, text, fires in CHANGES:
                    instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
                    clock.step((instant - 2 * SECOND).timestamp() - time.time())
                    # The ticks prove that the replicas have passed the instant.
                    await eventually(lambda at=instant: ran(server, "ticks", at + SECOND), what=f"{zone} {instant}")
                    assert await ran(server, zone.replace("/", "."), instant) is fires, (zone, instant)
            # Every day has one decision, though the clock jumped over most of them.
            for zone, (_, _) in rules.items():
                row = (
                    await server.fetch(
                        "SELECT t.next_at, count(r.id) AS runs, (SELECT coalesce(sum(s.count), 0)::bigint"
                        "  FROM tocsin.skips s WHERE s.trigger_id = t.id) AS skips"
                        "  FROM tocsin.triggers t LEFT JOIN tocsin.runs r ON r.trigger_id = t.id"
                        " WHERE t.name = $1 GROUP BY t.id",
                        zone,
                    )
                )[0]
                days = (row["next_at"] - begins) // timedelta(days=1)
                assert row["runs"] + row["skips"] in (days, days + 1), (zone, row)


async def ran(server: Server, name: str, instant: datetime) -> bool:
    return bool(
        await server.value(
            "SELECT count(*) = 1 FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id"
            " WHERE t.name = $1 AND r.nominal_at = $2 AND r.state = 'succeeded'",
            name,
            instant,
        )
    )


@pytest.mark.skipif(not can_mount(), reason=NO_DISK)
async def test_a_full_disk_loses_nothing_that_was_acknowledged() -> None:
    marks: list[str] = []

    async def agent(run: Run) -> None:
        marks.append(run.id)

    with Place() as place, small_disk(64) as disk:
        data = disk.directory / "data"
        data.mkdir(mode=0o700)
        place.own(data)
        small = {"max_wal_size": "4MB", "min_wal_size": "2MB", "wal_keep_size": "0", "shared_buffers": "8MB"}
        async with Server(place, "server", settings=small, data=data) as server:
            await server.initialise("--wal-segsize=1")
            await server.start()
            await migrate(server.dsn)
            database = Database(server.dsn, size=2)
            control = Control(database=database, clock=SystemClock(), actor="test")
            await control.declare(an_app(a_trigger("by-hand", overlap=Overlap.ALLOW), a_trigger("t", SECONDLY)))
            firing = Firing(control)
            async with a_replica(server.dsn, {"agent": agent}) as replica:
                calling = asyncio.create_task(firing.run())
                await eventually(lambda: len(firing.acknowledged) > 30 and len(marks) > 30)
                disk.fill()
                await eventually(lambda: firing.unknown > 3, what="a call that the full disk refuses")
                acknowledged = len(firing.acknowledged)
                disk.empty()
                if not server.alive:
                    await server.start()
                await eventually(lambda: len(firing.acknowledged) > acknowledged + 30)
                await eventually(lambda: replica.ready)
                calling.cancel()
                asked = set(firing.acknowledged)

                async def all_ran() -> bool:
                    found = await server.fetch("SELECT id FROM tocsin.runs WHERE state = 'succeeded'")
                    return asked <= {row["id"] for row in found}

                await eventually(all_ran, what="every acknowledged run")
            await database.close()
            await check_decided_once(server)


async def test_a_backup_that_is_restored_counts_what_was_missed_and_refuses_old_tokens(tmp_path: Path) -> None:
    """The dump is taken in the middle of a run; its holder lives on, and comes to the restored database."""
    let_go = asyncio.Event()
    begun: list[int] = []

    async def long(run: Run) -> int:
        begun.append(run.fence)
        await let_go.wait()
        return run.fence

    async def agent(run: Run) -> None:
        """It only has to be begun."""

    functions: dict[str, Any] = {"agent": agent, "long": long}
    app = an_app(
        a_trigger("t", SECONDLY, grace=SECOND, catch_up=CatchUp.LATEST),
        a_trigger("once", agent="long"),
        agents=functions,
    )
    async with a_server() as (server, control):
        await control.declare(app)
        async with a_replica(server.dsn, functions) as former:
            run_id = (await control.fire("once"))["id"]
            await eventually(lambda: begun == [1])
            holder = former.who.holder
            dump = tmp_path / "dump.sql"
            dumped_at = await server.value("SELECT now()")
            tool(server, "pg_dump", "--schema=tocsin", f"--file={dump}", server.dsn)
            # Time goes on that the backup knows nothing of.
            await eventually(lambda: passed(server, dumped_at + 4 * SECOND))
            let_go.set()
        await server.fetch("CREATE DATABASE restored")
        restored = server.dsn.rpartition("/")[0] + "/restored"
        tool(server, "psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}", restored)
        database = Database(restored, size=2)
        try:
            log = Heard()
            async with a_replica(restored, functions, log=log):

                async def again() -> bool:
                    return bool((await database.fetchrow("get_run", id=run_id))["state"] == "succeeded")  # type: ignore[index]

                await eventually(again, what="the run that was in hand at the dump")
                # The former holder's word, under the fence of the dump, and under one of the time that is no more.
                who = Incarnation("former")
                who.holder = holder
                attempts = Attempts(database=database, clock=SystemClock(), who=who)
                for fence in (1, 2, 3):
                    stale = Ended(run_id=run_id, fence=fence, settlement=Settlement(RunState.FAILED, reason="stale"))
                    assert await attempts.settle([stale]) == set()
                row = await database.fetchrow("get_run", id=run_id)
                assert row is not None
                assert (row["state"], row["fence"], row["output"]) == ("succeeded", 2, "2")
                # The holder of the dump has fallen silent: its lease speaks, or its lock that is free.
                swept = [fields["run_id"] for event, fields in log.events if event == "run.swept"]
                assert swept.count(str(run_id)) == 1
            admin = await asyncpg.connect(restored)
            try:
                missed = await admin.fetchval(
                    "SELECT sum(s.count)::bigint FROM tocsin.skips s WHERE s.reason = 'missed'"
                )
                assert missed >= 2
                row = await admin.fetchrow(
                    "SELECT created_at, next_at,"
                    " (SELECT count(*) FROM tocsin.runs r WHERE r.trigger_id = t.id) AS runs,"
                    " (SELECT sum(s.count) FROM tocsin.skips s WHERE s.trigger_id = t.id) AS skips"
                    "  FROM tocsin.triggers t WHERE t.name = 't'"
                )
                assert row is not None
                first = row["created_at"].replace(microsecond=0) + SECOND
                assert row["runs"] + row["skips"] == (row["next_at"] - first).total_seconds()
            finally:
                await admin.close()
        finally:
            await database.close()


async def passed(server: Server, instant: datetime) -> bool:
    return bool(await server.value("SELECT now() > $1", instant))


def tool(server: Server, name: str, *words: str) -> None:
    """One of PostgreSQL's programs has done its work; the test is skipped where this package has it not."""
    program = server.program(name)
    if program is None:
        pytest.skip(f"these programs of PostgreSQL have no {name}")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
