"""From the call that asks for a run to its begin, with nothing else to do."""

import asyncio

from benchmarks.peers.ground import Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, marks
from benchmarks.peers.scenarios.measures import quantile

WARM_UP = 20


async def across(ground: Ground, case: Case) -> Figures:
    """One process asks, another one works."""
    await ground.crew.workers(1)
    await asyncio.sleep(2)
    await ground.crew.do("fire", count=case["fires"] + WARM_UP)
    return await _figures(ground, case["fires"])


async def within(ground: Ground, case: Case) -> Figures:
    """The process that asks is the one that works."""
    workers = await ground.crew.workers(1, fires=case["fires"] + WARM_UP)
    await workers[0].said("fired", within=240)
    return await _figures(ground, case["fires"])


async def _figures(ground: Ground, fires: int) -> Figures:
    begun = await ground.crew.begun(fires + WARM_UP, within=20)
    if begun < fires + WARM_UP:
        raise AdapterFailed(f"{begun} of {fires + WARM_UP} runs had begun")
    called = {mark.key: mark.at for mark in marks(ground.crew.records, "F")}
    took = {mark.key: mark.at - called[mark.key] for mark in marks(ground.crew.records, "B")}
    late = sorted(seconds * 1e3 for key, seconds in took.items() if int(key.rpartition("-")[2]) >= WARM_UP)
    return {"p50_ms": quantile(late, 0.5), "p99_ms": quantile(late, 0.99), "max_ms": late[-1]}


UNITS = {"p50_ms": "ms", "p99_ms": "ms", "max_ms": "ms"}
LATENCY = Scenario(
    name="latency",
    title="Latency",
    explained="From the call that asks for a run in one process to its begin in another, one every 50 ms.",
    cases=({"fires": 400},),
    quick=({"fires": 100},),
    units=UNITS,
    lower=True,
    measure=across,
)
LATENCY_WITHIN = Scenario(
    name="latency-within",
    title="Latency within a process",
    explained="The same where the process that asks is the one that works.",
    cases=({"fires": 400},),
    quick=(),
    units=UNITS,
    lower=True,
    measure=within,
)
SCENARIOS = (LATENCY, LATENCY_WITHIN)
