"""Leases: renewed in one statement, ended by a peer, measured on the monotonic clock; and who is swept, and when."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import pytest

from tests.engine.building import (
    LEASE,
    MINUTE,
    NOON,
    SECOND,
    Peer,
    World,
    a_replica,
    a_trigger,
    an_end,
    eventually,
)
from tocsin.clock import SystemClock
from tocsin.domain.agent import OnLost
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.run import StopReason
from tocsin.engine.control import Control
from tocsin.engine.keeper import Keeper
from tocsin.engine.sweeper import PROBE_EVERY
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.leases import Leases

VICTIM = """
import asyncio, sys
from tests.engine.building import a_replica

async def forever(run):
    run.log("begun")
    await asyncio.sleep(600)

async def main(dsn):
    async with a_replica(dsn, {"agent": forever}, lease=600, renew_every=5):
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


class Kept:
    """A keeper on the test's own loop, and what it asked for."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.asked: list[tuple[set[tuple[UUID, int]] | None, StopReason]] = []
        self.strays: list[tuple[UUID, int]] = []
        self.database = Database(world.dsn, size=1)
        self.keeper = Keeper(
            database=self.database,
            leases=Leases(database=self.database, clock=world.clock, who=peer.who),
            hands=peer.hands,
            who=peer.who,
            clock=world.clock,
            log=peer.log,
            lease=LEASE,
            renew_every=5 * SECOND,
            stop=self._stop,
            strays=self.strays.extend,
            describe=lambda: (peer.who.name, "0", ["agent"], 10),
        )

    def _stop(self, runs: Iterable[tuple[UUID, int]] | None, reason: StopReason) -> None:
        asked = None if runs is None else set(runs)
        if asked is None or asked:
            self.asked.append((asked, reason))


@asynccontextmanager
async def a_keeper(world: World) -> AsyncIterator[tuple[Peer, Kept]]:
    """A peer whose lease is kept by hand; its first step has registered it."""
    peer = Peer(world.database, world.clock)
    kept = Kept(world, peer)
    try:
        await kept.keeper.run_once()
        yield peer, kept
    finally:
        await kept.database.close()


async def lease_of(world: World, holder: UUID) -> dict[str, object]:
    return await world.row("SELECT * FROM tocsin.leases WHERE holder = $1", holder)


async def test_the_first_step_registers_the_second_renews_in_one_statement(world: World) -> None:
    async with a_keeper(world) as (peer, kept):
        assert (await lease_of(world, peer.who.holder))["expires_at"] == NOON + LEASE
        listed = await world.control.replica(peer.who.name)
        assert (listed["state"], listed["agents"], listed["locked"]) == ("alive", ["agent"], True)
        await world.declare(a_trigger())
        for n in range(20):
            await world.queue(at=-n * SECOND)
        await peer.claim(live=20)
        world.clock.turn(5)
        before = kept.database.calls
        await kept.keeper.run_once()
        assert kept.database.calls - before == 1
        assert (await lease_of(world, peer.who.holder))["expires_at"] == NOON + 5 * SECOND + LEASE


async def test_a_renewal_says_what_was_fenced_and_what_is_to_stop(world: World) -> None:
    await world.declare(a_trigger())
    async with a_keeper(world) as (peer, kept):
        runs = [await world.queue(at=-n * SECOND) for n in range(4)]
        while await peer.runner.run_once():
            pass
        fenced, cancelled, superseded, _ = runs
        await world.admin.execute(
            "UPDATE tocsin.runs SET state = 'queued', holder = NULL, seq = seq + 1 WHERE id = $1", fenced
        )
        await world.control.cancel_run(cancelled)
        await world.admin.execute(
            "UPDATE tocsin.runs SET cancel_requested_at = $2, cancel_reason = 'superseded' WHERE id = $1",
            superseded,
            NOON,
        )
        await kept.keeper.run_once()
        assert kept.asked == [
            ({(fenced, 1)}, StopReason.FENCED),
            ({(cancelled, 1)}, StopReason.CANCELLED),
            ({(superseded, 1)}, StopReason.SUPERSEDED),
        ]


async def test_what_is_said_of_an_attempt_that_has_passed_does_not_stop_the_newer_one(world: World) -> None:
    await world.declare(a_trigger())
    async with a_keeper(world) as (peer, kept):
        run_id = await world.queue()
        await peer.runner.run_once()
        again = "UPDATE tocsin.runs SET state = 'queued', holder = NULL, attempt = 0, seq = seq + 1 WHERE id = $1"
        await world.admin.execute(again, run_id)
        await kept.keeper.run_once()
        ((fenced, reason),) = kept.asked
        # It is claimed anew while the answer is on its way from the keeper's thread.
        peer.runner.begin([await peer.claim_one()])
        assert fenced is not None
        peer.hands.stop(fenced, reason)
        newer = peer.hands.get(run_id)
        assert newer is not None
        assert (newer.assignment.fence, newer.stop.requested) == (2, False)


async def test_a_claim_whose_answer_was_lost_is_found_and_given_back(world: World) -> None:
    await world.declare(a_trigger())
    async with a_keeper(world) as (peer, kept):
        run_id = await world.queue()
        await peer.claim()
        await kept.keeper.run_once()
        assert kept.strays == []
        world.clock.turn(11)
        await kept.keeper.run_once()
        assert kept.strays == [(run_id, 1)]


async def test_an_ended_lease_is_not_revived_and_its_holder_is_born_again(world: World) -> None:
    await world.declare(a_trigger())
    async with a_keeper(world) as (peer, kept):
        run_id = await world.queue()
        await peer.claim()
        sweeper = await world.peer()
        former = peer.who.holder
        await sweeper.sweep(former)
        assert (await lease_of(world, former))["end_reason"] == "lost"
        assert await kept.keeper.run_once() is True
        assert kept.asked == [(None, StopReason.FENCED)]
        assert peer.who.holder != former
        await kept.keeper.run_once()
        assert (await lease_of(world, peer.who.holder))["ended_at"] is None
        assert (await lease_of(world, former))["expires_at"] == NOON + LEASE
        again = (await peer.claim(late=1)).assignments[0]
        assert (again.run_id, again.fence) == (run_id, 2)


async def test_our_work_is_stopped_at_the_local_deadline_though_the_database_is_gone(world: World) -> None:
    async with a_keeper(world) as (peer, kept):
        world.clock.turn(5)
        await kept.keeper.run_once()
        await kept.database.close()
        kept.database.dsn = "postgresql://nobody@127.0.0.1:1/x"
        world.clock.turn(20)
        with pytest.raises(DatabaseUnavailable):
            await kept.keeper.run_once()
        world.clock.turn(8)
        assert kept.asked == []
        # 28.5 s after the renewal was sent: a twentieth of the lease is kept as a margin.
        world.clock.turn(0.6)
        assert kept.asked == [(None, StopReason.LEASE_LOST)]
        assert kept.keeper.expired
        expires_at = (await lease_of(world, peer.who.holder))["expires_at"]
        assert isinstance(expires_at, type(NOON))
        assert world.clock.now() < expires_at


async def test_leaving_gives_the_lease_up(world: World) -> None:
    async with a_keeper(world) as (peer, kept):
        await kept.keeper.leave()
        assert (await lease_of(world, peer.who.holder))["end_reason"] == "released"
        assert await peer.claim() == await peer.claim()
        assert (await world.control.replicas(limit=5)) == []


# --- sweeping


async def lost(world: World, **agent: object) -> tuple[Peer, Peer, UUID]:
    """(a holder with one run, a peer who may sweep, the run)."""
    await world.declare(a_trigger(), **agent)
    holder, peer = await world.peer(), await world.peer()
    run_id = await world.queue(max_attempts=3)
    await holder.claim_one()
    return holder, peer, run_id


async def test_a_lease_that_has_run_out_gives_its_runs_back_uncounted(world: World) -> None:
    holder, peer, run_id = await lost(world)
    world.clock.turn(30)
    assert await peer.sweep() == []
    world.clock.turn(0.001)
    swept = await peer.sweep()
    assert [(run.run_id, run.state, run.reason, run.holder) for run in swept] == [
        (run_id, "queued", "lost", holder.who.holder)
    ]
    row = await world.run(run_id)
    assert (row["attempt"], row["fence"], row["lost"], row["lane"]) == (0, 1, 1, "live")
    assert (await world.control.run(run_id))["attempts"][0]["error_kind"] == "Lost"
    assert (await lease_of(world, holder.who.holder))["end_reason"] == "lost"


async def test_sweepers_at_once_take_each_run_once(world: World) -> None:
    await world.declare(a_trigger())
    holder = await world.peer()
    peers = [await world.peer() for _ in range(4)]
    for n in range(30):
        await world.queue(at=-n * SECOND)
    await holder.claim(live=30)
    swept = [run for runs in await asyncio.gather(*(p.sweep(holder.who.holder) for p in peers)) for run in runs]
    assert len(swept) == len({run.run_id for run in swept}) == 30
    assert await world.value("SELECT count(*) FROM tocsin.transitions WHERE reason = 'lost'") == 30


async def test_a_live_holder_is_never_swept_however_long_its_run_takes(world: World) -> None:
    holder, peer, _ = await lost(world)
    for _ in range(100):
        world.clock.turn(20)
        await holder.leases.renew([], lease=LEASE)
        assert await peer.sweep() == []


async def test_at_most_once_agents_fail_when_their_holder_is_lost(world: World) -> None:
    holder, peer, run_id = await lost(world, on_lost=OnLost.FAIL)
    await peer.sweep(holder.who.holder)
    row = await world.run(run_id)
    assert (row["state"], row["reason"], row["attempt"]) == ("failed", "lost", 1)


async def test_a_run_that_kills_its_holders_is_poisoned_after_three(world: World) -> None:
    await world.declare(a_trigger())
    sweeper = await world.peer()
    run_id = await world.queue(max_attempts=1)
    states = []
    for _ in range(3):
        holder = await world.peer()
        assert len((await holder.claim(late=1)).assignments) == 1
        await sweeper.sweep(holder.who.holder)
        row = await world.run(run_id)
        states.append((row["state"], row["reason"]))
    assert states == [("queued", "lost"), ("queued", "lost"), ("failed", "poisoned")]


async def test_what_was_to_be_cancelled_ends_cancelled_when_its_holder_is_lost(world: World) -> None:
    holder, peer, run_id = await lost(world)
    await world.control.cancel_run(run_id)
    await peer.sweep(holder.who.holder)
    row = await world.run(run_id)
    assert (row["state"], row["reason"]) == ("cancelled", "cancelled")


async def test_what_is_past_its_deadline_fails_when_its_holder_is_lost(world: World) -> None:
    await world.declare(a_trigger())
    holder, peer = await world.peer(), await world.peer()
    run_id = await world.queue(deadline_at=NOON + MINUTE)
    await holder.claim_one()
    world.clock.turn(MINUTE)
    await peer.sweep()
    assert (await world.run(run_id))["reason"] == "deadline"


async def test_a_run_that_will_not_stop_is_fenced_after_its_limit(world: World) -> None:
    holder, peer, run_id = await lost(world, cancel_within=10 * SECOND)
    await world.control.cancel_run(run_id)
    world.clock.turn(15)
    assert await peer.runs.fence_uncancelled(batch=10) == []
    world.clock.turn(0.001)
    fenced = await peer.runs.fence_uncancelled(batch=10)
    assert [(run.run_id, run.state) for run in fenced] == [(run_id, "cancelled")]
    assert (await world.trail(run_id))[-1] == ("running", "cancelled", "cancelled")
    renewal = await holder.leases.renew([(run_id, 1)], lease=LEASE)
    assert renewal.fenced == {run_id}


async def test_a_sweeper_that_was_blind_waits_one_whole_lease(world: World) -> None:
    holder, peer, run_id = await lost(world)
    peer.sweeper.expect(others_run=True, cancelling=False, waiting=False)

    async def state_after(seconds: float) -> object:
        world.clock.turn(seconds)
        await peer.leases.renew([], lease=LEASE)
        await peer.sweeper.run_once()
        return (await world.run(run_id))["state"]

    # Just started, it judges nobody for one lease, though the holder's has run out meanwhile.
    assert await state_after(20) == "running"
    peer.sweeper.blinded()
    assert await state_after(11) == "running"
    assert await state_after(15) == "running"
    assert await state_after(5) == "queued"
    assert (await lease_of(world, holder.who.holder))["end_reason"] == "lost"


async def test_a_sweeper_whose_own_loop_was_late_counts_as_blind(world: World) -> None:
    _, peer, run_id = await lost(world)
    peer.sweeper.expect(others_run=True, cancelling=False, waiting=False)
    world.clock.turn(1)
    await peer.sweeper.run_once()
    world.clock.turn(60)
    await peer.sweeper.run_once()
    assert (await world.run(run_id))["state"] == "running"
    for _ in range(31):
        world.clock.turn(1)
        await peer.sweeper.run_once()
    assert (await world.run(run_id))["state"] == "queued"


async def test_a_step_that_fails_makes_the_sweeper_blind(world: World) -> None:
    _, peer, run_id = await lost(world)
    peer.sweeper.expect(others_run=True, cancelling=False, waiting=False)
    dsn = world.database.dsn
    for second in range(40):
        world.clock.turn(1)
        if second == 29:
            world.database.dsn = "postgresql://nobody@127.0.0.1:1/x"
            await world.database.close()
            with pytest.raises(DatabaseUnavailable):
                await peer.sweeper.run_once()
            world.database.dsn = dsn
        else:
            await peer.sweeper.run_once()
    assert (await world.run(run_id))["state"] == "running"


async def test_a_free_lock_is_proof_only_when_seen_twice(world: World) -> None:
    async with a_keeper(world) as (victim, kept):
        await world.declare(a_trigger())
        run_id = await world.queue()
        await victim.claim()
        peer = await world.peer()
        assert peer.sweeper.suspect()
        assert not peer.sweeper.suspect()
        world.clock.turn(PROBE_EVERY)
        await peer.sweeper.run_once()
        assert await peer.leases.free_locks() == {}
        await kept.database.close()

        async def is_free() -> object:
            return await peer.leases.free_locks()

        await eventually(is_free)
        await peer.sweeper.run_once()
        assert (await world.run(run_id))["state"] == "running"
        world.clock.turn(0.8)
        await peer.sweeper.run_once()
        assert (await world.run(run_id))["state"] == "queued"


async def test_two_looks_at_a_free_lock_in_one_moment_are_no_proof(world: World) -> None:
    """A sweeper is woken by hints and looks; a keeper whose session was ended has its lock again within the second."""
    async with a_keeper(world) as (victim, kept):
        await world.declare(a_trigger())
        run_id = await world.queue()
        await victim.claim()
        peer = await world.peer()
        await kept.database.close()

        async def is_free() -> object:
            return await peer.leases.free_locks()

        await eventually(is_free)
        peer.sweeper.suspect()
        for _ in range(5):
            await peer.sweeper.run_once()
            world.clock.turn(0.1)
        assert (await world.run(run_id))["state"] == "running"


async def test_a_lock_taken_again_on_a_new_session_is_no_proof(world: World) -> None:
    async with a_keeper(world) as (victim, kept):
        await world.declare(a_trigger())
        run_id = await world.queue()
        await victim.claim()
        peer = await world.peer()
        await kept.database.close()

        async def is_free() -> object:
            return await peer.leases.free_locks()

        await eventually(is_free)
        peer.sweeper.suspect()
        await peer.sweeper.run_once()
        await kept.keeper.run_once()
        assert await peer.leases.free_locks() == {}
        for _ in range(3):
            world.clock.turn(0.8)
            await peer.sweeper.run_once()
        assert (await world.run(run_id))["state"] == "running"


async def test_an_incarnation_without_work_or_that_left_in_order_is_not_probed(world: World) -> None:
    async with a_keeper(world) as (_, kept):
        peer = await world.peer()
        await kept.keeper.leave()
        await kept.database.close()
        assert await peer.leases.free_locks() == {}


async def test_a_killed_process_gives_its_runs_back_within_seconds_not_a_lease(world: World) -> None:
    await world.declare(a_trigger())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VICTIM,
        world.dsn,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
    )
    try:
        present = Control(database=world.database, clock=SystemClock(), actor="test")
        run_id = (await present.fire("t"))["id"]

        async def state() -> str:
            return str((await world.run(run_id))["state"])

        async def runs() -> bool:
            assert process.returncode is None, "the other process has ended"
            return await state() == "running"

        await eventually(runs, what="the run in the other process")
        begun: list[str] = []

        async def finish(run: Run) -> str:
            begun.append(run.id)
            return "done"

        await eventually(partial(world.value, "SELECT log FROM tocsin.attempts"), what="its line")
        async with a_replica(world.dsn, {"agent": finish}, lease=600, renew_every=5):
            # It knows of the peer's run from its first look, and probes from then on.
            process.send_signal(signal.SIGKILL)
            await process.wait()

            async def succeeded() -> bool:
                return await state() == "succeeded"

            await eventually(succeeded)
        assert begun == [str(run_id)]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    swept = await world.rows("SELECT at FROM tocsin.transitions WHERE run_id = $1 AND reason = 'lost'", run_id)
    assert len(swept) == 1
    assert (await world.run(run_id))["fence"] == 2
    assert await world.value("SELECT log FROM tocsin.attempts WHERE fence = 1") == "begun"


async def test_a_settled_run_is_not_swept_and_a_swept_one_not_settled(world: World) -> None:
    await world.declare(a_trigger())
    holder, peer = await world.peer(), await world.peer()
    for n in range(20):
        run_id = await world.queue(at=n * SECOND)
        world.clock.turn(SECOND)
        held = (await holder.claim(late=1)).assignments[0]
        swept, settled = await asyncio.gather(peer.sweep(holder.who.holder), holder.settle(an_end(held)))
        assert (len(swept), len(settled)) in ((1, 0), (0, 1))
        assert len(await world.trail(run_id)) == 3
        await world.admin.execute(
            "UPDATE tocsin.runs SET state = 'cancelled', finished_at = now() WHERE state = 'queued'"
        )
        holder.who.reborn()
        await holder.register()
