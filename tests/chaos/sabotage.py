"""Guards, each taken out by name in the processes that have it, and which invariant is to notice."""

import asyncio
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec

from tests.chaos.fleet import Fleet
from tests.chaos.hole import Hole, put, statements
from tests.chaos.holes_elsewhere import HOLES_ELSEWHERE
from tocsin.domain import planning
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine import planner
from tocsin.engine.keeping import Keeping
from tocsin.engine.sweeper import Sweeper
from tocsin.hub import Replica
from tocsin.testing import holes


def install(name: str) -> None:
    """The guard of that name is gone from this process; "" takes out nothing."""
    if name:
        HOLES[name].install()


def install_elsewhere(name: str) -> None:
    """The guard of that name is gone from this agent process."""
    HOLES[name].elsewhere()


async def prepare(name: str, fleet: Fleet) -> None:
    """The guard of that name is gone from the database."""
    if HOLES[name].sql:
        await fleet.fetch(HOLES[name].sql)


def _instants_drift() -> None:
    """One process in two reads some instants a second late."""
    right = Schedule.next_after

    def next_after(self: Schedule, instant: datetime) -> datetime | None:
        found = right(self, instant)
        late = found is not None and os.getpid() % 2 and found.second % 5 == 3
        return found + timedelta(seconds=1) if found is not None and late else found

    put(Schedule, "next_after", next_after)


def _leases_end_with_the_drain() -> None:
    """The keeper leaves first, not last."""
    finish, leave = Replica._finish_work, Keeping.__aexit__
    gone: set[int] = set()

    async def once(self: Keeping, *_: object) -> None:
        if id(self) not in gone:
            gone.add(id(self))
            await leave(self)

    async def finish_work(self: Replica) -> None:
        await self._keeping.__aexit__()
        await finish(self)

    put(Keeping, "__aexit__", once)
    put(Replica, "_finish_work", finish_work)


def _no_amnesty() -> None:
    made = Sweeper.__init__

    def init(self: Sweeper, **collaborators: Any) -> None:
        made(self, **collaborators)
        self._judges_from = float("-inf")

    put(Sweeper, "__init__", init)
    put(Sweeper, "blinded", lambda self: None)


def _no_sweeper() -> None:
    async def step(self: Sweeper, now: float) -> bool:
        return False

    put(Sweeper, "_step", step)


def _no_quarantine() -> None:
    decide = planner.Planner.decide

    def or_fail(self: Any, trigger: Any, now: datetime, kept: Any) -> Any:
        decision = decide(self, trigger, now, kept)
        if decision.broken_reason is not None:
            raise RuntimeError(decision.broken_reason)
        return decision

    put(planner.Planner, "decide", or_fail)


def _everything_caught_up() -> None:
    def plan(spec: TriggerSpec, *rest: Any) -> planning.Plan:
        every = dataclasses.replace(
            spec, catch_up=CatchUp.ALL, max_catch_up=1_000, catch_up_window=timedelta(hours=4), grace=timedelta(0)
        )
        return planning.plan(every, *rest)

    put(planner, "plan", plan)


def _early() -> None:
    decide = planner.Planner.decide

    def ahead(self: Any, trigger: Any, now: datetime, kept: Any) -> Any:
        return decide(self, trigger, now + timedelta(milliseconds=500), kept)

    put(planner.Planner, "decide", ahead)
    statements(holes.early)()


def _pause_ignored() -> None:
    decide = planner.Planner.decide

    def awake(self: Any, trigger: Any, now: datetime, kept: Any) -> Any:
        return decide(self, msgspec.structs.replace(trigger, paused=False), now, kept)

    put(planner.Planner, "decide", awake)


def _sessions_leak() -> None:
    async def leak(dsn: str, kept: list[Any]) -> None:
        while True:
            kept.append(await asyncpg.connect(dsn, server_settings={"application_name": "tocsin"}))
            await asyncio.sleep(0.3)

    enter = Replica.__aenter__

    async def entered(self: Replica) -> Replica:
        self.__dict__["leak"] = asyncio.create_task(leak(self.database.dsn, []))
        return await enter(self)

    put(Replica, "__aenter__", entered)


HOLES: Final[Mapping[str, Hole]] = {
    "instants": Hole(says="replicas agree on a schedule's instants", caught_by="I0", install=_instants_drift),
    "key": Hole(
        says="the unique key of an occurrence, and the planner's lock",
        caught_by="I1",
        install=statements(holes.unkeyed),
        sql="DROP INDEX tocsin.occurrences_instant",
    ),
    "state": Hole(
        says="a settlement compares the state",
        caught_by="I2",
        install=statements(holes.stateless),
        sql=holes.TOOK_EDGES,
        faults=["F5"],
    ),
    "cursor": Hole(
        says="the planner's lock and its limit, and the compare-and-set of the cursor",
        caught_by="I3",
        install=statements(holes.unlimited),
        # A planner that stood still must not put the cursor where it saw it last.
        faults=["F5b"],
    ),
    "fence": Hole(
        says="a settlement compares the fence",
        caught_by="I4",
        install=statements(holes.unfenced),
        faults=["F5"],
    ),
    "beat": Hole(
        says="leases are renewed until work has drained",
        caught_by="I5",
        install=_leases_end_with_the_drain,
        faults=["F34"],
    ),
    "scope": Hole(
        says="a claim looks at its scope, and the index on running scopes",
        caught_by="I6",
        install=statements(holes.overlapping),
        sql="DROP INDEX tocsin.runs_scope_held",
        seconds=25,
    ),
    "amnesty": Hole(
        says="whoever was blind waits before a verdict", caught_by="I7", install=_no_amnesty, faults=["F5a"]
    ),
    "poisoned": Hole(
        says="a run that is lost three times is closed",
        caught_by="I8",
        install=statements(holes.poisonous),
        faults=["F4"],
    ),
    "quarantine": Hole(
        says="a trigger that cannot be read is set aside", caught_by="I9", install=_no_quarantine, faults=["F23"]
    ),
    "cap": Hole(
        says="what was missed is caught up by its policy", caught_by="I10", install=_everything_caught_up, faults=["F2"]
    ),
    "instant": Hole(says="nothing is decided before its instant", caught_by="I14", install=_early),
    "pause": Hole(says="a paused trigger begets nothing", caught_by="I15", install=_pause_ignored, faults=["F44"]),
    "trail": Hole(says="a run that is queued again keeps its trail", caught_by="I16", install=statements(holes.untold)),
    "commit": Hole(
        says="a commit is on disk before it is answered",
        caught_by="I17",
        settings={"synchronous_commit": "off", "wal_writer_delay": "10s"},
        faults=["F8"],
        seconds=15,
    ),
    "sweeper": Hole(says="somebody sweeps", caught_by="I18", install=_no_sweeper, faults=["F2"], calm=11),
    "sessions": Hole(says="a replica's sessions are bounded", caught_by="I20", install=_sessions_leak),
    **HOLES_ELSEWHERE,
}
NAMED: Final = ("key", "fence", "cursor", "amnesty", "beat")
"""The guards that hold everything else; tried on every change."""

BEGIN: Final = "<!-- sabotage: python -m tests.chaos sabotage --write -->"
END: Final = "<!-- /sabotage -->"


def table(found: Mapping[str, Mapping[str, int]], invariants: Sequence[str]) -> str:
    """Sabotage by invariant, in Markdown. A bold number is of the invariant that is meant to notice."""
    lines = [
        f"| taken out | {' | '.join(invariants)} |",
        f"|---|{'---|' * len(invariants)}",
    ]
    for name, hole in HOLES.items():
        counts = [_cell(found[name].get(one, 0), one == hole.caught_by) for one in invariants]
        lines.append(f"| {hole.says} | {' | '.join(counts)} |")
    return "\n".join(lines)


def _cell(count: int, meant: bool) -> str:
    """Seen or not: how often depends on the machine."""
    return ("**×**" if meant else "×") if count else ("**–**" if meant else "")


def written(page: str, found: Mapping[str, Mapping[str, int]], invariants: Sequence[str]) -> str:
    """The page with its table made anew."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{table(found, invariants)}\n{END}", page)
