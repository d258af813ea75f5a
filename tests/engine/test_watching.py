"""A run that is followed: each change once, the end last, and pauses that grow while nothing happens."""

from typing import Any
from uuid import UUID

import pytest

from tests.engine.building import World, a_trigger, an_end
from tocsin.domain.errors import NotFound
from tocsin.engine.watching import watched
from tocsin.store.database import Record, Session

pytestmark = pytest.mark.anyio

QUEUED = {"state": "queued", "progress": None}
RUNNING = {"state": "running", "progress": None}
HALF = {"state": "running", "progress": "half"}
ENDED = {"state": "succeeded", "progress": "half"}


class Looks:
    """What is seen, one after the other. waited: the pauses."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self._rows = list(rows)
        self.waited: list[float] = []

    async def look(self) -> dict[str, Any]:
        return dict(self._rows.pop(0))

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)

    async def seen(self, **how: float) -> list[dict[str, Any]]:
        return [row async for row in watched(self.look, self.wait, **how)]


async def test_each_change_is_told_once_and_the_end_ends_it() -> None:
    looks = Looks(QUEUED, QUEUED, RUNNING, HALF, HALF, ENDED, QUEUED)
    assert await looks.seen() == [QUEUED, RUNNING, HALF, ENDED]
    assert len(looks.waited) == 5


async def test_what_has_ended_is_told_and_not_waited_for() -> None:
    looks = Looks(ENDED)
    assert (await looks.seen(), looks.waited) == ([ENDED], [])


async def test_the_pauses_grow_to_a_second_and_begin_anew_with_a_change() -> None:
    looks = Looks(*[QUEUED] * 7, RUNNING, RUNNING, ENDED)
    await looks.seen()
    assert looks.waited == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 0.1, 0.2]
    looks = Looks(*[QUEUED] * 4, ENDED)
    await looks.seen(longest=0.3)
    assert looks.waited == [0.1, 0.2, 0.3, 0.3]


async def test_a_run_of_the_database_is_watched(world: World) -> None:
    await world.declare(a_trigger("t"))
    run = (await world.control.fire("t"))["id"]
    states = []
    async for row in world.control.watch(run):
        states.append(row["state"])
        if row["state"] == "queued":
            await world.control.cancel_run(run)
    assert states == ["queued", "cancelled"]
    with pytest.raises(NotFound):
        await anext(world.control.watch(UUID(int=7)))


async def test_a_run_and_its_history_are_of_one_instant(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between the statements that read it, which is not seen by half."""
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue()
    assignment = await peer.claim_one()
    fetch = Session.fetch

    async def late(session: Session, name: str, /, **values: object) -> list[Record]:
        if name == "get_trail":
            await peer.settle(an_end(assignment))
        return await fetch(session, name, **values)

    monkeypatch.setattr(Session, "fetch", late)
    run = await world.control.run(run_id)
    assert [run["state"], run["transitions"][-1]["to_state"]] == ["running", "running"]
