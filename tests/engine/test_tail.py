"""Reading along: each transition once, on whichever replica, from whichever event on."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from tests.engine.building import Peer, Scripted, World, a_failure, a_trigger, an_app, an_end, eventually
from tests.engine.reading import Dawdling, Plain, Word, a_tail, edges, reading, take
from tests.engine.reading import words as spoken
from tocsin.clock import SystemClock
from tocsin.domain.feed import Wanted
from tocsin.domain.run import RunState
from tocsin.domain.trigger import Overlap
from tocsin.engine import reader
from tocsin.engine.control import Control
from tocsin.engine.reader import Reader
from tocsin.engine.tail import Tail
from tocsin.store.database import Database
from tocsin.store.statements import load

RUNS: Final = 300

Fire = Callable[..., Awaitable[list[str]]]


class Workers:
    """Who takes edges, several at once, each committed when it pleases."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.databases = [Dawdling(world.dsn, size=4) for _ in range(4)]
        self.is_done = False

    async def work(self, runs: int = RUNS) -> None:
        """So many runs are asked for, and ended."""
        fire, *hold = self.databases
        control = Control(database=fire, clock=SystemClock(), actor="test")
        asking = [control.fire_many("t", [(None, n) for n in range(size)]) for size in sizes(runs)]
        holding = [asyncio.create_task(self._hold(database)) for database in hold]
        await asyncio.gather(*asking)

        async def ended() -> object:
            return not await self.world.value("SELECT count(*) FROM tocsin.runs WHERE finished_at IS NULL")

        await eventually(ended)
        self.is_done = True
        await asyncio.gather(*holding)

    async def _hold(self, database: Database) -> None:
        peer = await Peer(database, SystemClock(), executor=Scripted()).register()
        while not self.is_done:
            claimed = (await peer.claim(live=random.randint(1, 12))).assignments
            ends = [
                an_end(one, RunState.QUEUED, reason="retry", error=a_failure())
                if one.attempt == 1 and random.random() < 0.3
                else an_end(one)
                for one in claimed
            ]
            if ends:
                await peer.settle(*ends)

    async def close(self) -> None:
        for database in self.databases:
            await database.close()


def sizes(total: int) -> list[int]:
    found = []
    while total:
        found.append(min(total, random.randint(1, 10)))
        total -= found[-1]
    return found


@pytest.fixture
async def workers(world: World) -> AsyncIterator[Workers]:
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(
        an_app(a_trigger("t", overlap=Overlap.ALLOW), a_trigger("u", overlap=Overlap.ALLOW), max_attempts=3)
    )
    workers = Workers(world)
    yield workers
    await workers.close()


@pytest.fixture
async def fire(world: World, workers: Workers) -> Fire:
    """Asks for runs of a trigger, at once."""
    control = Control(database=world.database, clock=SystemClock(), actor="test")

    async def fire(count: int = 1, trigger: str = "t") -> list[str]:
        return [str(one["id"]) for one in await control.fire_many(trigger, [(None, None)] * count)]

    return fire


async def trail(world: World) -> list[tuple[str, int]]:
    rows = await world.rows("SELECT run_id::text, seq FROM tocsin.transitions ORDER BY run_id, seq")
    return [(row["run_id"], row["seq"]) for row in rows]


def check(heard: Sequence[Word], expected: Iterable[tuple[str, int]]) -> None:
    """Each was heard once, and those of one run in their order."""
    found = edges(heard)
    assert Counter(found) == Counter(expected)
    assert not [word for word in heard if word.what == "gap"]
    last: dict[str, int] = {}
    for run_id, seq in found:
        assert last.get(run_id, 0) < seq
        last[run_id] = seq


async def until_still(heard: AsyncIterator[Word]) -> list[Word]:
    found = []
    async with asyncio.timeout(30):
        async for word in heard:
            if word.what == "still":
                break
            found.append(word)
    return found


async def wander(tails: Sequence[Tail], position: str, is_over: Callable[[int], Awaitable[bool]]) -> list[Word]:
    """What is heard by one who is cut off again and again, and goes on anywhere."""
    heard: list[Word] = []
    while not await is_over(len(edges(heard))):
        async with reading(random.choice(tails), position) as words:
            with suppress(TimeoutError):
                for _ in range(random.randint(1, 40)):
                    async with asyncio.timeout(0.2):
                        heard.append(await anext(words))
                    position = heard[-1].position
    return heard


async def test_each_transition_is_heard_once_wherever_and_after_whatever_event_a_reader_goes_on(
    world: World, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits are delayed at random; one replica remembers little, so that most is paged from the database."""
    monkeypatch.setattr(reader, "PAGE", 5)
    async with (
        a_tail(world.dsn, page=7) as first,
        a_tail(world.dsn, page=50, most_events=30) as second,
        reading(first) as steady,
    ):
        expected: list[tuple[str, int]] = []

        async def is_over(count: int) -> bool:
            return bool(expected) and count >= len(expected)

        start = (await anext(steady)).position
        wandering = [asyncio.create_task(wander((first, second), start, is_over)) for _ in range(4)]
        whole = asyncio.create_task(take(steady, RUNS * 3))
        await workers.work()
        expected += await trail(world)
        heard = [await whole + await take(steady, len(expected) - RUNS * 3)]
        async with asyncio.timeout(60):
            heard += await asyncio.gather(*wandering)
        for one in heard:
            check(one, expected)
        for _ in range(40):
            told = random.choice(heard)
            place = random.randrange(len(told))
            async with reading(random.choice((first, second)), told[place].position) as words:
                check(await until_still(words), set(expected) - set(edges(told[: place + 1])))


async def test_a_long_transaction_of_somebody_else_holds_nothing_up(world: World, fire: Fire, workers: Workers) -> None:
    async with a_tail(world.dsn) as first, a_tail(world.dsn) as second:
        foreign = await asyncpg.connect(world.dsn)
        try:
            await foreign.execute("BEGIN; SELECT pg_current_xact_id(); UPDATE tocsin.agents SET source = source")
            async with reading(first) as words:
                runs = await fire(5)
                heard = await take(words, 5)
                assert [run for run, _ in edges(heard)] == runs
                async with reading(second, heard[2].position) as others:
                    assert [run for run, _ in edges(await take(others, 5 - heard_of(heard[:3])))] == runs[
                        heard_of(heard[:3]) :
                    ]
            # What is remembered serves whoever comes again, though that transaction is older than all of it.
            assert second.history is not None
        finally:
            await foreign.close()


def heard_of(heard: Sequence[Word]) -> int:
    return len(edges(heard))


async def test_only_what_is_wanted_is_heard_and_the_place_is_kept_all_the_same(
    world: World, fire: Fire, workers: Workers
) -> None:
    async with a_tail(world.dsn) as first, a_tail(world.dsn) as second:
        async with reading(first, wanted=Wanted.of(triggers=["u"])) as words:
            [start] = [word for word in [await anext(words)] if word.what == "still"]
            await fire(3)
            [run] = await fire(1, "u")
            await fire(3)
            heard = await take(words, 1)
        assert edges(heard) == [(run, 1)]
        assert heard[-1].data["trigger"] == "u"
        for wanted, count in (
            (Wanted.of(triggers=["t"]), 6),
            (Wanted.of(triggers=["t", "u"]), 7),
            (Wanted.of(agents=["agent"]), 7),
            (Wanted.of(agents=["other"]), 0),
            (Wanted.of(runs=[run]), 1),
            (Wanted.of(states=["queued"], kinds=["manual"]), 7),
            (Wanted.of(states=["running"]), 0),
            (Wanted.of(kinds=["schedule"]), 0),
        ):
            async with reading(second, start.position, wanted) as words:
                assert heard_of(await until_still(words)) == count


async def test_a_position_that_is_not_kept_any_more_is_answered_with_a_gap_and_then_with_what_comes(
    world: World, fire: Fire, workers: Workers
) -> None:
    async with a_tail(world.dsn) as first, a_tail(world.dsn) as second:
        async with reading(first) as words:
            await fire()
            [old] = [word for word in await take(words, 1) if word.what == "transition"]
            # Kept for no time at all: the next mark is the oldest.
            await world.admin.execute("UPDATE tocsin.feed_marks SET at = at - interval '1 hour'")
            await first.feed.want()
            await fire()
            [fresh] = await take(words, 1)
            now = await world.value("SELECT now()")
            assert await first.feed.prune(now, batch=100) == 1
        for position, says in ((old.position, 1), (fresh.position, 0)):
            async with reading(second, position) as words:
                heard = await until_still(words)
                gaps = [word for word in heard if word.what == "gap"]
                assert [word.data for word in gaps] == [{"reason": "expired"}] * says
                assert len(edges(heard)) == 1 - says  # what the reader before this one has seen come
                run = await fire()
                assert [run_id for run_id, _ in edges(await take(words, 1))] == run


async def test_a_feed_that_was_off_meanwhile_is_another_one(world: World, fire: Fire, workers: Workers) -> None:
    async with a_tail(world.dsn) as first:
        async with reading(first) as words:
            await fire()
            [old] = edges_and_positions(await take(words, 1))
        # Nobody has wanted it for an hour.
        assert await first.feed.leave(await world.value("SELECT now() + interval '1 hour'"))
        await fire()
        async with reading(first, old) as words:
            gap = await anext(words)
            assert (gap.what, gap.data) == ("gap", {"reason": "renewed"})
            await fire()
            heard_of(await take(words, 1))


def edges_and_positions(heard: Sequence[Word]) -> list[str]:
    return [word.position for word in heard if word.what == "transition"]


async def test_readers_learn_that_the_feed_has_become_another_one_under_them(
    world: World, fire: Fire, workers: Workers
) -> None:
    """Another server, say: its transactions are not to be compared with those before."""
    async with a_tail(world.dsn) as first, reading(first) as words:
        await anext(words)
        await world.admin.execute("UPDATE tocsin.feed_switch SET place = 'elsewhere'")
        async with asyncio.timeout(10):
            gap = await anext(words)
        assert (gap.what, gap.data) == ("gap", {"reason": "renewed"})
        [run] = await fire()
        assert edges(await take(words, 1)) == [(run, 1)]


async def test_a_reader_that_falls_behind_what_is_remembered_is_too_slow_and_goes_on_where_it_was(
    world: World, fire: Fire, workers: Workers
) -> None:
    async with a_tail(world.dsn, most_events=20, page=10) as first, reading(first) as quick:
        follower = Reader(tail=first, wanted=Wanted(), after=None, framing=Plain())
        first.join(follower)
        await follower.begin()
        pieces = follower.pieces()
        [still] = spoken(await anext(pieces))
        keeping_up = asyncio.create_task(take(quick, 50))
        for _ in range(10):
            await fire(5)
        await keeping_up
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        assert follower.ended == "slow"
        assert first.history is not None
        assert first.history.next - first.history.first <= 20
        async with reading(first, still.position) as words:
            check(await until_still(words), await trail(world))


async def test_while_nobody_reads_a_tail_asks_nothing(world: World, fire: Fire, workers: Workers) -> None:
    async with a_tail(world.dsn) as first:
        database = first.feed._database
        await asyncio.sleep(0.1)
        assert database.calls == 0
        async with reading(first) as words:
            await anext(words)
        await asyncio.sleep(0.05)
        calls = database.calls
        await asyncio.sleep(0.2)
        assert database.calls == calls


async def test_what_was_asked_of_a_database_that_is_gone_is_told_once_it_is_back(
    world: World, fire: Fire, workers: Workers
) -> None:
    async with a_tail(world.dsn) as first, reading(first) as words:
        await anext(words)
        await fire()
        for _ in range(3):
            async with first.feed._database.session() as session:
                pid = session.connection.get_server_pid()
            await world.admin.execute("SELECT pg_terminate_backend($1)", pid)
            await fire()
        heard = await take(words, 4)
        check(heard, await trail(world))


async def test_each_of_the_guards_of_reading_is_one(world: World, fire: Fire, workers: Workers) -> None:
    """Without those that were in progress, what is committed late is missed."""
    holed = load().altered("read_feed", "f.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1)))", "false")
    async with a_tail(world.dsn, statements=holed) as first, reading(first) as words:
        await anext(words)
        async with world.database.transaction() as session:
            await session.connection.execute("SELECT pg_current_xact_id()")
            await session.fetch(
                "cancel_run",
                now=None,
                actor="x",
                reason="cancelled",
                id=UUID(await fire_elsewhere(world)),
            )
            await take(words, 1)
            await fire()
            await take(words, 1)
        await fire()
        heard = await take(words, 1)
        with pytest.raises(AssertionError):
            check(heard, [edge for edge in await trail(world) if edge[1] == 2])


async def fire_elsewhere(world: World) -> str:
    database = Database(world.dsn)
    try:
        control = Control(database=database, clock=SystemClock(), actor="elsewhere")
        return str((await control.fire("t"))["id"])
    finally:
        await database.close()
