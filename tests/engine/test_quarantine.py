"""Rows broken behind the hub's back: each is put aside with its reason, and nobody else is late for it."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from tests.engine.building import DEADLINE, MINUTE, NOON, World, a_trigger, an_app
from tocsin import cron
from tocsin.domain.errors import Conflict

MINUTELY = cron("* * * * *")
DEEP = "[" * 3_000 + "]" * 3_000

#: What is written over a sound row, and a word of the reason that must be given for it.
BROKEN = {
    "minute-99": ("""schedule = '{"rules": [{"cron": "99 * * * *"}]}'""", "minute"),
    "step-0": ("""schedule = '{"rules": [{"cron": "*/0 * * * *"}]}'""", "minute"),
    "february-30": ("""schedule = '{"rules": [{"cron": "0 0 30 2 *"}]}'""", "never"),
    "words": ("""schedule = '{"rules": [{"cron": "at noon"}]}'""", "field"),
    "number": ("""schedule = '{"rules": [{"cron": 5}]}'""", "cron"),
    "megabyte": ("""schedule = jsonb_build_object('rules', jsonb_build_array(jsonb_build_object('cron',
                    repeat('1,', 500000) || '1 * * * *')))""", "cron"),
    "phobos": ("""schedule = '{"rules": [{"cron": "* * * * *", "tz": "Mars/Phobos"}]}'""", "Mars/Phobos"),
    "etc-passwd": ("""schedule = '{"rules": [{"cron": "* * * * *", "tz": "../../etc/passwd"}]}'""", "tz"),
    "list": ("schedule = '[]'", "schedule"),
    "text": ("""schedule = '"soon"'""", "schedule"),
    "json-null": ("schedule = 'null'", "schedule"),
    "empty": ("schedule = '{}'", "rules"),
    "deep": (f"schedule = '{DEEP}'", ""),
    "newer-key": ("""schedule = '{"rules": [{"cron": "* * * * *"}], "moon": "full"}'""", "moon"),
    "every-0": ("""schedule = '{"rules": [{"every_seconds": 0}]}'""", "every"),
    "every-huge": ("""schedule = '{"rules": [{"every_seconds": 1e300}]}'""", "every"),
    "none": ("schedule = NULL", "no schedule"),
    "policy-empty": ("policy = '{}'", "overlap"),
    "policy-list": ("policy = '[]'", "cannot be read"),
    "policy-newer": ("""policy = policy || '{"overlap": "psychic"}'""", "psychic"),
    "policy-text": ("""policy = policy || '{"grace": "soon"}'""", "cannot be read"),
    "policy-priority": ("""policy = policy || '{"priority": 77}'""", "priority"),
    "policy-huge": ("""policy = policy || '{"catch_up_window": 1e300}'""", "cannot be read"),
    "gap": ("gap_reason = 'weather', gap_from = next_at", "weather"),
}  # fmt: skip


async def break_all(world: World, cases: dict[str, tuple[str, str]]) -> None:
    sound = [a_trigger(f"sound-{n}", MINUTELY) for n in range(20)]
    await world.declare(*sound, *(a_trigger(name, MINUTELY) for name in cases))
    for name, (change, _) in cases.items():
        await world.admin.execute(f"UPDATE tocsin.triggers SET {change} WHERE name = '{name}'")


async def sound_runs(world: World) -> int:
    return int(
        await world.value(
            "SELECT count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id "
            "WHERE t.name LIKE 'sound%' AND r.nominal_at = $1",
            NOON + MINUTE,
        )
    )


@pytest.mark.parametrize("name", list(BROKEN))
async def test_a_broken_row_is_put_aside_with_its_reason_and_others_fire_on_time(world: World, name: str) -> None:
    case = BROKEN[name]
    await break_all(world, {name: case})
    peer = await world.peer()
    world.clock.turn(MINUTE)
    async with asyncio.timeout(DEADLINE / 3):
        while await peer.planner.run_once():
            pass
    assert await sound_runs(world) == 20
    told = {row["name"]: row for row in await world.control.triggers(limit=100)}
    assert told[name]["status"] == "broken"
    assert case[1] in told[name]["broken_reason"]
    assert len(told[name]["broken_reason"]) < 2_000
    assert {row["status"] for other, row in told.items() if other != name} == {"armed"}


async def test_all_of_them_at_once_delay_nobody(world: World) -> None:
    await break_all(world, BROKEN)
    peer = await world.peer()
    world.clock.turn(MINUTE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while await peer.planner.run_once():
        pass
    assert loop.time() - began < DEADLINE / 3
    assert await sound_runs(world) == 20
    broken = await world.rows("SELECT name FROM tocsin.triggers WHERE status = 'broken'")
    assert {row["name"] for row in broken} == set(BROKEN)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 40


async def test_a_quarantined_trigger_can_be_looked_at_deleted_and_mended(world: World) -> None:
    await break_all(world, {"phobos": BROKEN["phobos"], "policy-list": BROKEN["policy-list"]})
    peer = await world.peer()
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    control = world.control
    for name in ("phobos", "policy-list"):
        assert (await control.trigger(name))["status"] == "broken"
        assert "quarantined" in (await control.why(name))["standing"][0]
        with pytest.raises(Conflict, match="is broken"):
            await control.fire(name)
        with pytest.raises(Conflict, match="is broken"):
            await control.edit_trigger(name, lambda spec: spec)
    await control.delete_trigger("policy-list")
    report = await control.declare(an_app(a_trigger("phobos", MINUTELY)))
    assert report["triggers"]["changed"] == ["phobos"]
    mended = await control.trigger("phobos")
    assert (mended["status"], mended["broken_reason"], mended["next_at"]) == ("armed", None, NOON + 2 * MINUTE)
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    runs = await control.runs(limit=5, trigger="phobos")
    assert [run["nominal_at"] for run in runs] == [NOON + 2 * MINUTE]


@pytest.mark.parametrize("column", ["next_at", "wake_at"])
@pytest.mark.parametrize("value", ["NULL", "'20000-01-01'", "'4000-01-01 BC'", "'infinity'", "'-infinity'"])
async def test_an_instant_that_nobody_could_read_is_refused_by_the_table(world: World, column: str, value: str) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    with pytest.raises(asyncpg.CheckViolationError, match=r"triggers_armed_has|triggers_within_calendar"):
        await world.admin.execute(f"UPDATE tocsin.triggers SET {column} = {value}")


async def test_a_cursor_at_the_end_of_the_calendar_fires_nothing_early(world: World) -> None:
    await break_all(world, {"year-9999": ("next_at = '9999-12-31 23:59:00+00'", "")})
    peer = await world.peer()
    world.clock.turn(MINUTE)
    while await peer.planner.run_once():
        pass
    assert await sound_runs(world) == 20
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 20
    row = await world.row("SELECT next_at = wake_at AS rests, status FROM tocsin.triggers WHERE name = 'year-9999'")
    assert (row["rests"], row["status"]) == (True, "armed")


async def test_a_trigger_whose_values_the_database_refuses_is_put_aside_alone(world: World) -> None:
    """Its policy reads well, and only the statement that writes its run fails."""
    await break_all(world, {})
    await world.declare(*(a_trigger(f"sound-{n}", MINUTELY) for n in range(20)), a_trigger("poison", MINUTELY))
    await world.admin.execute("""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.trigger_id = (SELECT id FROM tocsin.triggers WHERE name = 'poison') THEN
                RAISE EXCEPTION 'not this one';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON tocsin.runs FOR EACH ROW EXECUTE FUNCTION public.refuse();
    """)
    peer = await world.peer()
    world.clock.turn(MINUTE)
    while await peer.planner.run_once():
        pass
    assert await sound_runs(world) == 20
    row = await world.row("SELECT status, broken_reason FROM tocsin.triggers WHERE name = 'poison'")
    assert row["status"] == "broken"
    assert "not this one" in row["broken_reason"]


async def test_a_row_that_cannot_be_read_does_not_hide_the_others_from_a_listing(world: World) -> None:
    await break_all(world, {name: BROKEN[name] for name in ("deep", "phobos", "megabyte", "list")})
    told = await world.control.triggers(limit=100)
    assert len(told) == 24
    assert (await world.control.insight.forecast())["triggers"] >= 20


async def test_a_broken_schedule_does_not_stop_a_rearm(world: World) -> None:
    await world.declare(a_trigger("a", MINUTELY), a_trigger("b", MINUTELY))
    await world.admin.execute("UPDATE tocsin.triggers SET status = 'waiting', next_at = NULL, wake_at = NULL")
    await world.admin.execute(
        """UPDATE tocsin.triggers SET schedule = '{"rules": [{"every_seconds": 60, "after_completion": true}]}'
            WHERE name = 'a'"""
    )
    await world.admin.execute(
        """UPDATE tocsin.triggers SET schedule = '{"rules": [{"every_seconds": "soon"}]}' WHERE name = 'b'"""
    )
    peer = await world.peer()
    await peer.triggers.rearm(batch=10)
    rows = {row["name"]: row for row in await world.rows("SELECT * FROM tocsin.triggers")}
    assert (rows["a"]["status"], rows["a"]["next_at"]) == ("armed", NOON + timedelta(seconds=60))
    assert rows["b"]["status"] == "broken"
    assert "every_seconds" in rows["b"]["broken_reason"]
