"""A pause that ends by itself: what lies before its end was paused, what is due at it runs."""

from datetime import timedelta

import pytest

from tests.engine.building import MINUTE, NOON, SECOND, Peer, World, a_trigger
from tocsin.domain.errors import BadInput, Conflict
from tocsin.domain.event import Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.schedule import Schedule, every

HOUR = timedelta(hours=1)
MINUTELY = every("1m")


async def planned(peer: Peer) -> None:
    """All that is due has been decided."""
    while await peer.planner.run_once():
        pass


async def skips(world: World) -> list[tuple[str, timedelta, timedelta, int]]:
    rows = await world.rows("SELECT * FROM tocsin.skips ORDER BY first_at")
    return [(row["reason"], row["first_at"] - NOON, row["last_at"] - NOON, row["count"]) for row in rows]


async def test_it_goes_on_at_the_instant_that_was_told(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer(lease=10 * HOUR)
    told = await world.control.pause("t", reason="lunch", until=NOON + 10 * MINUTE)
    assert (told["paused"], told["paused_until"]) == (["lunch"], {"lunch": NOON + 10 * MINUTE})
    for _ in range(10):
        world.clock.turn(MINUTE)
        await planned(peer)
    assert await skips(world) == [("paused", MINUTE, 9 * MINUTE, 9)]
    run = await world.row("SELECT nominal_at, lane FROM tocsin.runs")
    assert (run["nominal_at"], run["lane"]) == (NOON + 10 * MINUTE, "live")
    row = await world.control.trigger("t")
    assert (row["status"], row["paused"], row["paused_until"]) == ("armed", [], {})


async def test_nobody_being_there_at_its_end_loses_nothing(world: World) -> None:
    """What was due since the end is decided by lateness, and not as paused."""
    await world.declare(a_trigger(schedule=MINUTELY, grace=HOUR))
    peer = await world.peer(lease=10 * HOUR)
    await world.control.pause("t", until=NOON + 10 * MINUTE)
    world.clock.turn(12 * MINUTE + SECOND)
    await planned(peer)
    assert await skips(world) == [("paused", MINUTE, 9 * MINUTE, 9)]
    runs = await world.rows("SELECT nominal_at FROM tocsin.runs ORDER BY 1")
    assert [row["nominal_at"] - NOON for row in runs] == [10 * MINUTE, 11 * MINUTE, 12 * MINUTE]


async def test_it_wakes_the_planner_long_before_it_would_look(world: World) -> None:
    await world.declare(a_trigger(schedule=every("10d")))
    peer = await world.peer(lease=10 * HOUR)
    await world.control.pause("t", until=NOON + MINUTE)
    world.clock.turn(MINUTE)
    await planned(peer)
    row = await world.control.trigger("t")
    assert (row["status"], row["paused"]) == ("armed", [])
    assert row["wake_at"] == row["next_at"] > NOON + MINUTE


async def test_each_reason_has_its_own_end(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    peer = await world.peer(lease=10 * HOUR)
    await world.control.pause("t", reason="a", until=NOON + 2 * MINUTE)
    await world.control.pause("t", reason="b", until=NOON + 4 * MINUTE)
    await world.control.pause("t", reason="c")
    world.clock.turn(3 * MINUTE)
    await planned(peer)
    assert (await world.control.trigger("t"))["paused"] == ["b", "c"]
    world.clock.turn(3 * MINUTE)
    await planned(peer)
    assert (await world.control.trigger("t"))["paused_until"] == {}
    await world.control.resume("t", reason="c")
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
    assert sum(count for _, _, _, count in await skips(world)) == 6


async def test_pausing_again_without_an_end_takes_the_end_away(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY))
    await world.control.pause("t", until=NOON + MINUTE)
    assert (await world.control.pause("t"))["paused_until"] == {}


async def test_an_end_needs_an_instant_to_come(world: World) -> None:
    await world.declare(a_trigger(schedule=MINUTELY), a_trigger("by-hand"))
    with pytest.raises(BadInput, match="in the future"):
        await world.control.pause("t", until=NOON)
    with pytest.raises(Conflict, match="no instant to come"):
        await world.control.pause("by-hand", until=NOON + MINUTE)


# --- of a trigger that listens


async def told(world: World, event_id: str) -> int:
    """How many runs an event has called for."""
    [answer] = await world.control.emit([Event(id=event_id, source="/shop", type="push")])
    return len(answer["runs"])


async def test_a_trigger_that_listens_goes_on_at_the_end_whether_or_not_somebody_has_looked(world: World) -> None:
    await world.declare(a_trigger(event=on_event("push")))
    shown = await world.control.pause("t", until=NOON + MINUTE)
    assert (shown["status"], shown["wake_at"]) == ("paused", NOON + MINUTE)
    assert await told(world, "1") == 0
    world.clock.turn(MINUTE - SECOND)
    assert await told(world, "2") == 0
    world.clock.turn(SECOND)
    assert await told(world, "3") == 1
    assert await skips(world) == [("paused", timedelta(0), MINUTE - SECOND, 2)]
    await planned(await world.peer(lease=10 * HOUR))
    shown = await world.control.trigger("t")
    assert (shown["status"], shown["paused"], shown["paused_until"], shown["wake_at"]) == ("listening", [], {}, None)
    assert await told(world, "4") == 1


async def test_it_rests_while_one_reason_is_left(world: World) -> None:
    await world.declare(a_trigger(event=on_event("push")))
    peer = await world.peer(lease=10 * HOUR)
    for reason, minutes in (("a", 1), ("b", 2), ("c", None)):
        await world.control.pause("t", reason=reason, until=None if minutes is None else NOON + minutes * MINUTE)
    world.clock.turn(MINUTE)
    await planned(peer)
    shown = await world.control.trigger("t")
    assert (shown["paused"], shown["wake_at"]) == (["b", "c"], NOON + 2 * MINUTE)
    world.clock.turn(MINUTE)
    assert await told(world, "1") == 0
    await world.control.resume("t", reason="c")
    assert await told(world, "2") == 1
    assert (await world.control.resume("t"))["status"] == "listening"


@pytest.mark.parametrize("before", [None, every("1h"), every("1m")])
async def test_an_end_outlives_an_edit(world: World, before: Schedule | None) -> None:
    """Also one to a trigger that nothing but a hand calls, which has nothing to go on with meanwhile."""
    listening = a_trigger(event=on_event("push"))
    await world.declare(a_trigger(schedule=before) if before is not None else listening)
    await world.control.pause("t", until=NOON + 10 * MINUTE)
    await world.control.edit_trigger("t", lambda spec: a_trigger())
    shown = await world.control.edit_trigger("t", lambda spec: listening)
    assert (shown["paused"], shown["wake_at"]) == (["user"], NOON + 10 * MINUTE)
    shown = await world.control.edit_trigger("t", lambda spec: a_trigger(schedule=every("10d")))
    assert (shown["paused"], shown["wake_at"]) == (["user"], NOON + 10 * MINUTE)
    world.clock.turn(10 * MINUTE)
    await planned(await world.peer(lease=HOUR))
    assert (await world.control.trigger("t"))["status"] == "armed"


async def test_one_that_cannot_be_read_any_more_is_quarantined_while_it_rests(world: World) -> None:
    await world.declare(a_trigger(event=on_event("push")))
    await world.control.pause("t", until=NOON + MINUTE)
    await world.admin.execute("""UPDATE tocsin.triggers SET policy = policy || '{"event": {}}'""")
    assert await told(world, "1") == 0
    assert (await world.control.trigger("t"))["status"] == "broken"
    assert (await world.declare(a_trigger(event=on_event("push"))))["triggers"]["changed"] == ["t"]
    world.clock.turn(MINUTE)
    assert await told(world, "2") == 1
