"""A replica with 50 runs in hand is killed, and a replica with long runs in hand is left alone."""

import asyncio
import signal

from benchmarks.peers.ground import Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, marks
from benchmarks.peers.scenarios.measures import quantile

RUNS = 50
LONG = 300.0


async def crash(ground: Ground, case: Case) -> Figures:
    """Seconds from kill -9 until all 50 have begun elsewhere; those that have not by then are ``stranded``."""
    aggressive = case["settings"] == "shortest"
    given = {"slots": 2 * RUNS, "nap": LONG, "aggressive": aggressive}
    (holder,) = await ground.crew.workers(1, **given)
    await ground.crew.do("enqueue", count=RUNS, nap=LONG)
    begun = await ground.crew.begun(RUNS, within=60)
    if begun < RUNS:
        raise AdapterFailed(f"only {begun} of {RUNS} runs had begun")
    others = await ground.crew.workers(2, **given)
    await asyncio.sleep(5)
    killed_at = holder.send(signal.SIGKILL)
    waited = 0.0
    while waited < case["patience"]:
        await asyncio.sleep(0.2)
        waited += 0.2
        elsewhere = _elsewhere(ground, holder.pid, killed_at)
        if len(elsewhere) >= RUNS:
            break
    await asyncio.sleep(2)
    elsewhere = _elsewhere(ground, holder.pid, killed_at)
    alive = {other.pid for other in others}
    again = [mark for mark in marks(ground.crew.records, "B") if mark.pid in alive and mark.at <= killed_at]
    figures = {"stranded": float(RUNS - len(elsewhere)), "begun_before_the_kill": float(len(again))}
    if elsewhere:
        figures["half_begun_s"] = quantile(sorted(elsewhere.values()), 0.5)
    # What is stranded has no time, so neither has the last of all.
    return ({"all_begun_s": max(elsewhere.values())} if len(elsewhere) >= RUNS else {}) | figures


def _elsewhere(ground: Ground, pid: int, since: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for mark in marks(ground.crew.records, "B"):
        if mark.pid != pid and mark.at > since:
            found.setdefault(mark.key, mark.at - since)
    return found


async def live(ground: Ground, case: Case) -> Figures:
    """Begins beyond the first, of runs whose holder lives all the time, under the shortest limits."""
    given = {"slots": 2 * RUNS, "nap": float(case["run_seconds"]), "aggressive": True}
    await ground.crew.workers(2, **given)
    await ground.crew.do("enqueue", count=RUNS, nap=float(case["run_seconds"]))
    await ground.crew.begun(RUNS, within=60)
    await asyncio.sleep(case["run_seconds"] + 3)
    begins = marks(ground.crew.records, "B")
    again = len(begins) - len({mark.key for mark in begins})
    return {"run_again": float(again), "ended": float(len({mark.key for mark in marks(ground.crew.records, "E")}))}


CRASH = Scenario(
    name="crash",
    title="Crash",
    explained="kill -9 of a replica that holds 50 runs, two others stand by: until all 50 have begun there.",
    cases=({"settings": "default", "patience": 60}, {"settings": "shortest", "patience": 60}),
    quick=({"settings": "default", "patience": 5},),
    units={"all_begun_s": "s", "half_begun_s": "s", "stranded": "runs", "begun_before_the_kill": "runs"},
    lower=True,
    measure=crash,
)
LIVE = Scenario(
    name="live",
    title="Live work left alone",
    explained="50 runs of 20 s under the shortest documented limits, two replicas, no death: begins beyond the first.",
    cases=({"run_seconds": 20},),
    quick=(),
    units={"run_again": "runs", "ended": "runs"},
    lower=True,
    measure=live,
)
SCENARIOS = (CRASH, LIVE)
