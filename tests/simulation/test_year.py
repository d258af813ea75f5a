"""A year of two hundred triggers in eight zones, planned on a real database, against the second opinion.

The year holds every change of clocks of its zones, among them Samoa's day that never was, half an hour
at Lord Howe, and Morocco's. The time moves by some hours at once, with a grace that is longer: every
occurrence is on time, and must be a run.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

from tocsin.domain.schedule import cron, every
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.declaring import first_cursor
from tocsin.engine.planner import Planner
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Silence
from tocsin.testing.builders import a_trigger, an_agent, an_id
from tocsin.testing.clock import SimulatedClock, SimulatedTime
from tocsin.testing.occurrences import enumerate_schedule

FROM = datetime(2011, 7, 1, tzinfo=UTC)
UNTIL = FROM + timedelta(days=366)
STRIDE = timedelta(hours=4)
ZONES = [
    "America/New_York", "Europe/London", "Australia/Lord_Howe", "America/Santiago", "Asia/Beirut",
    "Africa/Casablanca", "Pacific/Apia", "UTC",
]  # fmt: skip
HOURS = ["0", "1", "2", "3", "9", "23", "0,12", "1-3"]


def a_year_of_triggers(random: Random) -> Iterator[TriggerSpec]:
    """In each zone: eighteen a day or rarer, near the hours at which clocks change, and a few that are dense."""
    for tz in ZONES:
        texts = [f"{random.choice(['0', '15', '30', '59', '7'])} {random.choice(HOURS)} * * *" for _ in range(9)]
        texts += [f"{random.randrange(60)} {random.choice(HOURS)} * * {random.choice(['sun', 'mon-fri', '6'])}"] * 3
        texts += [f"30 {random.choice(HOURS)} {random.choice(['1', '30', '*/5', '13'])} * fri" for _ in range(3)]
        texts += [f"{random.randrange(60)} */{random.choice([4, 6, 8])} * * *" for _ in range(3)]
        texts.append(f"{random.choice([0, 30])} * * * *")
        schedules = [
            cron(text, tz, gap=random.choice(["shift", "skip"]), fold=random.choice(["first", "last", "both"]))
            for text in texts
        ]
        schedules += [every(random.choice([11_000, 40_000, 86_400, 100_000]), start_at=FROM) for _ in range(4)]
        schedules.append(cron("0 9 * * *", tz, except_=["2011-12-24/2012-01-02", "* * * * sun"]))
        schedules.append(cron("15 4 * * *", tz) | every(90_000))
        for number, schedule in enumerate(schedules):
            yield a_trigger(f"{tz.replace('/', '.')}-{number}", schedule=schedule, grace=2 * STRIDE)
    yield a_trigger("dense", schedule=cron("*/15 * * * *", "Australia/Lord_Howe"), grace=2 * STRIDE)


async def test_a_year_of_two_hundred_triggers_is_what_the_second_opinion_says(dsn: str) -> None:
    random = Random(2011)
    time = SimulatedTime(FROM)
    clock = SimulatedClock(time)
    database = Database(dsn, size=2)
    triggers = Triggers(database=database, clock=clock, who=Incarnation("year"))
    new = [first_cursor(an_id(random), spec, FROM) for spec in a_year_of_triggers(random)]
    async with database.transaction() as session:
        await triggers.declare_agents(session, [an_agent()], source="test")
        await triggers.insert(session, new, source="test")
    planner = Planner(
        database=database, triggers=triggers, clock=clock, time=DatabaseTime(clock), log=Silence(), batch=500,
        fired=lambda: None,
    )  # fmt: skip
    while time.instant < UNTIL:
        time.advance_to(min(time.instant + STRIDE, UNTIL))
        while await planner.run_once():
            pass
    async with database.session() as session:
        rows = await session.connection.fetch("SELECT r.trigger_id, r.nominal_at FROM tocsin.runs r")
        skipped = await session.connection.fetchval("SELECT count(*) FROM tocsin.skips")
    await database.close()

    assert len(new) >= 200
    assert skipped == 0
    ran: dict[UUID, list[datetime]] = {}
    for row in rows:
        ran.setdefault(row["trigger_id"], []).append(row["nominal_at"])
    for one in new:
        assert one.spec.schedule is not None
        due = enumerate_schedule(one.spec.schedule.to_json(), FROM, UNTIL)
        assert due, one.spec.name
        assert sorted(ran[one.id]) == due, one.spec.name
    assert len(rows) >= 100_000
