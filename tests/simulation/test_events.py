"""Events told by three processes over connections that break, some from within transactions that are rolled back: in
the end each is in one run of each trigger, or in one account of why not.

TOCSIN_SIM_SEED=n    repeats one seed, as far as those who tell at once come in the same order
TOCSIN_SIM_SEEDS=n   runs the seeds 0 to n - 1
"""

import asyncio
import os
from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from tests.engine.building import a_trigger, an_app
from tocsin import on_event
from tocsin.domain.errors import Contended, StoreError
from tocsin.domain.event import Event
from tocsin.domain.run import RunState, Settlement
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.control import Control
from tocsin.engine.hearing import Hearing
from tocsin.engine.matcher import Matcher
from tocsin.store.attempts import Attempts, Ended, Quota
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.leases import Incarnation, Leases
from tocsin.telemetry import Silence
from tocsin.testing.clock import SimulatedClock, SimulatedTime
from tocsin.testing.faults import Faults, Seam

TURNS: Final = 120
LEASE: Final = timedelta(days=1)
CHANCE: Final = 0.04


def listening(name: str, kind: str = "order.*", **rule: Any) -> TriggerSpec:
    return a_trigger(name, event=on_event(kind, **rule), overlap=Overlap.ALLOW)


TRIGGERS: Final = (
    listening("plain", input="id"),
    listening("batch", batch="20s", batch_size=7, input="id"),
    listening("debounce", debounce="10s", input="data"),
    listening("throttle", throttle="15s", input="data"),
    listening("rests", input="id"),
    listening("moody", where="length(data.maybe) > `0`", input="id"),
    listening("chain", "run.succeeded", subject="plain", input="data.run_id"),
    listening("circle", "run.succeeded", subject="c*", max_depth=3, input="data.run_id"),
)


class Process:
    """One process that tells, matches, claims and settles; every statement of it may be lost."""

    def __init__(self, name: str, shared: Database, random: Random, time: SimulatedTime) -> None:
        self.faults = Faults(random, chance=CHANCE)
        self.database = Seam(shared, self.faults, time)
        self.clock = SimulatedClock(time)
        self.who = Incarnation(name)
        hearing = Hearing()
        self.control = Control(database=self.database, clock=self.clock, actor=name, hearing=hearing)
        self.attempts = Attempts(database=self.database, clock=self.clock, who=self.who)
        self.matcher = Matcher(
            database=self.database,
            events=Events(clock=self.clock, who=self.who),
            hearing=hearing,
            clock=self.clock,
            log=Silence(),
            batch=5,
        )

    async def tell(self, events: list[Event]) -> None:
        """As a client does: until it is answered."""
        while True:
            try:
                await self.control.emit(events)
                return
            except StoreError:
                pass

    async def match(self) -> bool:
        try:
            return await self.matcher.run_once()
        except StoreError:
            return True

    async def work(self) -> dict[str, Any]:
        """What was claimed, and is settled; its input by its run's id."""
        try:
            claimed = (await self.attempts.claim([Quota("agent", "live", 10)], free=10)).assignments
            ends = [
                Ended(run_id=one.run_id, fence=one.fence, settlement=Settlement(RunState.SUCCEEDED, output=b"1"))
                for one in claimed
            ]
        except (StoreError, Contended):
            return {}
        while ends:
            try:
                await self.attempts.settle(ends)
                break
            except StoreError:
                pass
        return {str(one.run_id): one.input for one in claimed}


class Course:
    def __init__(self, seed: int, dsn: str, admin: "asyncpg.Connection[asyncpg.Record]", shared: Database) -> None:
        self.random = Random(seed)
        self.time = SimulatedTime()
        self.admin = admin
        self.processes = [Process(f"p{n}", shared, self.random, self.time) for n in range(3)]
        self.number = 0
        self.accepted: list[int] = []
        self.claimed: dict[str, Any] = {}
        self.author = Control(database=shared, clock=SimulatedClock(self.time), actor="author")

    async def run(self) -> None:
        for process in self.processes:
            leases = Leases(database=self.author._database, clock=process.clock, who=process.who)
            await leases.register(
                name=process.who.name, version="0", tzdata="", agents=["agent"], slots=10, lease=LEASE
            )
        for _ in range(TURNS):
            self.time.advance(self.random.choice([0, 1, 4, 12]) * self.random.random())
            await self._turn()
        for process in self.processes:
            process.faults.chance = 0.0
        for _ in range(12):
            self.time.advance(30)
            for process in self.processes:
                while await process.match():
                    pass
                while found := await process.work():
                    self._note(found)

    async def _turn(self) -> None:
        random = self.random
        process, other = random.sample(self.processes, 2)
        what = random.choices(["tell", "tell at once", "sql", "match", "work", "pause"], [5, 3, 4, 6, 4, 1])[0]
        if what == "tell":
            await process.tell(self._events(random.randrange(1, 6)))
        elif what == "tell at once":
            events = self._events(random.randrange(1, 12))
            shuffled = random.sample(events, len(events))
            await asyncio.gather(process.tell(events), other.tell(shuffled), other.match())
        elif what == "sql":
            await self._tell_from_sql()
        elif what == "match":
            await asyncio.gather(process.match(), other.match())
        elif what == "work":
            self._note(await process.work())
        else:
            row = await self.author.trigger("rests")
            await (self.author.resume("rests") if row["paused"] else self.author.pause("rests"))

    async def _tell_from_sql(self) -> None:
        events = self._events(self.random.randrange(1, 6))
        transaction = self.admin.transaction()
        await transaction.start()
        for event in events:
            data = msgspec.json.encode(event.data).decode()
            await self.admin.fetchval(
                "SELECT tocsin.emit($1, $2, $3::jsonb, $4)", event.type, event.source, data, event.id
            )
        if self.random.random() < 0.3:
            await transaction.rollback()
            self.accepted = self.accepted[: -len(events)]
        else:
            await transaction.commit()

    def _events(self, count: int) -> list[Event]:
        """New ones. maybe: a filter has no answer for every fifth."""
        numbers = range(self.number, self.number + count)
        self.number += count
        self.accepted += numbers
        return [
            Event(id=str(n), source="https://shop", type="order.paid", data={"n": n, "maybe": "x" if n % 5 else None})
            for n in numbers
        ]

    def _note(self, found: dict[str, Any]) -> None:
        assert not found.keys() & self.claimed.keys()
        self.claimed |= found


def seeds() -> list[int]:
    one = os.environ.get("TOCSIN_SIM_SEED")
    return [int(one)] if one else list(range(min(10, int(os.environ.get("TOCSIN_SIM_SEEDS", "10")))))


@pytest.mark.parametrize("seed", seeds())
async def test_every_event_is_in_one_run_or_one_account(seed: int, dsn: str) -> None:
    shared, admin = Database(dsn, size=8), await asyncpg.connect(dsn)
    try:
        course = Course(seed, dsn, admin, shared)
        await course.author.declare(an_app(*TRIGGERS))
        await course.run()
        assert sum(process.faults.counts.get("lost after", 0) for process in course.processes) > 0
        rows = await admin.fetch(
            "SELECT t.name, r.id::text, r.input, r.state, r.depth FROM tocsin.runs r"
            " JOIN tocsin.triggers t ON t.id = r.trigger_id ORDER BY r.available_at, r.id"
        )
        skips = {
            (row["name"], row["reason"]): row["count"]
            for row in await admin.fetch(
                "SELECT t.name, s.reason, sum(s.count)::integer AS count FROM tocsin.skips s"
                " JOIN tocsin.triggers t ON t.id = s.trigger_id GROUP BY 1, 2"
            )
        }
        assert await admin.fetchval("SELECT count(*) FROM tocsin.events WHERE matched_at IS NULL") == 0
    finally:
        await admin.close()
        await shared.close()
    check(course, {name: [row for row in rows if row["name"] == name] for name in {row["name"] for row in rows}}, skips)


def check(course: Course, runs: dict[str, list[Any]], skips: dict[tuple[str, str], int]) -> None:
    told = set(course.accepted)
    inputs = {name: [msgspec.json.decode(row["input"]) for row in found] for name, found in runs.items()}
    assert Counter(map(int, inputs["plain"])) == Counter(told)
    assert Counter(int(one) for given in inputs["batch"] for one in given) == Counter(told)
    assert all(1 <= len(given) <= 7 for given in inputs["batch"])
    assert Counter(map(int, inputs["moody"])) == Counter(n for n in told if n % 5)
    assert skips["moody", "filter"] == len([n for n in told if n % 5 == 0])
    assert len(inputs["rests"]) + skips.get(("rests", "paused"), 0) == len(told)
    for name in ("debounce", "throttle"):
        numbers = [given["n"] for given in inputs[name]]
        assert len(numbers) == len(set(numbers))
        assert set(numbers) <= told
        assert len(numbers) < len(told)
    # Each success is heard once, by each that listens to it, as deep as it may go.
    succeeded = {name: [row for row in found if row["state"] == "succeeded"] for name, found in runs.items()}
    assert sorted(inputs["chain"]) == sorted(row["id"] for row in succeeded["plain"])
    heard = [row for name in ("chain", "circle") for row in succeeded[name]]
    assert sorted(inputs["circle"]) == sorted(row["id"] for row in heard if row["depth"] < 3)
    assert skips["circle", "depth"] == len([row for row in heard if row["depth"] >= 3])
    assert max(row["depth"] for found in runs.values() for row in found) == 3
    # What was claimed is what stands there: nothing was added to it afterwards.
    stored = {row["id"]: row["input"] for found in runs.values() for row in found}
    assert {run_id: stored[run_id] for run_id in course.claimed} == course.claimed
    assert all(row["state"] in ("succeeded", "skipped", "running") for found in runs.values() for row in found)
