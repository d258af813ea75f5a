"""One seed's course: a fleet, what the seed declares, a client, faults one after another, calm, and the verdict."""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.chaos.agents import elsewhere, hub, scripted
from tests.chaos.catalogue import is_of_instances, made
from tests.chaos.client import Client
from tests.chaos.fault import Fault
from tests.chaos.fleet import DRAIN, LEASE, Fleet
from tests.chaos.generator import AFTER, TRIGGERS, declared
from tests.chaos.journal import read_journal
from tests.chaos.onlooker import Onlooker
from tests.chaos.process_faults import crash_points_hit
from tests.chaos.sabotage import prepare
from tocsin import App
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.store.database import Database
from tocsin.testing.history import Row, audit
from tocsin.testing.history.checker import check, report
from tocsin.testing.history.limits import fenced_work, start_lags
from tocsin.testing.history.logs import Bounds, Logs
from tocsin.testing.violation import Violation

PATIENCE: Final = float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))
"""How many times slower than a machine of one's own this one may be."""

INSTANCES: Final = 4

CALM: Final = 12.0
"""Seconds without faults at the end: longer than everything that may still be owed then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """seconds: with faults; calm follows. sabotage: a guard taken out of every replica."""

    seed: int
    faults: Sequence[str]
    seconds: float = 45
    calm: float = CALM
    triggers: int = TRIGGERS
    sabotage: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def instances(self) -> int:
        """Agent processes beside the replicas: some, where a fault is about them."""
        return INSTANCES if any(map(is_of_instances, self.faults)) else 0

    @property
    def again(self) -> str:
        """The command that repeats it."""
        return f"make chaos SEED={self.seed} FAULTS={','.join(self.faults)} SECONDS={self.seconds:g}"


@dataclass(slots=True, kw_only=True)
class Verdict:
    """did: how often each fault had an effect; broken: faults that could not be done, and why."""

    course: Course
    logs: Logs
    violations: list[Violation]
    did: dict[str, int]
    broken: list[str]
    points: dict[str, int]

    @property
    def clean(self) -> bool:
        return not self.violations and not self.broken

    def __str__(self) -> str:
        logs = self.logs
        lags = start_lags(logs)
        lines = [
            f"seed {self.course.seed}: {len(logs.tables['runs'])} runs, {len(logs.audit)} changes,"
            f" {len(logs.entries)} ledger entries, {len(logs.calls)} calls, faults {self.did}"
        ]
        if lags:
            median, most = lags[len(lags) // 2].total_seconds(), lags[-1].total_seconds()
            lines.append(f"starts: median {median * 1000:.0f} ms after the instant, at most {most:.2f} s")
        if zombies := fenced_work(logs):
            lines.append(
                f"{len(zombies)} effects of fenced attempts, at most {zombies[-1].total_seconds():.2f} s after"
            )
        if hit := {point: count for point, count in self.points.items() if count}:
            lines.append(f"crashed at {hit}")
        lines += [f"not done: {one}" for one in self.broken]
        if not self.clean:
            lines += [*report(logs, self.violations).splitlines(), f"again: {self.course.again}"]
        else:
            lines.append("every invariant held")
        return "\n".join(lines)


async def run(course: Course, place: Path) -> Verdict:
    """The course has been run in ``place``, nothing of it is left running, and its history is judged."""
    env = {"CHAOS_SABOTAGE": course.sabotage} if course.sabotage else {}
    async with (
        Fleet(place, env=env, settings=course.settings, instances=course.instances) as fleet,
        AsyncExitStack() as stack,
    ):
        database = Database(fleet.postgres.dsn, size=4)
        stack.push_async_callback(database.close)
        await audit.install(database)
        rng = Random(course.seed)
        app = await _declared(fleet, database, course, rng)
        onlooker = Onlooker(fleet)
        names = [trigger.name for trigger in app.triggers if not trigger.name.startswith(("by-hand", AFTER))]
        client = Client(database, place, Random(course.seed + 1), names)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(onlooker.run())
            calling = group.create_task(client.run())
            did, broken = await _afflict(fleet, course, rng)
            calling.cancel()
            await _calm(fleet, course)
            looking.cancel()
        logs = await logs_of(fleet, database, onlooker)
        points = crash_points_hit(fleet)
    return Verdict(course=course, logs=logs, violations=check(logs), did=did, broken=broken, points=points)


async def _declared(fleet: Fleet, database: Database, course: Course, rng: Random) -> App:
    """Everybody is up and knows the agents, and then there is something to do."""
    control = Control(database=database, clock=SystemClock(), actor="declarer")
    await control.declare(declared(Random(0), await fleet.value("SELECT now()"), count=0, instances=course.instances))
    if course.sabotage:
        await prepare(course.sabotage, fleet)
    await fleet.start()
    app = declared(rng, await fleet.value("SELECT now()"), count=course.triggers, instances=course.instances)
    await control.declare(app)
    return app


async def _afflict(fleet: Fleet, course: Course, rng: Random) -> tuple[dict[str, int], list[str]]:
    """Every fault has been on at least once, in an order that the seed decides, until the time is over."""
    faults = made(list(course.faults))
    broken: list[str] = []
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + course.seconds
    number = 0
    while faults and (number < len(faults) or loop.time() < ends_at):
        round_, place = divmod(number, len(faults))
        order = Random(course.seed * 1_000 + round_).sample(faults, len(faults))
        await asyncio.sleep(rng.uniform(0.3, 1.5))
        broken += await _inject(fleet, order[place], rng, number)
        number += 1
    await asyncio.sleep(max(0.0, ends_at - loop.time()))
    tried = {one.partition(":")[0] for one in broken}
    broken += [f"{fault.name}: it had no effect" for fault in faults if not fault.did and fault.name not in tried]
    return {fault.name: fault.did for fault in faults}, broken


async def _inject(fleet: Fleet, fault: Fault, rng: Random, number: int) -> list[str]:
    fleet.journal.note("on", fault=fault.name, number=number, excuses=sorted(fault.excuses))
    try:
        async with asyncio.timeout(120):
            await fault.inject(fleet, Random(rng.random()))
    except Exception as error:
        return [f"{fault.name}: {type(error).__name__}: {error}"]
    finally:
        for member in fleet.everybody:
            member.thaw()
        await fleet.postgres.start()
        await fleet.start()
        fleet.journal.note("off", fault=fault.name, number=number)
    return []


async def _calm(fleet: Fleet, course: Course) -> None:
    fleet.journal.note("calm")
    await fleet.for_a_while(course.calm)


async def logs_of(fleet: Fleet, database: Database, onlooker: Onlooker, *, connections: int = 16) -> Logs:
    """All four logs, up to one snapshot of the database. connections: that may be open for each replica."""
    taken = await audit.snapshot(database)
    until, bounds = taken.until, Bounds()
    unsure = taken.since - bounds.noise
    clock = Clock(onlooker.ticks)
    entries = [
        entry for ledger in fleet.ledgers.iterdir() for entry in clock.stamped(read_journal(ledger), until=until)
    ]
    calls = fleet.place / "calls.jsonl"
    events = clock.stamped(read_journal(fleet.journal.path), until=until)
    executors = dict.fromkeys(hub.build("chaos").functions, "function") | {"porter": "command"}
    executors |= {agent: "process" for served in (elsewhere, scripted) for agent in served.build("chaos").functions}
    return Logs(
        audit=taken.changes,
        entries=certain(sorted(entries, key=lambda entry: entry["at"]), before=unsure),
        calls=certain(clock.stamped(read_journal(calls), until=until) if calls.exists() else [], before=unsure),
        events=events,
        seen=frozenset(onlooker.seen),
        samples=clock.stamped(onlooker.samples, until=until),
        tables=taken.tables,
        poisoned=frozenset(one for event in events if event["what"] == "poison" for one in event["ids"]),
        bounds=replace(
            bounds,
            lease=timedelta(seconds=LEASE),
            drain=timedelta(seconds=DRAIN),
            late=timedelta(seconds=2) * PATIENCE,
            busy=timedelta(seconds=1) * PATIENCE,
            connections=connections,
            executors=executors,
        ),
        until=until,
    )


def certain(rows: Sequence[Row], *, before: datetime) -> list[Row]:
    """What was answered later than that may have been committed behind the snapshot: as if no answer had come."""
    rows = [row for row in rows if row["at"] < before or row.get("what") not in ("ANSWER", "TOLD")]
    return [row if row["at"] < before or not row.get("ok") else {**row, "ok": False} for row in rows]


class Clock:
    """The database's instant of each moment of the monotonic clock, from looks that asked for both."""

    def __init__(self, ticks: Sequence[tuple[float, datetime, float]]) -> None:
        self._ticks = list(ticks)
        self._at = [mono for mono, _, _ in self._ticks]

    def instant(self, mono: float) -> datetime:
        """By the quickest look of those around the moment."""
        place = bisect_left(self._at, mono)
        around = self._ticks[max(0, place - 10) : place + 10]
        there, instant, _ = min(around, key=lambda tick: tick[2])
        return instant + timedelta(seconds=mono - there)

    def stamped(self, rows: Sequence[dict[str, Any]], *, until: datetime) -> list[dict[str, Any]]:
        """The rows with ``at``, as far as they are of the history."""
        stamped = []
        for row in rows:
            found = {**row, "at": self.instant(row["mono"])}
            if "effective" in found:
                found["effective"] = datetime.fromisoformat(found["effective"])
            if "sent" in found:
                found["sent"] = self.instant(found["sent"])
            if found["at"] <= until:
                stamped.append(found)
        return stamped
