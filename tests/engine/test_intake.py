"""Calls on their way into the database: written together, bounded, and each answered once it is committed."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.engine.building import Heard, World, a_trigger
from tocsin import on_event
from tocsin.domain.errors import Busy, DatabaseUnavailable, StatementRefused
from tocsin.domain.event import HOOKS, Event
from tocsin.domain.hook import webhook
from tocsin.domain.trigger import Overlap
from tocsin.engine import intake as intakes
from tocsin.engine.emitting import CHUNK, CHUNK_BYTES, Emitting
from tocsin.engine.hearing import Hearing
from tocsin.engine.intake import PATIENCE, Intake
from tocsin.store.events import Events
from tocsin.store.leases import Incarnation


class Gated(Emitting):
    """Writes when it is let, and notes how many events each transaction has."""

    def __init__(self, world: World) -> None:
        events = Events(clock=world.clock, who=Incarnation("hooks", actor="hooks"))
        super().__init__(database=world.database, events=events, hearing=Hearing(), clock=world.clock, log=Heard())
        self.gate = asyncio.Event()
        self.sizes: list[int] = []
        self.fails: list[Exception] = []

    async def write(self, chunk: Sequence[Event]) -> list[dict[str, Any]]:
        self.sizes.append(len(chunk))
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        return await super().write(chunk)


def an_event(number: int) -> Event:
    return Event(id=str(number), source=f"{HOOKS}t", type="webhook", data=number)


@pytest.fixture
async def gated(world: World) -> Gated:
    await world.declare(
        a_trigger("t", hook=webhook("none"), event=on_event("*", input="data"), overlap=Overlap.QUEUE_ALL)
    )
    return Gated(world)


def taken(intake: Intake, numbers: Sequence[int], size: int = 10) -> list["asyncio.Task[dict[str, Any]]"]:
    return [asyncio.create_task(intake.take(an_event(number), size)) for number in numbers]


async def let_them_wait(intake: Intake, count: int) -> None:
    """What was taken has had its turn; so many are not yet begun."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert intake.waiting == count


async def test_what_comes_while_one_is_written_is_written_together(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock)
    first = taken(intake, [0])
    await let_them_wait(intake, 0)
    rest = taken(intake, range(1, CHUNK + 51))
    await let_them_wait(intake, CHUNK + 50)
    assert not first[0].done()
    gated.gate.set()
    answers = await asyncio.gather(*first, *rest)
    assert gated.sizes == [1, CHUNK, 50]
    assert [answer["id"] for answer in answers] == [str(n) for n in range(CHUNK + 51)]
    assert await world.value("SELECT count(*) FROM tocsin.runs") == CHUNK + 51


async def test_a_transaction_has_so_many_bytes_and_one_more_event(world: World, gated: Gated) -> None:
    gated.gate.set()
    intake = Intake(emitting=gated, clock=world.clock)
    await asyncio.gather(*taken(intake, range(6), size=CHUNK_BYTES // 2))
    assert gated.sizes == [2, 2, 2]


async def test_nothing_is_answered_before_its_commit(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock)
    [task] = taken(intake, [1])
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0
    gated.gate.set()
    assert (await task)["accepted"]
    assert await world.value("SELECT count(*) FROM tocsin.events") == 1


async def test_more_than_may_wait_is_refused_at_once(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock, most=3)
    tasks = taken(intake, [0])
    await let_them_wait(intake, 0)
    tasks += taken(intake, [1, 2, 3])
    await let_them_wait(intake, 3)
    with pytest.raises(Busy):
        await intake.take(an_event(4), 10)
    gated.gate.set()
    assert all(answer["accepted"] for answer in await asyncio.gather(*tasks))
    assert await world.value("SELECT array_agg(id ORDER BY id) FROM tocsin.events") == ["0", "1", "2", "3"]


async def test_whoever_has_waited_too_long_is_refused_unwritten(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock)
    first, *late = taken(intake, [0, 1, 2])
    await let_them_wait(intake, 0)
    late = taken(intake, [3, 4])
    await let_them_wait(intake, 2)
    world.clock.turn(PATIENCE + 0.1)
    fresh = taken(intake, [5])
    await let_them_wait(intake, 3)
    gated.gate.set()
    assert (await first)["accepted"]
    assert (await fresh[0])["accepted"]
    for task in late:
        with pytest.raises(Busy):
            await task
    assert await world.value("SELECT array_agg(id ORDER BY id) FROM tocsin.events") == ["0", "1", "2", "5"]


async def test_whoever_has_left_is_not_written(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock)
    first = taken(intake, [0])
    await let_them_wait(intake, 0)
    gone, stays = taken(intake, [1, 2])
    await let_them_wait(intake, 2)
    gone.cancel()
    gated.gate.set()
    assert (await stays)["accepted"]
    assert (await first[0])["accepted"]
    assert await world.value("SELECT array_agg(id ORDER BY id) FROM tocsin.events") == ["0", "2"]


async def test_a_database_that_fails_is_told_to_all_of_a_transaction_and_to_no_other(
    world: World, gated: Gated
) -> None:
    gated.fails = [DatabaseUnavailable("gone")]
    intake = Intake(emitting=gated, clock=world.clock)
    first = taken(intake, [0, 1])
    await let_them_wait(intake, 0)
    second = taken(intake, [2, 3])
    await let_them_wait(intake, 2)
    gated.gate.set()
    told = await asyncio.gather(*first, *second, return_exceptions=True)
    assert [type(one) for one in told] == [DatabaseUnavailable, DatabaseUnavailable, dict, dict]
    assert (await intake.take(an_event(4), 10))["accepted"]


async def test_a_refusal_is_told_to_whom_it_concerns(world: World, gated: Gated) -> None:
    gated.fails = [StatementRefused("all"), StatementRefused("the first")]
    gated.gate.set()
    intake = Intake(emitting=gated, clock=world.clock)
    told = await asyncio.gather(*taken(intake, [0, 1, 2]), return_exceptions=True)
    assert [type(one) for one in told] == [StatementRefused, dict, dict]
    assert gated.sizes == [3, 1, 1, 1]


async def test_a_fault_of_ours_is_told_to_all_who_wait_for_it_and_ends_nothing(world: World, gated: Gated) -> None:
    gated.fails = [KeyError("ours")]
    gated.gate.set()
    intake = Intake(emitting=gated, clock=world.clock)
    told = await asyncio.gather(*taken(intake, [0, 1]), return_exceptions=True)
    assert [type(one) for one in told] == [KeyError, KeyError]
    assert (await intake.take(an_event(2), 10))["accepted"]


async def test_what_a_hub_cannot_end_in_time_is_refused_as_it_leaves(
    world: World, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intakes, "LEAVE_WITHIN", 0.05)
    intake = Intake(emitting=gated, clock=world.clock)
    first = taken(intake, [0])
    await let_them_wait(intake, 0)
    await intake.close()
    with pytest.raises(Busy, match="leaving"):
        await first[0]
    assert await world.value("SELECT count(*) FROM tocsin.events") == 0


async def test_a_hub_that_leaves_answers_what_it_writes_and_refuses_the_rest(world: World, gated: Gated) -> None:
    intake = Intake(emitting=gated, clock=world.clock)
    first = taken(intake, [0])
    await let_them_wait(intake, 0)
    rest = taken(intake, [1, 2])
    await let_them_wait(intake, 2)
    leaving = asyncio.create_task(intake.close())
    for task in rest:
        with pytest.raises(Busy, match="leaving"):
            await task
    with pytest.raises(Busy):
        await intake.take(an_event(3), 10)
    assert not leaving.done()
    gated.gate.set()
    await leaving
    assert (await first[0])["accepted"]
    assert await world.value("SELECT count(*) FROM tocsin.events") == 1
