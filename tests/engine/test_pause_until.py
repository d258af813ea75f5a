"""A pause that ends by itself: what lies before its end was paused, what is due at it runs."""

from datetime import timedelta

import pytest

from tests.engine.building import MINUTE, NOON, SECOND, Peer, World, a_trigger
from tocsin.domain.errors import BadInput, Conflict
from tocsin.domain.schedule import every

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
