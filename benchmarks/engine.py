"""What one replica does: throughput, burst, lateness, idle cost. fsync on, everything on.

    python benchmarks/engine.py                 # all, three runs each, medians and ranges
    python benchmarks/engine.py throughput burst --runs 1
    python benchmarks/engine.py --json          # one object a line

PostgreSQL is the embedded one with its default settings, or TOCSIN_DATABASE_URL (an empty database).
A scenario sets up its own rows, runs a replica in this process, and reads its figures back from the
recorded transitions, on the database's clock.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import asyncpg

from tocsin import Hub, Run, at, every
from tocsin.clock import SystemClock
from tocsin.edges.metrics.tally import Tally
from tocsin.engine.control import Control
from tocsin.executors.from_app import executors_of
from tocsin.hub import Replica
from tocsin.settings import load_settings
from tocsin.store.database import Database
from tocsin.store.embedded import EmbeddedPostgres
from tocsin.store.migrate import migrate
from tocsin.telemetry import Silence

Figures = dict[str, float]
Scenario = Callable[[str], Awaitable[Figures]]


async def noop(run: Run) -> None:
    """The agent that costs nothing, so that what is measured is the engine."""


def hub_with(name: str = "noop", **options: Any) -> Hub:
    hub = Hub()
    hub.agent(name=name, **options)(noop)
    return hub


@asynccontextmanager
async def control_of(dsn: str) -> AsyncIterator[Control]:
    database = Database(dsn)
    try:
        await database.open()
        yield Control(database=database, clock=SystemClock(), actor="benchmark")
    finally:
        await database.close()


def replica_of(dsn: str, hub: Hub, **settings: Any) -> Replica:
    given = load_settings(log_level="error", **settings)
    tally = Tally(limit=given.metrics_triggers)
    executors = executors_of(hub.build(), given.slots)
    return Replica(dsn=dsn, settings=given, executors=executors, log=Silence(), observer=tally)


async def fetch(dsn: str, query: str, *values: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query, *values, timeout=120)
        return rows
    finally:
        await connection.close()


async def until(dsn: str, query: str, *, deadline: float = 120.0) -> None:
    """A query's first value has become true."""
    ends_at = perf_counter() + deadline
    connection = await asyncpg.connect(dsn)
    try:
        while not await connection.fetchval(query):
            if perf_counter() > ends_at:
                raise TimeoutError(query)
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


ENQUEUE = """
WITH inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, occurrence_key,
                             lane, priority, overlap, available_at, max_attempts, input, queued_at, asked_by)
    SELECT gen_random_uuid(), t.id, t.version, t.agent, 'manual', now(), now(), 'bench:' || g, 'live', 5, 'allow',
           now(), 3, '{}', now(), 'benchmark'
      FROM tocsin.triggers t, generate_series(1, $1::int) g
     WHERE t.name = 'bulk'
    RETURNING id, trigger_id, nominal_at, occurrence_key
)
INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
SELECT trigger_id, nominal_at, occurrence_key, id FROM inserted
"""


async def throughput(dsn: str, runs: int = 20_000) -> Figures:
    """No-op runs a second: claim, execute, settle, with fence, lease, retries and transitions on."""
    hub = hub_with(retries=2)
    hub.trigger("bulk", "noop", overlap="allow")
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    await fetch(dsn, ENQUEUE, runs)
    cpu = process_time()
    async with replica_of(dsn, hub, slots=500):
        await until(dsn, "SELECT NOT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)")
    cpu = process_time() - cpu
    row = (
        await fetch(
            dsn,
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 AS took,"
            " count(*) FILTER (WHERE state = 'succeeded') AS succeeded FROM tocsin.runs",
        )
    )[0]
    assert row["succeeded"] == runs, row
    return {"runs_per_s": runs / row["took"], "client_us_per_run": cpu / runs * 1e6}


async def burst(dsn: str, schedules: int = 10_000) -> Figures:
    """Seconds from one instant, at which so many schedules are due, until all have begun."""
    hub = hub_with()
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=12)
    for number in range(schedules):
        hub.trigger(f"burst-{number:05}", "noop", at(due))
    started = perf_counter()
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    declared = perf_counter() - started
    async with replica_of(dsn, hub, slots=500):
        await until(dsn, f"SELECT count(*) = {schedules} FROM tocsin.runs WHERE finished_at IS NOT NULL")
    late = await begun_after(dsn)
    assert len(late) == schedules
    return {"all_begun_s": late[-1], "p50_s": late[len(late) // 2], "declare_s": declared}


async def begun_after(dsn: str) -> list[float]:
    """Seconds from the effective instant to the first claim, sorted."""
    rows = await fetch(
        dsn,
        "SELECT extract(epoch FROM t.at - r.effective_at)::float8 AS late FROM tocsin.runs r"
        " JOIN tocsin.transitions t ON t.run_id = r.id AND t.to_state = 'running' AND t.fence = 1 ORDER BY 1",
    )
    return [row["late"] for row in rows]


async def lateness(dsn: str, seconds: int = 30) -> Figures:
    """Milliseconds from an occurrence's instant to its begin, on a hub that has nothing else to do."""
    hub = hub_with()
    hub.trigger("tick", "noop", every("1s"))
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    async with replica_of(dsn, hub):
        await asyncio.sleep(seconds)
    late = (await begun_after(dsn))[:]
    late = [value * 1e3 for value in late]
    return {"p50_ms": statistics.median(late), "p99_ms": late[int(len(late) * 0.99)], "max_ms": late[-1]}


async def idle(dsn: str, triggers: int = 100_000, seconds: int = 60) -> Figures:
    """Statements a minute and share of a core, with so many triggers of which none is due."""
    hub = hub_with()
    far = datetime.now(UTC) + timedelta(days=30)
    for number in range(triggers):
        hub.trigger(f"idle-{number:06}", "noop", at(far))
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    await fetch(dsn, "VACUUM ANALYZE tocsin.triggers")
    async with replica_of(dsn, hub) as replica:
        await asyncio.sleep(10)
        calls, cpu = replica.statements, process_time()
        await asyncio.sleep(seconds)
        spent = process_time() - cpu
        sent = replica.statements - calls
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"statements_per_min": sent * 60 / seconds, "core_percent": spent / seconds * 100, "peak_rss_mb": memory}


SCENARIOS: dict[str, Scenario] = {"throughput": throughput, "burst": burst, "lateness": lateness, "idle": idle}


@asynccontextmanager
async def empty_database() -> AsyncIterator[str]:
    """A migrated database without rows, with fsync on."""
    given = os.environ.get("TOCSIN_DATABASE_URL")
    if given:
        await fetch(given, "DROP SCHEMA IF EXISTS tocsin CASCADE")
        await migrate(given)
        yield given
        return
    with tempfile.TemporaryDirectory() as home:
        server = await EmbeddedPostgres.ensure(Path(home))
        try:
            await migrate(server.dsn)
            yield server.dsn
        finally:
            await server.stop()


async def measure(name: str, runs: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for _ in range(runs):
        async with empty_database() as dsn:
            for figure, value in (await SCENARIOS[name](dsn)).items():
                figures.setdefault(figure, []).append(value)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), choices=[[], *SCENARIOS])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.scenarios or SCENARIOS:
        report(name, asyncio.run(measure(name, options.runs)), as_json=options.json)


def report(name: str, figures: dict[str, list[float]], *, as_json: bool) -> None:
    """A line for each figure of a scenario: its median and its range."""
    for figure, values in figures.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        if as_json:
            print(json.dumps({"scenario": name, "figure": figure, "median": middle, "min": low, "max": high}))
        else:
            print(f"{name:>11}  {figure:<20} {middle:12.3f}   ({low:.3f} – {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
