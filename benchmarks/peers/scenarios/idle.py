"""What schedules cost that are not due: statements, CPU, memory, and the time to register them."""

import asyncio
import time

from benchmarks.peers.ground import Cannot, Case, Figures, Ground, Scenario
from benchmarks.peers.scenarios.measures import cpu_seconds, resident_mb
from benchmarks.peers.servers import redis_commands, session

FAR = 20 * 86_400
MOST_REST = 15.0
"""Seconds for what a worker does only once; a short measurement takes a short rest."""


async def idle(ground: Ground, case: Case) -> Figures:
    """One replica. Statements are those that pg_stat_statements has counted for all but our own session."""
    schedules = case["schedules"]
    largest = ground.contestant.largest.get("idle", 100_000 if ground.contestant.name != "tocsin" else schedules)
    if schedules > largest:
        raise Cannot(f"not tried beyond {largest:,} schedules")
    order = {"schedules": schedules, "due": float(int(time.time() + FAR)), "prefix": "tick"}
    said: dict[str, dict[str, float]] = {}
    if not ground.contestant.resident:
        said = await ground.crew.do("register", within=900, **order)
    if ground.dsn:
        async with session(ground.dsn) as connection:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
            await connection.execute("VACUUM ANALYZE", timeout=600)
    workers = await ground.crew.workers(1, **order)
    registered = {**said, **workers[0].events}["registered"]["seconds"]
    await asyncio.sleep(min(case["seconds"], MOST_REST))
    before, cpu = await _statements(ground), cpu_seconds(workers[0].pid)
    await asyncio.sleep(case["seconds"])
    after, spent = await _statements(ground), cpu_seconds(workers[0].pid) - cpu
    a_minute = 60 / case["seconds"]
    return {
        "statements_per_min": (after - before) * a_minute,
        "cpu_s_per_min": spent * a_minute,
        "register_s": registered,
        "memory_mb": resident_mb(workers[0].pid),
    }


async def _statements(ground: Ground) -> float:
    if ground.redis:
        return float(await redis_commands(ground.redis))
    if not ground.dsn:
        return 0.0
    async with session(ground.dsn) as connection:
        # Our own question is among them, once each time.
        calls = await connection.fetchval(
            "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
        )
    return float(calls)


SCENARIO = Scenario(
    name="idle",
    title="Idle",
    explained="One replica for a minute with so many schedules of which none is due.",
    cases=tuple({"schedules": n, "seconds": 60} for n in (100, 10_000, 100_000, 1_000_000)),
    quick=({"schedules": 1_000, "seconds": 6},),
    units={"statements_per_min": "statements", "cpu_s_per_min": "s", "register_s": "s", "memory_mb": "MB"},
    lower=True,
    measure=idle,
    settings={"shared_preload_libraries": "pg_stat_statements"},
)
