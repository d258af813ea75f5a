"""Locked triggers wait for nobody: a batch is decided in bounded time, and a planner that stands still loses them."""

from datetime import timedelta

import pytest

from tests.engine.building import World, a_trigger, eventually
from tocsin import cron
from tocsin.domain.errors import DatabaseUnavailable

MINUTELY = cron("* * * * *")
MINUTE = timedelta(minutes=1)


async def test_what_cannot_be_decided_in_time_is_left_to_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.engine.planner.DECIDE_WITHIN", -1.0)
    await world.declare(*(a_trigger(f"t{n}", MINUTELY) for n in range(3)))
    peer = await world.peer()
    world.clock.turn(MINUTE)
    for decided, more in ((1, True), (2, True), (3, False)):
        assert await peer.planner.run_once() is more
        assert await world.value("SELECT count(*) FROM tocsin.runs") == decided


async def test_a_planner_that_stands_still_between_lock_and_write_loses_its_locks(world: World) -> None:
    await world.declare(a_trigger("t", MINUTELY))
    stalled, peer = await world.peer(), await world.peer()
    world.clock.turn(MINUTE)

    async def runs() -> int:
        return int(await world.value("SELECT count(*) FROM tocsin.runs"))

    async def taken_over() -> bool:
        await peer.planner.run_once()
        return await runs() == 1

    async def stand_still() -> None:
        async with world.database.transaction() as session:
            _, due = await stalled.triggers.lock_due(session, batch=10)
            assert [trigger.name for trigger in due] == ["t"]
            await peer.planner.run_once()
            assert await runs() == 0
            await eventually(taken_over, what="the end of its locks")
            await stalled.triggers.materialise(session, [])

    with pytest.raises(DatabaseUnavailable):
        await stand_still()
    assert await runs() == 1
