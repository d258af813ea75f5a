"""Whether throughput lasts: with a large history, after ANALYZE, and under somebody's long snapshot."""

import asyncio
import time

from benchmarks.peers.ground import Cannot, Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, marks
from benchmarks.peers.scenarios.throughput import SLOTS, rate, settled
from benchmarks.peers.servers import session

RUNS = 20_000
CALM = 130
"""Looks in a row, half a second apart, that find no autovacuum at work: it looks around once a minute."""


async def with_history(ground: Ground, case: Case) -> Figures:
    """Throughput beside so many finished runs, before and after ANALYZE has seen them all."""
    _asked_too_much(ground)
    await _round(ground, "first", 100)
    await ground.crew.do("history", count=case["finished"], within=900)
    await _until_calm(ground)
    before = await _round(ground, "before", RUNS)
    async with session(ground.dsn) as connection:
        await connection.execute("ANALYZE", timeout=300)
    after = await _round(ground, "after", RUNS)
    return {"after_to_before": after / before, "before_per_s": before, "after_per_s": after}


async def under_a_snapshot(ground: Ground, case: Case) -> Figures:
    """Throughput of the last 20,000 runs to that of the first, while somebody's transaction keeps all dead rows."""
    _asked_too_much(ground)
    count = case["under_snapshot"] + 2 * RUNS
    async with session(ground.dsn) as other:
        await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await other.fetchval("SELECT count(*) FROM pg_class")
        await ground.crew.do("enqueue", count=count, prefix="held")
        workers = await ground.crew.workers(1, slots=SLOTS)
        begun = await ground.crew.begun(count, within=150)
        for worker in workers:
            await worker.end()
        await other.execute("ROLLBACK")
    if begun < count:
        raise AdapterFailed(f"{begun:,} of {count:,} runs had begun after 150 s")
    begins = marks(ground.crew.records, "B")
    # The very first ones come while the process warms up.
    first = begins[1_000 : RUNS + 1_000]
    last = begins[-RUNS:]
    early = len(first) / (first[-1].at - first[0].at)
    late = len(last) / (last[-1].at - last[0].at)
    return {"last_to_first": late / early, "first_per_s": early, "last_per_s": late}


async def _until_calm(ground: Ground) -> None:
    """The server has written what was loaded, and cleans up after it no more: a day's history does not come at once."""
    async with session(ground.dsn) as connection:
        await connection.execute("CHECKPOINT", timeout=300)
        calm = 0
        for _ in range(600):
            cleaning = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
            )
            calm = 0 if cleaning else calm + 1
            if calm >= CALM:
                return
            await asyncio.sleep(0.5)


def _asked_too_much(ground: Ground) -> None:
    if ground.contestant.largest.get("plan") == 0 or ground.contestant.unsettled is None:
        raise Cannot("not tried: at its throughput it would take too long to measure")


async def _round(ground: Ground, prefix: str, count: int) -> float:
    """Runs a second of a fresh worker."""
    await ground.crew.do("enqueue", count=count, prefix=prefix)
    ground.crew.records.unlink(missing_ok=True)
    workers = await ground.crew.workers(1, slots=SLOTS)
    begun = await ground.crew.begun(count, within=200)
    if begun < count:
        raise AdapterFailed(f"{begun} of {count} runs had begun after 200 s")
    await settled(ground)
    ended_at = time.monotonic()
    for worker in workers:
        await worker.end()
    return rate(ground, ended_at, count)["runs_per_s"]


HISTORY = Scenario(
    name="plan",
    title="Plan stability",
    explained="Throughput beside 1,000,000 finished runs, after ANALYZE to before it.",
    cases=({"finished": 1_000_000},),
    quick=(),
    units={"after_to_before": "×", "before_per_s": "runs/s", "after_per_s": "runs/s"},
    lower=False,
    measure=with_history,
    only=("reference", "tuned", "tocsin"),
)
SNAPSHOT = Scenario(
    name="snapshot",
    title="Under a long snapshot",
    explained="Somebody keeps a transaction open while 140,000 runs are worked off: the last 20,000 to the first.",
    cases=({"under_snapshot": 100_000},),
    quick=(),
    units={"last_to_first": "×", "first_per_s": "runs/s", "last_per_s": "runs/s"},
    lower=False,
    measure=under_a_snapshot,
    only=("reference", "tuned", "tocsin", "pgqueuer"),
)
SCENARIOS = (HISTORY, SNAPSHOT)
