"""SIGTERM with short and with long work in hand."""

import asyncio
import signal

from benchmarks.peers.ground import Case, Figures, Ground, Scenario
from benchmarks.peers.processes import AdapterFailed, marks
from benchmarks.peers.servers import session

EACH = 5


async def drain(ground: Ground, case: Case) -> Figures:
    """Short runs that end where they began, and seconds from the limit until the long ones begin elsewhere."""
    limit = float(case["limit"])
    given = {"slots": 4 * EACH, "limit": limit}
    (holder,) = await ground.crew.workers(1, **given)
    await ground.crew.do("enqueue", count=EACH, nap=limit + 5, prefix="long")
    await ground.crew.do("enqueue", count=EACH, nap=3.0, prefix="short")
    if await ground.crew.begun(2 * EACH, within=30) < 2 * EACH:
        raise AdapterFailed("the runs had not begun after 30 s")
    await ground.crew.workers(1, **given)
    told_at = holder.send(signal.SIGTERM)
    await asyncio.sleep(limit + 9)
    ends = marks(ground.crew.records, "E")
    begins = marks(ground.crew.records, "B")
    elsewhere = {m.key: m.at - told_at for m in begins if m.key.startswith("long") and m.pid != holder.pid}
    figures = {
        "short_ended": float(sum(m.key.startswith("short") and m.pid == holder.pid for m in ends)),
        "long_ended_in_place": float(sum(m.key.startswith("long") and m.pid == holder.pid for m in ends)),
        "long_begun_elsewhere": float(len(elsewhere)),
    }
    if ground.contestant.attempts is not None:
        async with session(ground.dsn) as connection:
            figures["attempt"] = await connection.fetchval(ground.contestant.attempts)
    return ({"after_limit_s": max(elsewhere.values()) - limit} if elsewhere else {}) | figures


SCENARIO = Scenario(
    name="drain",
    title="Drain",
    explained="SIGTERM with runs of 3 s and of 40 s in hand, 5 each, a limit of 35 s, another replica stands by.",
    cases=({"limit": 35},),
    quick=({"limit": 4},),
    units={
        "after_limit_s": "s",
        "short_ended": "of 5",
        "long_ended_in_place": "of 5",
        "long_begun_elsewhere": "of 5",
        "attempt": "counted",
    },
    lower=True,
    measure=drain,
)
