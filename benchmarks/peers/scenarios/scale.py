"""A tick among many triggers."""

import asyncio
import time

from benchmarks.peers.ground import Case, Figures, Ground, Scenario
from benchmarks.peers.processes import marks
from benchmarks.peers.scenarios.measures import quantile
from benchmarks.peers.servers import session

DUE = 1_000


async def scale(ground: Ground, case: Case) -> Figures:
    """Seconds until 1,000 due schedules have begun on one replica, so many others being not due."""
    far = float(int(time.time() + 20 * 86_400))
    await ground.crew.do("register", within=900, schedules=case["schedules"] - DUE, due=far, prefix="far")
    async with session(ground.dsn) as connection:
        await connection.execute("VACUUM ANALYZE", timeout=600)
    await ground.crew.workers(1, slots=500)
    due = float(int(time.time()) + 6)
    await ground.crew.do("register", schedules=DUE, due=due, prefix="tick")
    await asyncio.sleep(max(0.0, due - time.time()))
    instant = time.monotonic() + due - time.time()
    await ground.crew.begun(DUE, within=60)
    late = [mark.at - instant for mark in marks(ground.crew.records, "B")]
    return {
        "all_begun_s": late[-1],
        "p50_ms": quantile(late, 0.5) * 1e3,
        "missed": float(DUE - len(late)),
    }


SCENARIO = Scenario(
    name="scale",
    title="Scale",
    explained="1,000 schedules due in one second among so many in all, one replica: until the last has begun.",
    cases=({"schedules": 10_000}, {"schedules": 1_000_000}),
    quick=(),
    units={"all_begun_s": "s", "p50_ms": "ms", "missed": "runs"},
    lower=True,
    measure=scale,
    only=("reference", "tuned", "tocsin"),
)
