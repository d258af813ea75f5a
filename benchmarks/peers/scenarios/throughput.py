"""No-op runs a second: claim, execute, settle."""

import asyncio
import time

from benchmarks.peers.ground import Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, marks
from benchmarks.peers.servers import session

SLOTS = 1000


async def throughput(ground: Ground, case: Case) -> Figures:
    """The queue is full before the workers start. Counted from when the last of them has begun its first
    run, so that starting up is not measured, until the last run has been settled.
    """
    contestant = ground.contestant
    count = min(case["runs"], contestant.largest.get("throughput", case["runs"])) * contestant.stretch
    await ground.crew.do("enqueue", count=count)
    workers = await ground.crew.workers(case["processes"], slots=SLOTS)
    begun = await ground.crew.begun(count, within=200)
    if begun < count:
        raise AdapterFailed(f"{begun} of {count} runs had begun after 200 s")
    await settled(ground)
    ended_at = time.monotonic()
    for worker in workers:
        await worker.end()
    return rate(ground, ended_at, count)


def rate(ground: Ground, ended_at: float, count: int) -> Figures:
    begins = marks(ground.crew.records, "B")
    firsts: dict[int, float] = {}
    for mark in begins:
        firsts.setdefault(mark.pid, mark.at)
    from_here = max(firsts.values())
    counted = sum(mark.at >= from_here for mark in begins)
    return {
        "runs_per_s": counted / (ended_at - from_here),
        "doubled": float(len(begins) - len({mark.key for mark in begins})),
        "runs": float(count),
    }


async def settled(ground: Ground) -> None:
    """No run is left open. For a store that cannot be asked, the last begin counts."""
    if ground.contestant.unsettled is None:
        return
    async with session(ground.dsn) as connection:
        while await connection.fetchval(ground.contestant.unsettled):  # noqa: ASYNC110 — others' rows
            await asyncio.sleep(0.005)


SCENARIO = Scenario(
    name="throughput",
    title="Throughput",
    explained="20,000 no-op runs wait; from when every process has begun its first until the last is settled.",
    cases=({"runs": 20_000, "processes": 1}, {"runs": 20_000, "processes": 2}),
    quick=({"runs": 10_000, "processes": 1},),
    units={"runs_per_s": "runs/s", "doubled": "runs"},
    lower=False,
    measure=throughput,
)
