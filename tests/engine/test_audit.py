"""Who did what, when, to which thing: written by the statement that makes the change."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import tocsin
from tests.engine.building import MINUTE, NOON, SECOND, World, a_trigger, an_app
from tocsin.domain.audit import Action
from tocsin.domain.errors import BadInput, Conflict, NotFound, Stale
from tocsin.domain.event_rule import on_event
from tocsin.domain.schedule import cron, every
from tocsin.engine.control import Control
from tocsin.engine.pruner import Pruner
from tocsin.store.feed import Feed
from tocsin.store.retention import Retention
from tocsin.store.statements import load
from tocsin.telemetry import Silence

HOUR = timedelta(hours=1)
MINUTELY = every("1m")
MIGRATION = Path(tocsin.__file__).parent / "store" / "migrations" / "0001_expand_hub.sql"
SECRET: Final = "hunter2-in-an-input"

#: Statements that write what the audit is about, and what they write is no person's or app's doing.
BY_THE_ENGINE: Final = {
    "materialise": "moves cursors",
    "quarantine_listening": "finds what cannot be read",
    "rearm": "moves cursors",
    "touch_key": "notes a key's use",
    "prune_triggers": "forgets what was deleted, which is on record",
}


def by(world: World, actor: str) -> Control:
    return Control(database=world.database, clock=world.clock, actor=actor)


async def told(world: World, **filters: Any) -> list[tuple[str, str, str, str]]:
    rows = await world.control.audit(limit=100, **filters)
    return [(row["actor"], row["action"], row["kind"], row["target"]) for row in reversed(rows)]


def test_every_statement_that_changes_what_is_audited_writes_the_record() -> None:
    writes = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) tocsin\.(triggers|keys|agents)\b")
    forgot = [
        name
        for name, statement in load().items()
        if writes.search(statement.text) and "INSERT INTO tocsin.audit" not in statement.text
    ]
    assert sorted(forgot) == sorted(BY_THE_ENGINE)


def test_the_table_takes_the_actions_that_there_are() -> None:
    listed = re.search(r"CHECK \(action IN\s*\(([^)]*)\)\)", MIGRATION.read_text(encoding="utf-8"))
    assert listed is not None
    assert [word.strip(" '") for word in listed[1].split(",")] == list(Action)


async def test_each_change_of_a_trigger_names_who_made_it_and_when(world: World) -> None:
    await world.declare()
    ops = by(world, "key:ops")
    await ops.add_trigger(a_trigger("t", MINUTELY))
    await by(world, "cli:ada@host").edit_trigger("t", lambda spec: a_trigger(spec.name, every("2m")))
    world.clock.turn(MINUTE)
    await ops.pause("t")
    await by(world, "key:other").resume("t")
    await ops.delete_trigger("t")
    assert await told(world, trigger="t") == [
        ("key:ops", "created", "trigger", "t"),
        ("cli:ada@host", "changed", "trigger", "t"),
        ("key:ops", "paused", "trigger", "t"),
        ("key:other", "resumed", "trigger", "t"),
        ("key:ops", "deleted", "trigger", "t"),
    ]
    row = await world.row("SELECT id, changed_at FROM tocsin.triggers")
    records = await world.rows("SELECT at, target_id FROM tocsin.audit WHERE kind = 'trigger' ORDER BY id")
    assert {record["target_id"] for record in records} == {row["id"]}
    assert [record["at"] - NOON for record in records] == [*2 * [timedelta(0)], *3 * [MINUTE]]
    assert records[-1]["at"] == row["changed_at"]


async def test_what_is_refused_leaves_no_record(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY))
    before = await world.value("SELECT count(*) FROM tocsin.audit")
    for wrong, refusal in (
        (world.control.add_trigger(a_trigger("t")), Conflict),
        (world.control.edit_trigger("t", lambda spec: spec, if_version=7), Stale),
        (world.control.delete_trigger("z"), NotFound),
        (world.control.resume("t"), Conflict),
    ):
        with pytest.raises(refusal):
            await wrong
    assert await world.value("SELECT count(*) FROM tocsin.audit") == before


async def test_a_change_says_what_differs_and_of_an_input_only_that_it_does(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY, input={"token": SECRET}), agents=("agent", "other"))
    await world.control.edit_trigger("t", lambda _: a_trigger("t", cron("0 9 * * *"), agent="other", priority=7))
    await world.control.edit_trigger("t", lambda _: a_trigger("t", agent="other", event=on_event("run.succeeded")))
    event, edit = (row["detail"] for row in await world.control.audit(limit=2))
    assert (edit["version"], edit["input_changed"], edit["before"].keys()) == (2, True, edit["after"].keys())
    assert edit["before"] | {"schedule": None} == {"agent": "agent", "schedule": None, "priority": 5}
    assert edit["after"] | {"schedule": None} == {"agent": "other", "schedule": None, "priority": 7}
    assert edit["before"]["schedule"]["rules"][0]["every_seconds"] == 60
    assert edit["after"]["schedule"]["rules"][0]["cron"] == "0 9 * * *"
    assert (event["before"]["event"], event["after"]["schedule"], event["input_changed"]) == (None, None, False)
    assert (event["after"]["event"]["type"], "hears" in event["after"]["event"]) == ("run.succeeded", False)
    assert SECRET not in str(await world.rows("SELECT detail::text FROM tocsin.audit"))


async def test_an_app_that_is_declared_names_itself_and_whoever_declared_it(world: World) -> None:
    sync = by(world, "cli:ada@host")
    first = an_app(a_trigger("t", MINUTELY), a_trigger("u", MINUTELY), agents=("agent",))
    await sync.declare(first)
    await sync.declare(first)
    again = an_app(a_trigger("t", every("2m")), agents=("agent",))
    await by(world, "hub:h:1").declare(again, prune=True)
    assert await told(world) == [
        ("cli:ada@host", "created", "agent", "agent"),
        ("cli:ada@host", "created", "trigger", "t"),
        ("cli:ada@host", "created", "trigger", "u"),
        ("hub:h:1", "changed", "trigger", "t"),
        ("hub:h:1", "pruned", "trigger", "u"),
    ]
    created = await world.control.audit(limit=9, action="created", trigger="u")
    assert created[0]["detail"] == {"version": 1, "agent": "agent", "source": first.identity}
    await sync.declare(an_app(agents=("agent",), max_attempts=7))
    (changed,) = await world.control.audit(limit=1)
    assert (changed["kind"], changed["detail"]["before"]["max_attempts"]) == ("agent", 1)
    assert changed["detail"]["after"] == {"max_attempts": 7}


async def test_a_row_that_was_written_by_hand_can_be_repaired_and_that_is_on_record(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY))
    await world.admin.execute(
        """UPDATE tocsin.triggers SET policy = '"nonsense"'; UPDATE tocsin.agents SET spec = '[]'"""
    )
    await world.declare(a_trigger("t", MINUTELY))
    changed = await world.control.audit(limit=9, action="changed")
    assert [(row["kind"], row["target"]) for row in changed] == [("trigger", "t"), ("agent", "agent")]
    assert changed[0]["detail"]["before"]["policy"] == "nonsense"
    assert changed[1]["detail"]["after"]["max_attempts"] == 1


async def test_reasons_to_rest_come_and_go_one_by_one_and_end_by_themselves(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY))
    peer = await world.peer(lease=10 * HOUR)
    await world.control.pause("t", reason="lunch", until=NOON + 5 * MINUTE)
    await world.control.pause("t", reason="holiday")
    await world.control.pause("t", reason="holiday")
    world.clock.turn(5 * MINUTE)
    while await peer.planner.run_once():
        pass
    await world.control.resume("t", reason="holiday")
    records = [(row["action"], row["detail"]) for row in reversed(await world.control.audit(limit=4))]
    assert records == [
        ("paused", {"reason": "lunch", "until": (NOON + 5 * MINUTE).isoformat().replace("+00:00", "Z")}),
        ("paused", {"reason": "holiday", "until": None}),
        ("pause_ended", {"reasons": ["lunch"], "left": ["holiday"]}),
        ("resumed", {"reasons": ["holiday"], "left": []}),
    ]
    (ended,) = await world.control.audit(limit=1, action="pause_ended")
    assert (ended["actor"], ended["at"]) == (f"replica:{peer.who.holder}", NOON + 5 * MINUTE)


async def test_keys_are_made_and_revoked_by_somebody_once(world: World) -> None:
    await by(world, "key:root").keys.create("ci", scopes=["operate"])
    with pytest.raises(Conflict):
        await by(world, "key:x").keys.create("ci", scopes=["admin"])
    await by(world, "cli:ada@host").keys.revoke("ci")
    await by(world, "cli:bob@host").keys.revoke("ci")
    assert await told(world) == [("key:root", "created", "key", "ci"), ("cli:ada@host", "revoked", "key", "ci")]
    created = (await world.control.audit(limit=1, action="created"))[0]
    assert created["detail"] == {"scopes": ["operate"], "agents": [], "expires_at": None}


async def test_a_cancellation_names_who_asked_first_whether_it_ran_or_was_queued(world: World) -> None:
    await world.declare(a_trigger("t"), a_trigger("u"))
    peer = await world.peer()
    running = (await by(world, "key:fires").fire("t"))["id"]
    await peer.claim_one()
    queued = (await world.control.fire("u"))["id"]
    await by(world, "key:a").cancel_run(running)
    await by(world, "key:b").cancel_run(running)
    await by(world, "key:c").cancel_run(queued)
    with pytest.raises(Conflict):
        await by(world, "key:d").cancel_run(queued)
    records = await world.control.audit(limit=9, action="cancelled")
    assert [(row["actor"], row["target"], row["target_id"], row["detail"]) for row in reversed(records)] == [
        ("key:a", "t", running, {"was": "running"}),
        ("key:c", "u", queued, {"was": "queued"}),
    ]
    assert (await world.control.run(running))["transitions"][0]["actor"] == "key:fires"


async def test_runs_that_are_asked_for_name_who_asked(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY))
    world.clock.turn(3 * MINUTE)
    fired = (await by(world, "key:f").fire("t"))["id"]
    await by(world, "key:f").cancel_run(fired)
    retried = (await by(world, "key:r").retry_run(fired))["id"]
    asked = await by(world, "key:b").backfill("t", NOON + SECOND, NOON + 2 * MINUTE)
    rows = await world.rows("SELECT kind, asked_by, count(*) AS count FROM tocsin.runs GROUP BY 1, 2 ORDER BY 2")
    assert [(row["kind"], row["asked_by"], row["count"]) for row in rows] == [
        ("backfill", "key:b", 2),
        ("manual", "key:f", 1),
        ("manual", "key:r", 1),
    ]
    assert (await world.control.run(retried))["transitions"][0]["actor"] == "key:r"
    for _ in range(2):
        await by(world, "key:z").cancel_backfill("t", asked["id"])
    (cancelled,) = await world.control.audit(limit=9, actor="key:z")
    assert (cancelled["kind"], cancelled["target"], cancelled["detail"]) == ("backfill", "t", {"runs": 2})
    assert str(cancelled["target_id"]) == str(asked["id"])


async def test_the_audit_is_read_page_by_page_and_by_its_filters(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY), a_trigger("u", MINUTELY))
    for number in range(6):
        await by(world, f"key:{number % 2}").pause("t" if number < 4 else "u", reason=str(number))
        if number % 2:
            world.clock.turn(MINUTE)

    async def pages(**filters: Any) -> list[str]:
        found: list[str] = []
        before: int | None = None
        while rows := await world.control.audit(limit=3, before=before, action="paused", **filters):
            found += [row["detail"]["reason"] for row in rows]
            before = rows[-1]["id"]
        return found

    assert await pages() == ["5", "4", "3", "2", "1", "0"]
    assert await pages(trigger="t") == ["3", "2", "1", "0"]
    assert await pages(actor="key:1") == ["5", "3", "1"]
    assert await pages(since=NOON + MINUTE, until=NOON + MINUTE) == ["3", "2"]
    assert await pages(trigger="t", since=NOON + MINUTE) == ["3", "2"]
    with pytest.raises(BadInput, match="action 'eaten'"):
        await world.control.audit(limit=1, action="eaten")
    with pytest.raises(BadInput, match="since"):
        await world.control.audit(limit=1, since=NOON, until=NOON - MINUTE)
    with pytest.raises(NotFound, match="no trigger 'z'"):
        await world.control.audit(limit=1, trigger="z")


async def test_a_trigger_that_is_gone_is_told_with_who_deleted_it(world: World) -> None:
    await world.declare(a_trigger("t"), a_trigger("t2"))
    await world.control.delete_trigger("t")
    for asked in (world.control.trigger("t"), world.control.why("t"), world.control.fire("t")):
        with pytest.raises(NotFound, match=r"no trigger 't'; it was deleted at 2026-03-01 12:00:00 UTC by test"):
            await asked
    await world.declare(a_trigger("t"))
    assert (await world.control.trigger("t"))["name"] == "t"
    world.clock.turn(MINUTE)
    await world.control.declare(an_app(agents=("agent",)), prune=True)
    with pytest.raises(NotFound, match=r"no trigger 't'; it was pruned at 2026-03-01 12:01:00 UTC by test"):
        await world.control.trigger("t")


async def test_a_key_of_a_trigger_s_name_is_not_among_the_trigger_s_records(world: World) -> None:
    await world.declare(a_trigger("t"))
    await world.control.keys.create("t", scopes=["read"])
    assert [kind for _, _, kind, _ in await told(world, trigger="t")] == ["trigger"]


async def test_why_tells_what_was_done_and_who_had_paused_it_before(world: World) -> None:
    """The pause of Thursday is why it did not run on Friday."""
    await world.declare(a_trigger("t", MINUTELY), a_trigger("u", MINUTELY))
    await by(world, "key:early").pause("t", reason="gone again")
    await by(world, "key:early").resume("t")
    await by(world, "key:ops").pause("t", reason="incident")
    await by(world, "key:ops").pause("t", reason="holiday")
    await by(world, "key:ops").resume("t", reason="holiday")
    await by(world, "key:else").pause("u")
    world.clock.turn(24 * HOUR)
    friday = world.clock.now()
    assert friday is not None
    await world.control.edit_trigger("t", lambda _: a_trigger("t", every("2m")))
    world.clock.turn(HOUR)
    await by(world, "key:late").resume("t")
    why = await world.control.why("t", since=friday, until=friday + MINUTE)
    assert [(row["actor"], row["action"], row["detail"].get("reason")) for row in why["changes"]] == [
        ("test", "changed", None),
        ("key:ops", "paused", "incident"),
    ]
    after = await world.control.why("t", since=friday + 2 * HOUR, until=friday + 3 * HOUR)
    assert after["changes"] == []


async def test_the_audit_outlives_the_history_and_ends_at_its_own_retention(world: World) -> None:
    await world.declare(a_trigger("t"))
    await world.control.delete_trigger("t")
    world.clock.turn(timedelta(days=40))
    await world.control.keys.create("k", scopes=["read"])
    peer = await world.peer()
    now = world.clock.now()
    assert now is not None

    async def pruned(keep_audit: timedelta) -> list[str]:
        pruner = Pruner(
            retention=Retention(database=world.database),
            clock=world.clock,
            time=peer.time,
            log=Silence(),
            keep=timedelta(days=30),
            keep_audit=keep_audit,
            feed=Feed(database=world.database, clock=world.clock),
            keep_feed=timedelta(minutes=15),
        )
        peer.time.learn(now, asked_at=world.clock.monotonic())
        assert not await pruner.run_once()
        return [action for _, action, _, _ in await told(world)]

    assert await pruned(timedelta(days=60)) == ["created", "created", "deleted", "created"]
    assert await world.value("SELECT count(*) FROM tocsin.triggers") == 0
    assert await told(world, trigger="t") == [
        ("test", "created", "trigger", "t"),
        ("test", "deleted", "trigger", "t"),
    ]
    assert await pruned(timedelta(days=35)) == ["created"]
