"""Events come to runs: once each, in the transaction that takes them, by what listens at that moment."""

import asyncio
import signal
import sys
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from tests.engine.building import NOON, SECOND, Heard, Peer, World, a_failure, a_trigger, an_app, an_end
from tocsin import every, on_event
from tocsin.clock import Clock
from tocsin.domain.agent import OnLost
from tocsin.domain.errors import BadInput
from tocsin.domain.event import Event
from tocsin.domain.run import FollowUp, RunState
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.control import Control
from tocsin.engine.hearing import Hearing
from tocsin.engine.matcher import Matcher
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.leases import Incarnation
from tocsin.store.retention import Retention


def an_event(event_id: str = "1", kind: str = "push", **attributes: Any) -> Event:
    return Event(**{"id": event_id, "source": "https://example.org/shop", "type": kind} | attributes)


def listening(name: str = "t", *, kind: str = "push", agent: str = "agent", **rule: Any) -> TriggerSpec:
    return a_trigger(name, agent=agent, event=on_event(kind, **rule), overlap=Overlap.QUEUE_ALL)


def a_matcher(world: World, *, log: Heard | None = None, clock: Clock | None = None, batch: int = 100) -> Matcher:
    clock = clock or world.clock
    return Matcher(
        database=world.database,
        events=Events(clock=clock, who=Incarnation("matcher")),
        hearing=Hearing(),
        clock=clock,
        log=log or Heard(),
        batch=batch,
    )


async def match_all(world: World, **options: Any) -> None:
    matcher = a_matcher(world, **options)
    while await matcher.run_once():
        pass


async def runs(world: World, trigger: str = "t") -> list[dict[str, Any]]:
    return await world.rows(
        "SELECT r.* FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id WHERE t.name = $1 ORDER BY r.id",
        trigger,
    )


async def skips(world: World, trigger: str = "t") -> dict[str, int]:
    rows = await world.rows(
        "SELECT s.reason, sum(s.count)::integer AS count FROM tocsin.skips s JOIN tocsin.triggers t"
        " ON t.id = s.trigger_id WHERE t.name = $1 GROUP BY s.reason",
        trigger,
    )
    return {row["reason"]: row["count"] for row in rows}


# --- told through the hub


async def test_an_event_is_a_run_of_each_trigger_that_it_matches(world: World) -> None:
    await world.declare(
        listening(input="data.ref"), listening("other", kind="pull"), listening("any", kind="*", where="data.n > `1`")
    )
    [answer] = await world.control.emit([an_event(data={"ref": "main", "n": 2})])
    assert answer["accepted"]
    assert len(answer["runs"]) == 2
    [run] = await runs(world)
    assert run["id"] in answer["runs"]
    assert (run["kind"], run["state"], run["input"], run["depth"]) == ("event", "queued", '"main"', 1)
    assert run["occurrence_key"] == "event:https://example.org/shop 1"
    assert run["available_at"] == run["nominal_at"] == NOON
    assert await runs(world, "other") == []
    assert len(await runs(world, "any")) == 1


async def test_an_event_that_nothing_listens_to_is_kept_and_calls_nothing_later(world: World) -> None:
    [answer] = await world.control.emit([an_event()])
    assert answer == {
        "source": "https://example.org/shop",
        "id": "1",
        "accepted": True,
        "runs": [],
        "triggers": [],
    }
    await world.declare(listening())
    await match_all(world)
    assert await runs(world) == []


async def test_the_same_event_is_taken_once_however_often_it_is_told(world: World) -> None:
    await world.declare(listening(input="data"))
    control = world.control
    answers = await control.emit([an_event(data=1), an_event("2"), an_event(data=2)])
    assert [answer["accepted"] for answer in answers] == [True, True, False]
    assert [run["input"] for run in await runs(world)] == ["1", "null"]
    [again] = await control.emit([an_event(data="something else")])
    assert (again["accepted"], again["runs"]) == (False, [])
    [other] = await control.emit([an_event(source="https://example.org/other")])
    assert other["accepted"]
    assert len(await runs(world)) == 3


async def test_two_who_tell_the_same_at_once_in_any_order_get_one_run_each(world: World) -> None:
    await world.declare(listening())
    events = [an_event(str(n)) for n in range(300)]
    controls = [Control(database=Database(world.dsn), clock=world.clock, actor=f"edge-{n}") for n in range(4)]
    told = [events, events[::-1], events[150:] + events[:150], events]
    answers = await asyncio.gather(*(control.emit(part) for control, part in zip(controls, told, strict=True)))
    accepted = [answer for part in answers for answer in part if answer["accepted"]]
    assert len(accepted) == 300
    assert sorted(run_id for answer in accepted for run_id in answer["runs"]) == [
        run["id"] for run in sorted(await runs(world), key=lambda run: run["id"])
    ]
    for control in controls:
        await control._database.close()


async def test_events_are_written_in_the_order_of_their_keys(world: World) -> None:
    """Else two who tell the same in another order wait for each other, until the server ends one of them."""
    await world.control.emit([an_event(str(n)) for n in (3, 1, 2)])
    assert await world.value("SELECT array_agg(id ORDER BY seq) FROM tocsin.events") == ["1", "2", "3"]


async def test_the_occurrence_has_the_last_word_when_the_event_was_forgotten(world: World) -> None:
    await world.declare(listening())
    [first] = await world.control.emit([an_event()])
    await world.admin.execute("DELETE FROM tocsin.events")
    [again] = await world.control.emit([an_event()])
    assert again["accepted"]
    assert again["runs"] == first["runs"]
    assert len(await runs(world)) == 1


async def test_a_batch_costs_the_same_statements_whatever_its_size(world: World) -> None:
    await world.declare(listening(), listening("w", batch="5s"), listening("d", debounce="5s", per="id"))
    costs = []
    for count in (1, 200):
        database = Database(world.dsn)
        control = Control(database=database, clock=world.clock, actor="edge")
        await control.emit([an_event(f"warm-{count}")])
        before = database.calls
        await control.emit([an_event(f"{count}-{n}") for n in range(count)])
        costs.append(database.calls - before)
        await database.close()
    # BEGIN, insert, hold the triggers, two for windows, write, note, COMMIT.
    assert costs == [8, 8]


async def test_one_event_that_is_at_fault_lets_none_of_its_batch_in(world: World) -> None:
    with pytest.raises(BadInput, match="spaces"):
        await world.control.emit([an_event(), an_event("2", source="a b")])
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


# --- what listens changes


async def test_a_change_made_elsewhere_is_known_at_the_next_event(world: World) -> None:
    await world.declare(listening())
    control, elsewhere = world.control, world.control
    await control.emit([an_event("1")])
    await elsewhere.add_trigger(listening("second"))
    await control.emit([an_event("2")])
    await elsewhere.edit_trigger("second", lambda spec: listening(spec.name, kind="pull"))
    await control.emit([an_event("3")])
    await elsewhere.delete_trigger("t")
    await control.emit([an_event("4"), an_event("5", "pull")])
    assert [run["occurrence_key"][-1] for run in await runs(world)] == ["1", "2", "3"]
    assert [run["occurrence_key"][-1] for run in await runs(world, "second")] == ["2", "5"]


async def test_a_pause_that_is_committed_stands_and_is_accounted_for(world: World) -> None:
    await world.declare(listening(), listening("w", debounce="5s"))
    control, elsewhere = world.control, world.control
    await control.emit([an_event("1")])
    world.clock.turn(1)
    await elsewhere.pause("t")
    await elsewhere.pause("w")
    assert [run["state"] for run in [*await runs(world), *await runs(world, "w")]] == ["skipped", "skipped"]
    for n in range(2, 6):
        world.clock.turn(1)
        assert (await control.emit([an_event(str(n))]))[0]["runs"] == []
    assert await skips(world) == {"paused": 4}
    assert len(await world.rows("SELECT * FROM tocsin.skips WHERE trigger_id = $1", await world.trigger_id())) == 1
    await elsewhere.resume("t")
    assert len((await control.emit([an_event("6")]))[0]["runs"]) == 1
    told = await control.why("t", since=NOON - SECOND, until=NOON + 10 * SECOND)
    assert [(one["kind"], one["decision"], one["reason"], one["count"]) for one in told["decisions"]] == [
        ("event", "queued", "", 1),
        ("event", "skipped", "paused", 4),
        ("event", "skipped", "withdrawn", 1),
    ]


async def test_no_pause_slips_in_between_the_match_and_the_run(world: World) -> None:
    """The pause waits for whoever holds its trigger, and then finds the run to withdraw."""
    await world.declare(listening())
    events = Events(clock=world.clock, who=Incarnation("edge"))
    async with world.database.transaction() as session:
        await events.hold(session, [await world.trigger_id()])
        pausing = asyncio.ensure_future(world.control.pause("t"))
        await asyncio.sleep(0.2)
        assert not pausing.done()
    await pausing


async def test_a_trigger_that_listens_says_so(world: World) -> None:
    await world.declare(listening(subject="main", debounce="5s"))
    shown = await world.control.trigger("t")
    assert (shown["status"], shown["schedule"], shown["next_at"]) == ("listening", None, None)
    assert shown["event_text"] == "on push subject main debounce 5s"
    assert shown["event"] == {"type": "push", "subject": "main", "debounce_seconds": 5}
    assert "event" not in shown["policy"]
    why = await world.control.why("t")
    assert why["standing"][0] == "It runs when an event comes: on push subject main debounce 5s."
    assert (await world.control.pause("t"))["status"] == "paused"
    assert (await world.control.declare(an_app(listening(subject="main", debounce="5s"))))["triggers"]["unchanged"]


async def test_a_trigger_may_begin_and_cease_to_listen(world: World) -> None:
    await world.declare(a_trigger())
    assert (await world.control.edit_trigger("t", lambda spec: listening()))["status"] == "listening"
    assert (await world.control.fire("t"))["kind"] == "manual"
    assert (await world.control.edit_trigger("t", lambda spec: a_trigger()))["status"] == "manual"
    assert (await world.control.emit([an_event()]))[0]["runs"] == []


# --- windows


async def claim_all(peer: Peer) -> list[Any]:
    claimed = []
    while found := (await peer.claim()).assignments:
        claimed += found
        await peer.settle(*(an_end(assignment) for assignment in found))
    return [assignment.input for assignment in claimed]


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ({"debounce": "5s"}, {7: ["3"], 14: ["4"]}),
        ({"throttle": "5s"}, {0: ["1"], 5: ["3"], 10: ["4"]}),
        ({"batch": "5s"}, {5: ["[1, 2, 3]"], 14: ["[4]"]}),
        ({"batch": "5s", "batch_size": 2}, {1: ["[1, 2]"], 7: ["[3]"], 14: ["[4]"]}),
    ],
)
async def test_a_window_s_run_begins_when_it_is_over(
    world: World, window: dict[str, Any], told: dict[int, list[str]]
) -> None:
    await world.declare(listening(input="data", **window))
    peer = await world.peer()
    arrivals = {0: 1, 1: 2, 2: 3, 9: 4}
    found = {}
    for second in range(16):
        if second in arrivals:
            # Each from another process: the window stands in the database.
            [answer] = await world.control.emit([an_event(str(second), data=arrivals[second])])
            assert len(answer["runs"]) == 1
        inputs = await claim_all(peer)
        if inputs:
            found[second] = inputs
        world.clock.turn(1)
    assert found == told


async def test_windows_are_apart_for_each_key_and_each_trigger(world: World) -> None:
    await world.declare(listening(debounce="5s", per="subject", input="data"), listening("u", batch="5s", input="data"))
    await world.control.emit(
        [an_event(str(n), subject=f"pull/{n % 2}", data=n) for n in range(6)],
    )
    assert [run["input"] for run in await runs(world)] == ["4", "5"]
    assert [run["input"] for run in await runs(world, "u")] == ["[0, 1, 2, 3, 4, 5]"]


async def test_a_run_that_was_claimed_takes_nothing_more(world: World) -> None:
    await world.declare(listening(batch="5s", input="data"))
    control = world.control
    await control.emit([an_event("1", data=1)])
    [run] = await runs(world)
    await control.cancel_run(run["id"])
    await control.emit([an_event("2", data=2)])
    assert [run["input"] for run in await runs(world)] == ["[1]", "[2]"]


async def test_an_edit_leaves_the_window_in_hand_to_itself(world: World) -> None:
    await world.declare(listening(batch="5s", input="data"))
    control = world.control
    await control.emit([an_event("1", data=1)])
    await control.edit_trigger("t", lambda spec: listening(batch="9s", input="data"))
    await control.emit([an_event("2", data=2)])
    assert [(run["input"], run["available_at"]) for run in await runs(world)] == [
        ("[1]", NOON + 5 * SECOND),
        ("[2]", NOON + 9 * SECOND),
    ]


async def test_limits_of_a_run_count_from_the_end_of_its_window(world: World) -> None:
    spec = a_trigger(
        event=on_event("push", debounce="5s"), overlap=Overlap.QUEUE_ALL, expires_after=timedelta(seconds=60)
    )
    await world.declare(spec, deadline=timedelta(seconds=100))
    for n in range(3):
        await world.control.emit([an_event(str(n))])
        world.clock.turn(2)
    [run] = await runs(world)
    end = NOON + 9 * SECOND
    assert (run["available_at"], run["effective_at"]) == (end, end)
    assert (run["not_after"], run["deadline_at"]) == (end + 60 * SECOND, end + 100 * SECOND)


async def test_emitters_at_once_lose_nothing_of_a_batch(world: World) -> None:
    await world.declare(listening(batch="1h", batch_size=7, input="data"))
    databases = [Database(world.dsn) for _ in range(5)]
    controls = [Control(database=database, clock=world.clock, actor="edge") for database in databases]
    await asyncio.gather(
        *(
            control.emit([an_event(f"{n}-{place}", data=[n, place])])
            for place, control in enumerate(controls)
            for n in range(20)
        )
    )
    given = await world.value(
        "SELECT array_agg(e.value::text) FROM tocsin.runs r CROSS JOIN LATERAL jsonb_array_elements(r.input) e"
    )
    assert len(given) == len(set(given)) == 100
    assert await world.value("SELECT max(jsonb_array_length(input)) FROM tocsin.runs") <= 7
    for database in databases:
        await database.close()


# --- told from SQL


EMIT = "SELECT tocsin.emit('push', 'https://shop', $1::jsonb, $2)"


async def test_an_event_of_a_transaction_that_is_rolled_back_has_never_happened(world: World) -> None:
    await world.declare(listening(input="data"))
    transaction = world.admin.transaction()
    await transaction.start()
    assert await world.value(EMIT, '{"order": 1}', "order-1")
    await match_all(world)
    await transaction.rollback()
    await match_all(world)
    assert await runs(world) == []
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0
    async with world.admin.transaction():
        assert await world.value(EMIT, '{"order": 1}', "order-1")
        assert not await world.value(EMIT, '{"order": 2}', "order-1")
    await match_all(world)
    [run] = await runs(world)
    assert run["input"] == '{"order": 1}'


async def test_without_a_key_each_call_is_an_event(world: World) -> None:
    await world.declare(listening())
    for _ in range(3):
        assert await world.value("SELECT tocsin.emit('push', 'https://shop')")
    await match_all(world)
    assert len(await runs(world)) == 3


@pytest.mark.parametrize(
    "call",
    [
        "tocsin.emit('push', 'tocsin')",
        "tocsin.emit('push', 'a b')",
        "tocsin.emit('', 'a')",
        "tocsin.emit(NULL, 'a')",
        "tocsin.emit('push', 'a', NULL, repeat('x', 501))",
        "tocsin.emit('push', 'a', to_jsonb(repeat('x', 1000000)))",
    ],
)
async def test_what_could_not_be_kept_is_refused_in_the_user_s_own_transaction(world: World, call: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await world.value(f"SELECT {call}")


async def test_a_role_that_may_do_nothing_else_may_emit_once_it_may_enter_the_schema(world: World) -> None:
    name = f"shop_{(await world.value('SELECT current_database()'))[-12:]}"
    await world.admin.execute(f"CREATE ROLE {name}")
    try:
        await world.admin.execute(f"GRANT USAGE ON SCHEMA tocsin TO {name}; SET ROLE {name}")
        assert await world.value("SELECT tocsin.emit('push', 'https://shop')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.value("SELECT count(*) FROM tocsin.events")
    finally:
        await world.admin.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


async def test_matchers_at_once_share_what_waits_and_double_nothing(world: World) -> None:
    await world.declare(listening(), listening("w", batch="1h", batch_size=30, input="id"))
    await world.admin.execute(
        "SELECT tocsin.emit('push', 'https://shop', NULL, n::text) FROM generate_series(1, 500) n"
    )
    await asyncio.gather(*(match_all(world, batch=20) for _ in range(5)))
    assert len(await runs(world)) == 500
    gathered = [number for run in await runs(world, "w") for number in msgspec.json.decode(run["input"])]
    assert sorted(map(int, gathered)) == list(range(1, 501))
    assert await world.value("SELECT count(*) FROM tocsin.events WHERE matched_at IS NULL") == 0


DYING = """
import asyncio, os, signal, sys
from tocsin.clock import SystemClock
from tocsin.engine.hearing import Hearing
from tocsin.engine.matcher import Matcher
from tocsin.store.database import Database, Session
from tocsin.store.events import Events
from tocsin.store.leases import Incarnation
from tocsin.telemetry import Silence

dsn, point = sys.argv[1:]
fetch = Session.fetch

async def fetch_and_die(self, name, /, **values):
    rows = await fetch(self, name, **values)
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows

async def main():
    Session.fetch = fetch_and_die
    clock = SystemClock()
    events = Events(clock=clock, who=Incarnation("dying"))
    matcher = Matcher(database=Database(dsn), events=events, hearing=Hearing(), clock=clock, log=Silence())
    await matcher.run_once()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["take_events", "hold_listening", "fire_events", "mark_events", "its commit"])
async def test_a_matcher_that_is_killed_at_any_point_leaves_the_event_to_its_peers(world: World, point: str) -> None:
    await world.declare(listening(), listening("w", batch="5s"))
    await world.value(EMIT, "1", "order-1")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, world.dsn, point)
    assert await process.wait() == -signal.SIGKILL
    assert len(await runs(world)) == (point == "its commit")
    await match_all(world)
    await match_all(world)
    assert len(await runs(world)) == len(await runs(world, "w")) == 1


# --- told by the hub


async def test_nothing_is_written_of_what_nobody_listens_to(world: World) -> None:
    await world.declare(a_trigger("a"), listening("elsewhere"), listening("x", kind="run.*", subject="other"))
    peer = await world.peer()
    await world.control.fire("a")
    await peer.settle(an_end(await peer.claim_one()))
    await world.control.fire("a")
    await peer.settle(an_end(await peer.claim_one(), RunState.FAILED, error=a_failure()))
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


@pytest.mark.parametrize("plain", [True, False])
async def test_a_run_that_succeeds_calls_who_listens(world: World, plain: bool) -> None:
    await world.declare(a_trigger("a"), listening("b", kind="run.succeeded", subject="a", input="data.output.head"))
    peer = await world.peer()
    fired = await world.control.fire("a")
    end = an_end(await peer.claim_one(), output=b'{"head": 5}', usage=None if plain else "[]")
    await peer.settle(end)
    await peer.settle(end)  # its answer was lost
    await match_all(world)
    [run] = await runs(world, "b")
    assert (run["input"], run["depth"]) == ("5", 1)
    event = await world.row("SELECT * FROM tocsin.events")
    assert (event["source"], event["id"], event["subject"], event["depth"]) == ("tocsin", str(fired["id"]), "a", 0)


async def test_a_run_that_fails_by_itself_or_by_its_holder_calls_who_listens(world: World) -> None:
    await world.declare(
        a_trigger("a"),
        listening("b", kind="run.failed", input="data.[reason, error]"),
        on_lost=OnLost.FAIL,
        max_attempts=2,
    )
    peer = await world.peer()
    await world.control.fire("a", key="1")
    await peer.settle(an_end(await peer.claim_one(), RunState.QUEUED, reason="retry", error=a_failure()))
    await match_all(world)
    assert await runs(world, "b") == []
    await peer.settle(an_end(await peer.claim_one(), RunState.FAILED, reason="error", error=a_failure("why")))
    await world.control.fire("a", key="2")
    await peer.claim_one()
    await world.peer()
    assert len(await (await world.peer()).sweep(peer.who.holder)) == 1
    await match_all(world)
    assert [run["input"] for run in await runs(world, "b")] == [
        '["error", "ValueError: why"]',
        f'["lost", "Lost: its holder {peer.who.holder} was lost"]',
    ]


async def test_a_trigger_that_breaks_calls_who_listens(world: World) -> None:
    await world.declare(
        a_trigger("a", every(60)), listening("c"), listening("b", kind="trigger.broken", input="subject")
    )
    peer = await world.peer()
    await world.admin.execute(
        "UPDATE tocsin.triggers SET schedule = '{}', wake_at = next_at - interval '1 hour' WHERE name = 'a'"
    )
    await peer.planner.run_once()
    await world.admin.execute("""UPDATE tocsin.triggers SET policy = policy || '{"event": {}}' WHERE name = 'c'""")
    await match_all(world)
    await match_all(world)
    assert sorted(run["input"] for run in await runs(world, "b")) == ['"a"', '"c"']
    assert (await world.control.trigger("c"))["status"] == "broken"


async def test_an_instance_that_is_lost_calls_who_listens(world: World) -> None:
    await world.declare(listening("b", kind="instance.lost", subject="laptop", input="data.agents"))
    peer = await world.peer()
    holder = (await world.peer()).who.holder
    await world.admin.execute(
        "INSERT INTO tocsin.instances (id, name, version, agents, labels, slots, suspect_after, dead_after, started_at)"
        " VALUES ($1, 'laptop', '1', '{agent}', '{}', 1, '1 s', '2 s', $2)",
        holder,
        NOON,
    )
    world.clock.turn(60)
    lost, _ = await peer.leases.bury_instances()
    assert list(lost) == [holder]
    await match_all(world)
    assert [run["input"] for run in await runs(world, "b")] == ['["agent"]']


async def test_a_chain_goes_from_one_agent_to_the_next(world: World) -> None:
    await world.declare(
        listening("a", input="data"),
        listening("b", kind="run.succeeded", subject="a", input="data.output"),
        listening("c", kind="run.succeeded", subject="b", input="data.output"),
    )
    peer = await world.peer()
    await world.control.emit([an_event(data=1)])
    for output in (b"2", b"3", b"4"):
        await peer.settle(an_end(await peer.claim_one(), output=output))
        await match_all(world)
    given = {name: [(run["input"], run["depth"]) for run in await runs(world, name)] for name in "abc"}
    assert given == {"a": [("1", 1)], "b": [("2", 2)], "c": [("3", 3)]}


@pytest.mark.parametrize("limit", [2, 8])
async def test_a_loop_ends_at_its_depth_and_says_so(world: World, limit: int) -> None:
    """Also one that hides behind follow-ups, which keep their parents' depth."""
    await world.declare(
        listening("a", kind="*", max_depth=limit), a_trigger("other"), listening("x", kind="run.failed", subject="*")
    )
    peer = await world.peer()
    log = Heard()
    await world.control.emit([an_event()])
    steps = 0
    while found := (await peer.claim()).assignments:
        steps += 1
        assert steps <= limit
        for assignment in found:
            await peer.settle(an_end(assignment))
        await match_all(world, log=log)
    assert steps == limit
    assert [run["depth"] for run in await runs(world, "a")] == list(range(1, limit + 1))
    assert await skips(world, "a") == {"depth": 1}
    assert ("trigger.skipped", {"trigger": "a", "reason": "depth", "count": 1}) in log.events


@pytest.mark.parametrize("place", ["type", "source", "dedup_key", "subject"])
@pytest.mark.parametrize("letter", ["\x1b", "\n", "\x7f", "\x9b"])
async def test_what_sql_emits_has_no_control_characters(world: World, place: str, letter: str) -> None:
    """Whoever lists events would have a stranger's escape sequences in their terminal."""
    given = {"type": "push", "source": "/shop", "dedup_key": "1", "subject": "s"}
    given[place] += letter
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"event {place}: has control characters"):
        await world.admin.fetchval("SELECT tocsin.emit($1, $2, NULL, $3, $4)", *given.values())
    assert await world.admin.fetchval("SELECT tocsin.emit('püsh', '/shopé', NULL, '1 2', 'a b')")


async def test_a_follow_up_keeps_the_depth_of_its_chain(world: World) -> None:
    await world.declare(listening("a"))
    peer = await world.peer()
    await world.control.emit([an_event()])
    await peer.settle(an_end(await peer.claim_one(), follow_ups=(FollowUp(None, timedelta(0), "1"),)))
    assert [(run["kind"], run["depth"]) for run in await runs(world, "a")] == [("event", 1), ("follow_up", 1)]


# --- what is poison


async def test_a_filter_without_an_answer_is_no_match_and_stops_nobody(world: World) -> None:
    await world.declare(
        listening("bad", where="length(data.n) > `0`"),
        listening("slow", where="data.l[*].m[*].a"),
        listening("wide", input="data.l"),
        listening("good"),
    )
    log = Heard()
    control = Control(database=world.database, clock=world.clock, actor="edge", log=log)
    events = [an_event(str(n), data={"n": n, "l": [{"m": [1] * 90}] * 90}) for n in range(5)]
    answers = await control.emit([*events, an_event("x", data={"n": "text"})])
    assert [len(answer["runs"]) for answer in answers] == [2, 2, 2, 2, 2, 3]
    assert await skips(world, "bad") == {"filter": 5}
    assert await skips(world, "slow") == {"filter": 5}
    assert log.count("event.unjudged") == 10
    assert (await control.trigger("bad"))["status"] == "listening"


@pytest.mark.parametrize("event", ["{}", "5", '{"type": "push", "where": "data["}', '{"type": "push", "hears": 5}'])
async def test_a_rule_that_nobody_can_read_is_quarantined_and_stops_nobody(world: World, event: str) -> None:
    await world.declare(listening("bad"), listening("good"))
    await world.admin.execute(
        "UPDATE tocsin.triggers SET policy = policy || jsonb_build_object('event', $1::jsonb) WHERE name = 'bad'", event
    )
    is_bad = '"hears"' not in event
    [answer] = await world.control.emit([an_event()])
    assert len(answer["runs"]) == 1 + (not is_bad)
    assert (await world.control.trigger("bad"))["status"] == ("broken" if is_bad else "listening")
    # It must not stop the settlements either, which ask who hears them.
    peer = await world.peer()
    await world.control.fire("good")
    assert len(await peer.settle(*(an_end(found) for found in (await peer.claim()).assignments)))


@pytest.mark.parametrize("told", ["hub", "sql"])
async def test_a_trigger_whose_run_cannot_be_stored_is_quarantined_and_stops_nobody(world: World, told: str) -> None:
    await world.declare(listening("bad"), listening("good", agent="other"), agents=("agent", "other"))
    await world.admin.execute("UPDATE tocsin.agents SET deadline = '299000 years' WHERE name = 'agent'")
    if told == "hub":
        answers = await world.control.emit([an_event(str(n)) for n in range(3)])
        assert [(answer["accepted"], len(answer["runs"])) for answer in answers] == [(True, 1)] * 3
    else:
        await world.admin.execute(
            "SELECT tocsin.emit('push', 'https://shop', NULL, n::text) FROM generate_series(1, 3) n"
        )
        await match_all(world)
    assert len(await runs(world, "good")) == 3
    assert (await world.control.trigger("bad"))["status"] == "broken"


async def test_an_event_that_nobody_can_read_is_put_aside_and_stops_nobody(world: World) -> None:
    await world.declare(listening())
    log = Heard()
    for data in ('{"n": 1e400}', "[" * 3_000 + "]" * 3_000, '"fine"'):
        await world.value("SELECT tocsin.emit('push', 'https://shop', $1::jsonb)", data)
    await match_all(world, log=log)
    await match_all(world, log=log)
    assert len(await runs(world)) + log.count("event.unreadable") + sum((await skips(world)).values()) == 3
    assert len(await runs(world)) >= 1
    assert await world.value("SELECT count(*) FROM tocsin.events WHERE matched_at IS NULL") == 0


async def test_filters_that_take_their_time_are_asked_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.engine.matching.DECIDE_WITHIN", -1.0)
    await world.declare(listening(where="data.n"))
    answers = await world.control.emit([an_event(str(n), data={"n": 1}) for n in range(5)])
    assert [(answer["accepted"], answer["runs"]) for answer in answers] == [(True, [])] * 5
    await match_all(world)
    assert len(await runs(world)) == 5


# --- what is old


async def test_events_and_windows_are_forgotten_with_the_runs_and_what_waits_is_kept(world: World) -> None:
    await world.declare(listening(debounce="5s", per="id"))
    await world.control.emit([an_event("old")])
    await world.value(EMIT, "1", "waits")
    await world.admin.execute("UPDATE tocsin.events SET received_at = $1", NOON)
    world.clock.turn(60)
    await claim_all(await world.peer())
    retention = Retention(database=world.database)
    assert await retention.prune_events(NOON + 30 * SECOND, batch=100) == 1
    await retention.prune_rest(NOON + 30 * SECOND, batch=100)
    assert await world.value("SELECT array_agg(id) FROM tocsin.events") == ["waits"]
    assert await world.value("SELECT count(*) FROM tocsin.event_windows") == 0
