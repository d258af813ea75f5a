"""The feed is a copy of the trail: each edge, by the statement that takes it, while somebody reads, and only then."""

import asyncio
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.engine.building import (
    LEASE,
    MINUTE,
    NOON,
    SECOND,
    Peer,
    Scripted,
    World,
    a_failure,
    a_trigger,
    an_end,
    drive,
    eventually,
)
from tests.engine.test_events import an_event, listening
from tocsin import every
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.feed import Snapshot
from tocsin.domain.run import FollowUp, RunState, Succeeded
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control
from tocsin.engine.desk import Desk
from tocsin.engine.planner import Planner
from tocsin.engine.pruner import Pruner
from tocsin.store.database import Database, Session
from tocsin.store.feed import Feed
from tocsin.store.retention import Retention
from tocsin.store.statements import load

COLUMNS: Final = "run_id, seq, to_state, attempt, fence, actor, reason, at"
SWITCH: Final = "EXISTS (SELECT FROM tocsin.feed_switch)"
FEEDERS: Final = sorted(name for name, block in load().items() if SWITCH in block.text and "tocsin.runs" in block.text)
"""Every statement that takes an edge."""

NEVER: Final = Snapshot(1, 1)


def a_feed(world: World) -> Feed:
    return Feed(database=world.database, clock=world.clock)


async def trail_and_feed(world: World) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return (
        await world.rows(f"SELECT {COLUMNS} FROM tocsin.transitions ORDER BY run_id, seq"),
        await world.rows(f"SELECT {COLUMNS} FROM tocsin.feed ORDER BY run_id, id"),
    )


async def story(world: World) -> None:
    """Every edge that there is, by every statement that takes one."""
    await world.declare(
        a_trigger("t", every(60), overlap=Overlap.ALLOW),
        a_trigger("single", overlap=Overlap.SKIP),
        a_trigger("wary", every(60), agent="other", expires_after=SECOND),
        listening("heard", agent="other"),
        agents=("agent", "other"),
        max_attempts=3,
    )
    executor = Scripted(slots=20)
    peer = await world.peer(executor=executor, lease=10 * LEASE)
    await planned_and_fired(world, peer, executor)
    await settled(world, peer)
    await lost_and_fenced(world, peer)
    await withdrawn(world, peer)


async def planned_and_fired(world: World, peer: Peer, executor: Scripted) -> None:
    """Queued, or begun with its insert; ended by the plain statement."""
    desk = Desk([peer.runner], peer.who)
    planner = Planner(
        database=world.database,
        triggers=peer.triggers,
        clock=world.clock,
        time=peer.time,
        log=peer.log,
        batch=100,
        fired=lambda: None,
        desk=desk,
    )
    world.clock.turn(MINUTE)
    await planner.run_once()
    control = Control(database=world.database, clock=world.clock, actor="somebody", desk=desk)
    await control.fire("single")
    await peer.settle(an_end(await peer.claim_one()))
    await control.fire("single")
    await asyncio.sleep(0)
    assert len(executor.in_hand) == 2  # planned, and fired
    await executor.end_all(Succeeded(b"1"))
    while await peer.settler.run_once():
        pass
    await control.emit([an_event()])
    world.clock.turn(MINUTE)
    skipped = (await peer.claim("other")).skipped
    assert [one.reason for one in skipped] == ["expired"]


async def settled(world: World, peer: Peer) -> None:
    """Claimed plainly and not; failed, tried again, given back, cancelled while it fails; followed up."""
    await world.control.fire_many("t", [(None, n) for n in range(6)])
    first, second, third, fourth = (await peer.claim(live=4)).assignments
    again = (await peer.claim(live=2)).assignments
    assert len(again) == 2
    await peer.settle(
        an_end(first, RunState.QUEUED, reason="retry", error=a_failure()),
        an_end(second, RunState.QUEUED, reason="interrupted", counted=False),
        an_end(third, RunState.FAILED, reason="error", error=a_failure()),
        an_end(fourth, follow_ups=(FollowUp(None, timedelta(0), "1"),)),
        *(an_end(one) for one in again),
    )
    [held] = (await peer.claim(live=1)).assignments
    await world.control.cancel_run(held.run_id)
    await peer.settle(an_end(held, RunState.QUEUED, reason="retry", error=a_failure()))


async def lost_and_fenced(world: World, peer: Peer) -> None:
    """Taken from a holder that is gone; closed because it would not stop."""
    await world.control.fire_many("t", [(None, None)] * 2)
    gone = await world.peer()
    [lost] = (await gone.claim(live=1)).assignments
    world.clock.turn(LEASE + SECOND)
    assert [swept.run_id for swept in await peer.sweep()] == [lost.run_id]
    [stubborn] = (await peer.claim(live=1)).assignments
    await world.control.cancel_run(stubborn.run_id)
    world.clock.turn(MINUTE)
    assert len(await peer.runs.fence_uncancelled(batch=10)) == 1


async def withdrawn(world: World, peer: Peer) -> None:
    """Cancelled and withdrawn in the queue."""
    control = world.control
    fired = await control.fire("single")
    await control.cancel_run(fired["id"])
    backfill = await control.backfill("t", NOON, NOON + MINUTE)
    await control.cancel_backfill("t", backfill["id"])
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    await control.pause("wary")
    [tried] = (await peer.claim(live=1)).assignments
    await peer.settle(an_end(tried, RunState.QUEUED, reason="retry", error=a_failure()))
    await control.delete_trigger("t")


async def test_every_edge_is_fed_as_the_trail_has_it(world: World) -> None:
    await a_feed(world).want()
    await story(world)
    trail, fed = await trail_and_feed(world)
    assert fed == trail
    states = {(row["to_state"], row["reason"]) for row in fed}
    assert len(states) >= 15, states


@pytest.mark.parametrize("name", FEEDERS)
async def test_no_statement_that_takes_an_edge_may_leave_it_out(world: World, name: str) -> None:
    world.database.statements = load().altered(name, SWITCH, "false")
    await a_feed(world).want()
    await story(world)
    trail, fed = await trail_and_feed(world)
    assert fed != trail


async def test_while_nobody_reads_nothing_is_fed(world: World) -> None:
    await story(world)
    assert await world.value("SELECT count(*) FROM tocsin.feed") == 0


# --- read by snapshots


async def ids_since(feed: Feed, base: Snapshot) -> tuple[list[int], Snapshot]:
    page = await feed.read(base, limit=1_000)
    return [one.id for one in page.rows], page.standing.snapshot


async def test_what_is_committed_late_is_read_then_and_in_between_nothing_waits_for_it(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    feed = a_feed(world)
    await feed.want()
    _, start = await ids_since(feed, NEVER)
    late = Control(database=Database(world.dsn), clock=world.clock, actor="late")
    async with world.database.transaction() as session:
        await session.connection.execute("SELECT pg_current_xact_id()")
        await late.fire("t")
        await late.fire("t")
        two, seen = await ids_since(feed, start)
        assert len(two) == 2
        await take_an_edge(world, session, await world.value("SELECT id FROM tocsin.runs LIMIT 1"))
        await late.fire("t")
        one, seen = await ids_since(feed, seen)
        assert len(one) == 1
    # Its transaction is older than all of theirs, and so is its row's id than the last one's.
    last, seen = await ids_since(feed, seen)
    assert len(last) == 1
    assert two[-1] < last[0] < one[0]
    assert await ids_since(feed, seen) == ([], seen)
    await late._database.close()


async def take_an_edge(world: World, session: Session, run_id: UUID | None = None) -> None:
    """As far as locks go; of no run, unless one is named."""
    await session.fetchrow("cancel_run", now=world.clock.now(), actor="x", reason="cancelled", id=run_id or uuid4())


async def test_a_feed_is_not_switched_on_while_somebody_is_in_the_middle_of_an_edge(world: World) -> None:
    """Whoever has not seen the switch has ended before the feed counts as whole; a foreign transaction has no part."""
    feed = Feed(database=Database(world.dsn), clock=world.clock)
    foreign = await asyncpg.connect(world.dsn)
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'tocsin.feed'::regclass AND NOT granted"
    try:
        await foreign.execute("BEGIN; SELECT pg_current_xact_id()")
        async with world.database.transaction() as session:
            await take_an_edge(world, session)
            switching = drive(feed.want())
            await eventually(lambda: world.value(waiting))
            assert await world.value("SELECT count(*) FROM tocsin.feed_switch") == 0
        life, is_new = await switching
        assert is_new
        assert await feed.want() == (life, False)
    finally:
        await foreign.close()
        await feed._database.close()


async def test_whoever_is_in_the_middle_for_too_long_keeps_a_reader_out_and_no_writer(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    feed = Feed(database=Database(world.dsn), clock=world.clock)
    async with world.database.transaction() as session:
        await take_an_edge(world, session)
        with pytest.raises(DatabaseUnavailable):
            await feed.want()
        await Control(database=feed._database, clock=world.clock, actor="other").fire("t")
    assert (await feed.want())[1]
    await feed._database.close()


async def test_what_is_kept_is_whole_from_its_oldest_mark_on_and_nothing_before_it_is_left(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    feed, keep = a_feed(world), timedelta(minutes=15)
    await feed.want()
    starts = []
    for _ in range(30):
        starts.append((await feed.read(NEVER, limit=0)).standing.snapshot)
        await world.control.fire("t")
        world.clock.turn(MINUTE)
        await feed.want()
    assert await feed.prune(world.clock.now() - keep, batch=5) == 5
    standing = (await feed.read(NEVER, limit=0)).standing
    assert standing.floor is not None
    kept = [start for start in starts if standing.floor.is_within(start)]
    assert len(kept) == 15
    assert await feed.prune(world.clock.now() - keep, batch=100) == 10
    assert len((await ids_since(feed, kept[0]))[0]) == 15
    assert await feed.prune(world.clock.now() - keep, batch=100) == 0
    assert await world.value("SELECT count(*) FROM tocsin.feed") == 15


async def test_the_feed_is_off_once_nobody_has_wanted_it_for_its_retention(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    feed, keep = a_feed(world), timedelta(minutes=15)
    life, _ = await feed.want()
    await world.control.fire("t")
    world.clock.turn(keep - SECOND)
    assert not await feed.leave(world.clock.now() - keep)
    world.clock.turn(SECOND)
    assert await feed.leave(world.clock.now() - keep)
    assert not await feed.leave(world.clock.now() - keep)
    assert await feed.prune(world.clock.now() - keep, batch=10) == 1
    await world.control.fire("t")
    assert await world.value("SELECT count(*) FROM tocsin.feed") == 0
    assert (await feed.read(NEVER, limit=10)).standing.life is None
    again, is_new = await feed.want()
    assert is_new
    assert again != life


async def test_a_reader_that_comes_while_the_feed_is_switched_off_waits_and_switches_it_on_again(world: World) -> None:
    feed = a_feed(world)
    other = Feed(database=Database(world.dsn), clock=world.clock)
    life, _ = await feed.want()
    world.clock.turn(MINUTE)
    async with world.database.transaction() as session:
        await session.fetch("hold_marks")
        assert await session.fetchrow("switch_feed_off", before=world.clock.now() - SECOND) is not None
        coming = drive(other.want())
        await eventually(
            lambda: world.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'tocsin.feed_marks'::regclass AND NOT granted"
            )
        )
    again, is_new = await coming
    assert is_new
    assert again != life
    await other._database.close()


async def test_what_was_in_progress_at_a_mark_is_kept_as_long_as_what_came_after_it(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    feed = Feed(database=Database(world.dsn), clock=world.clock)
    await feed.want()
    await world.control.fire("t")
    run_id = await world.value("SELECT id FROM tocsin.runs")
    _, start = await ids_since(feed, NEVER)
    async with world.database.transaction() as session:
        await take_an_edge(world, session, run_id)
        await Control(database=feed._database, clock=world.clock, actor="other").fire("t")
        world.clock.turn(MINUTE)
        _, between = await ids_since(feed, start)
        await feed.want()
    assert await feed.prune(world.clock.now(), batch=10) == 2
    assert len((await ids_since(feed, between))[0]) == 1
    floor = (await feed.read(NEVER, limit=0)).standing.floor
    assert floor is not None
    assert floor.is_within(between)
    assert not floor.is_within(start)
    await feed._database.close()


async def test_a_copy_on_another_server_has_another_feed_and_none_of_its_rows(world: World) -> None:
    """A dump holds transactions that mean nothing where it is restored."""
    feed = a_feed(world)
    life, _ = await feed.want()
    await world.admin.execute("UPDATE tocsin.feed_switch SET place = 'elsewhere'")
    await world.admin.execute(
        "INSERT INTO tocsin.feed (xid, run_id, seq, to_state, attempt, fence, actor, at)"
        " VALUES ('9000000000', $1, 1, 'queued', 0, 0, 'x', now())",
        uuid4(),
    )
    assert (await feed.read(NEVER, limit=10)).standing.life is None
    again, is_new = await feed.want()
    assert is_new
    assert again != life
    assert (await ids_since(feed, NEVER))[0] == []


async def test_the_pruner_forgets_the_feed_and_switches_it_off(world: World) -> None:
    await world.declare(a_trigger(overlap=Overlap.ALLOW))
    peer, feed = await world.peer(), a_feed(world)
    pruner = Pruner(
        retention=Retention(database=world.database),
        feed=feed,
        clock=world.clock,
        time=peer.time,
        log=peer.log,
        keep=timedelta(days=1),
        keep_audit=timedelta(days=365),
        keep_feed=timedelta(minutes=15),
    )
    await feed.want()
    await world.control.fire("t")
    for _ in range(3):
        world.clock.turn(10 * MINUTE)
        peer.time.learn(world.clock.now(), asked_at=world.clock.monotonic())
        await feed.want()
        assert not await pruner.run_once()
    assert (await ids_since(feed, NEVER))[0] == []
    await world.control.fire("t")
    assert peer.log.count("feed.off") == 0
    world.clock.turn(15 * MINUTE)
    peer.time.learn(world.clock.now(), asked_at=world.clock.monotonic())
    assert not await pruner.run_once()
    assert peer.log.count("feed.off") == 1
    assert await world.value("SELECT count(*) FROM tocsin.feed") == 0
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 2
