"""Many schedules due in the same second, with and without the death of a replica just before."""

import asyncio
import signal
import time

from benchmarks.peers.ground import Cannot, Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, AdapterProcess, marks
from benchmarks.peers.scenarios.measures import cpu_seconds, quantile

SLOTS = 500
PATIENCE = 60.0
"""Seconds after the instant; what has not begun by then is called missed."""


async def burst(ground: Ground, case: Case) -> Figures:
    return await _burst(ground, case, kill=False)


async def burst_with_a_death(ground: Ground, case: Case) -> Figures:
    if ground.contestant.replicas < 2:
        raise Cannot("runs in one process: when it is killed, all is missed")
    return await _burst(ground, case, kill=True)


async def _burst(ground: Ground, case: Case, *, kill: bool) -> Figures:
    schedules = case["schedules"]
    if schedules > ground.contestant.largest.get("burst", schedules):
        raise Cannot(f"not tried beyond {ground.contestant.largest['burst']:,} schedules: it would take minutes")
    contestant = ground.contestant
    due = next_instant(contestant.resolution, 8 + schedules * contestant.lead)
    order = {"schedules": schedules, "due": due, "slots": SLOTS, "prefix": "tick"}
    if not ground.contestant.resident:
        await ground.crew.do("register", **order)
    # The schedules are given to the workers as well, for contestants that want them declared.
    workers = await ground.crew.workers(ground.contestant.replicas, **order)
    late_start = time.time() - due
    if late_start > -1:
        raise AdapterFailed(f"was not up with {schedules:,} schedules before they were due ({late_start:+.0f} s)")
    await asyncio.sleep(due - time.time() - 0.5)
    if kill:
        busiest(workers).send(signal.SIGKILL)
    instant = time.monotonic() + due - time.time()
    await ground.crew.begun(schedules, within=instant + PATIENCE - time.monotonic())
    # Whoever fires twice has had the time to do so.
    await asyncio.sleep(2)
    begins = [mark for mark in marks(ground.crew.records, "B") if mark.key.startswith("tick")]
    first: dict[str, float] = {}
    for mark in begins:
        first.setdefault(mark.key, mark.at - instant)
    late = sorted(first.values())
    figures = {
        "doubled": float(len(begins) - len(first)),
        "missed": float(schedules - len(first)),
        "early": float(sum(value < 0 for value in late)),
    }
    if not late:
        return figures
    times = {"all_begun_s": late[-1], "p50_ms": quantile(late, 0.5) * 1e3, "p99_ms": quantile(late, 0.99) * 1e3}
    return times | figures


def next_instant(resolution: int, seconds: float) -> float:
    """A Unix instant on the grid, at least so far away."""
    return float((int(time.time() + seconds) // resolution + 1) * resolution)


def busiest(workers: list[AdapterProcess]) -> AdapterProcess:
    """By CPU time: where there is a leader, it is the leader."""
    return max(workers, key=lambda worker: cpu_seconds(worker.pid))


BURST = Scenario(
    name="burst",
    title="Burst",
    explained="So many schedules are due in the same second, three replicas; until the last run has begun.",
    cases=({"schedules": 100}, {"schedules": 1_000}, {"schedules": 10_000}),
    quick=({"schedules": 1_000},),
    units={"all_begun_s": "s", "p50_ms": "ms", "p99_ms": "ms", "doubled": "runs", "missed": "runs", "early": "runs"},
    lower=True,
    measure=burst,
)
BURST_KILL = Scenario(
    name="burst-kill",
    title="Burst with a death",
    explained="The same; the busiest replica is killed (kill -9) half a second before the instant.",
    cases=({"schedules": 100}, {"schedules": 1_000}),
    quick=({"schedules": 1_000},),
    units={"p99_ms": "ms", "p50_ms": "ms", "all_begun_s": "s", "doubled": "runs", "missed": "runs", "early": "runs"},
    lower=True,
    measure=burst_with_a_death,
)
SCENARIOS = (BURST, BURST_KILL)
