"""Faults of what is asked for: rows that cannot be read, herds, long absences, changes that race with the tick."""

import asyncio
import dataclasses
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.fleet import Fleet
from tocsin import at, every
from tocsin.domain.errors import Conflict
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec

HERD: Final = 400
DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
LONG_AWAY: Final = 1_000

POISONS: Final = {
    "minute": '{"rules":[{"cron":"99 * * * *"}]}',
    "step": '{"rules":[{"cron":"*/0 * * * *"}]}',
    "never": '{"rules":[{"cron":"0 0 30 2 *"}]}',
    "zone": '{"rules":[{"cron":"0 9 * * *","tz":"Mars/Phobos"}]}',
    "shape": '{"rules":"always"}',
    "list": "[1, 2]",
    "newer": '{"rules":[{"lunar":"full"}]}',
    "huge": '{"rules":[{"cron":"' + "1," * 250_000 + '1 * * * *"}]}',
    "short": '{"rules":[{"every_seconds":-5}]}',
    "word": '{"rules":[{"every_seconds":"often"}]}',
}
"""Schedules that no edge would take."""

MISFITS: Final = {
    "overlap": '{"overlap":"telepathy"}',
    "number": '{"max_catch_up":"many"}',
    "period": '{"grace":[]}',
}
"""The same of a policy."""

IMPOSSIBLE: Final = ("NULL", "'20000-01-01'", "'0044-03-15 BC'", "'-infinity'")
"""Cursors of an armed trigger that the table itself refuses."""


async def poison_rows(fleet: Fleet, rng: Random) -> int:
    """F23: rows are written past the API. Each is quarantined, with a reason, and costs nobody else anything."""
    names = [*rng.sample(sorted(POISONS), 3), rng.choice(sorted(MISFITS))]
    ids = {name: uuid4() for name in names}
    fleet.journal.note("poison", ids=[str(one) for one in ids.values()])
    for name, one in ids.items():
        await _write(fleet, one, POISONS.get(name, _EVERY_FIVE), MISFITS.get(name, "{}"))
    try:
        await _write(fleet, uuid4(), _EVERY_FIVE, "{}", next_at=rng.choice(IMPOSSIBLE))
    except asyncpg.CheckViolationError:
        pass
    else:
        raise AssertionError("the table took a cursor that nobody can read")
    await fleet.until_value(
        "SELECT count(*) = $2 FROM tocsin.triggers t WHERE t.id = ANY ($1::uuid[]) AND t.status = 'broken'"
        " AND t.broken_reason <> ''",
        list(ids.values()),
        len(ids),
        within=15,
    )
    for name, one in ids.items():
        told = await fleet.control.trigger(f"poison-{one}")
        if told["status"] != "broken" or not told["broken_reason"]:
            raise AssertionError(f"the poison {name!r} is shown as {told}")
    return len(ids)


_EVERY_FIVE: Final = '{"rules":[{"every_seconds":5}]}'


async def _write(fleet: Fleet, key: UUID, schedule: str, policy: str, *, next_at: str = "now()") -> None:
    await fleet.fetch(
        "INSERT INTO tocsin.triggers (id, name, agent, schedule, policy, input, source, status, next_at, wake_at,"
        " created_at, changed_at) SELECT $1, $2, 'scribe', $3::jsonb, t.policy || $4::jsonb, 'null', 'sql', 'armed',"
        f" {next_at}, now(), now(), now() FROM tocsin.triggers t WHERE t.name = 'by-hand'",
        key,
        f"poison-{key}",
        schedule,
        policy,
    )


async def herd(fleet: Fleet, rng: Random) -> int:
    """F39: hundreds of triggers are due at one instant, and all of them have been decided soon after it."""
    now = await fleet.value("SELECT now()")
    due = (now + timedelta(seconds=4)).replace(microsecond=0)
    deadlocks = await fleet.value(DEADLOCKS)
    mark = f"herd-{rng.randrange(10**9)}"
    await fleet.declare([_trigger(f"{mark}-{number}", schedule=at(due), agent="scribe") for number in range(HERD)])
    await fleet.until_value(
        "SELECT count(*) = $2 FROM tocsin.triggers t WHERE t.name LIKE $1 || '%' AND t.status = 'ended'",
        mark,
        HERD,
        within=20,
    )
    begun = await fleet.value(
        "SELECT count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id WHERE t.name LIKE $1 || '%'",
        mark,
    )
    if begun != HERD:
        raise AssertionError(f"of {HERD} triggers that were due at once {begun} had a run")
    if await fleet.value(DEADLOCKS) != deadlocks:
        raise AssertionError("a herd had the server end a deadlock")
    return int(begun)


async def long_absence(fleet: Fleet, rng: Random) -> int:
    """F40: a thousand triggers of one second were due for an hour while nobody was there.

    The hour is not waited for: they are dated back before any replica has seen them.
    """
    for member in fleet.members:
        await member.kill()
    mark = f"away-{rng.randrange(10**9)}"
    policies = [CatchUp.SKIP, CatchUp.LATEST, CatchUp.ALL]
    await fleet.declare(
        [
            _trigger(
                f"{mark}-{number}",
                schedule=every(1),
                agent="scribe",
                catch_up=policies[number % 3],
                catch_up_window=timedelta(seconds=120),
                grace=timedelta(seconds=2),
                overlap=Overlap.ALLOW,
            )
            for number in range(LONG_AWAY)
        ]
    )
    # As if it had always been so: the audit is not to see a cursor that goes back.
    await fleet.fetch(
        "WITH unseen AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', false) AS role)"
        " UPDATE tocsin.triggers t SET next_at = t.next_at - interval '1 hour',"
        " wake_at = t.wake_at - interval '1 hour', created_at = t.created_at - interval '1 hour',"
        " changed_at = t.changed_at - interval '1 hour' FROM unseen u"
        " WHERE u.role = 'replica' AND t.name LIKE $1 || '%'",
        mark,
    )
    await fleet.start()
    await fleet.until_value(
        "SELECT count(*) = 0 FROM tocsin.triggers t WHERE t.name LIKE $1 || '%' AND t.wake_at < now() - interval '5 s'",
        mark,
        within=60,
    )
    caught_up = await fleet.value(
        "SELECT count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id"
        " WHERE t.name LIKE $1 || '%' AND r.lane = 'late'",
        mark,
    )
    for name in [f"{mark}-{number}" for number in range(LONG_AWAY)]:
        await fleet.control.delete_trigger(name)
    if caught_up < LONG_AWAY / 3:
        raise DidNothing(f"only {caught_up} runs were caught up")
    return int(caught_up)


async def race_with_tick(fleet: Fleet, rng: Random) -> int:
    """F44: two clients pause, resume, edit and delete at the very instant at which a trigger is due."""
    mark = f"race-{rng.randrange(10**9)}"
    specs = [_trigger(f"{mark}-{number}", schedule=every(1), agent="scribe") for number in range(12)]
    await fleet.declare(specs)
    done = 0
    for _ in range(5):
        await fleet.until_next_second(rng.uniform(-0.02, 0.02))
        acts = [_change(fleet, spec, rng) for spec in rng.sample(specs, 8)]
        done += sum(await asyncio.gather(*acts))
    for spec in specs:
        if rng.random() < 0.5:
            await fleet.until_next_second(rng.uniform(-0.02, 0.02))
        await fleet.control.delete_trigger(spec.name)
        done += 1
    return done


async def _change(fleet: Fleet, spec: TriggerSpec, rng: Random) -> bool:
    """Whether it was done. To resume what does not rest is refused."""
    with suppress(Conflict):
        await _changed(fleet, spec, rng)
        return True
    return False


async def _changed(fleet: Fleet, spec: TriggerSpec, rng: Random) -> None:
    match rng.randrange(3):
        case 0:
            await asyncio.gather(fleet.control.pause(spec.name), fleet.control.pause(spec.name, reason="budget"))
        case 1:
            await fleet.control.resume(spec.name)
        case _:
            period = rng.choice([1, 2, 3])
            await fleet.control.edit_trigger(
                spec.name, lambda old: dataclasses.replace(old, schedule=every(period), priority=rng.randrange(10))
            )


def _trigger(name: str, *, agent: str, **policy: object) -> TriggerSpec:
    return TriggerSpec(name=name, agent=agent, input={"seconds": [0.0]}, **policy)  # type: ignore[arg-type]


FAULTS: Catalogue = {
    "F23": lambda: Simple("F23", poison_rows),
    "F39": lambda: Simple("F39", herd),
    "F40": lambda: Simple("F40", long_absence, excuses=frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND})),
    "F44": lambda: Simple("F44", race_with_tick),
}
