"""The claim: who gets what, in which order, and what is decided against."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.engine.building import DEADLINE, MINUTE, NOON, SECOND, TRIED, Scripted, World, a_trigger, an_end
from tocsin.domain.errors import Contended
from tocsin.domain.run import RunState, Succeeded
from tocsin.store.attempts import Claimed, Quota


def names(claimed: Claimed) -> list[UUID]:
    return [assignment.run_id for assignment in claimed.assignments]


def skips(claimed: Claimed) -> dict[UUID, str]:
    return {skipped.run_id: skipped.reason for skipped in claimed.skipped}


async def test_a_claim_raises_the_fence_and_hands_over_what_the_agent_is_told(world: World) -> None:
    await world.declare(a_trigger(input={"repo": "x"}))
    peer = await world.peer()
    run_id = await world.queue(input='{"repo": "x"}', max_attempts=3, effective_at=NOON + SECOND)
    claimed = await peer.claim()
    assignment = claimed.assignments[0]
    assert (assignment.run_id, assignment.fence, assignment.attempt, assignment.max_attempts) == (run_id, 1, 1, 3)
    assert (assignment.nominal_at, assignment.effective_at, assignment.started_at) == (NOON, NOON + SECOND, NOON)
    assert (assignment.trigger, assignment.agent, assignment.input) == ("t", "agent", '{"repo": "x"}')
    row = await world.run(run_id)
    assert (row["state"], row["holder"], row["fence"], row["started_at"]) == ("running", peer.who.holder, 1, NOON)
    assert await world.trail(run_id) == [(None, "queued", "due"), ("queued", "running", None)]
    assert await peer.claim() == Claimed([], [])


async def test_priority_goes_before_the_effective_instant(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    late_low = await world.queue(at=-MINUTE, priority=4)
    young = await world.queue(at=-SECOND)
    old = await world.queue(at=-2 * SECOND)
    urgent = await world.queue(priority=9)
    assert [(await peer.claim(live=1)).assignments[0].run_id for _ in range(4)] == [urgent, old, young, late_low]


async def test_nothing_is_claimed_before_it_is_available(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue(at=SECOND)
    assert names(await peer.claim()) == []
    world.clock.turn(SECOND)
    assert len(names(await peer.claim())) == 1


async def test_lanes_have_quotas_of_their_own(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    for n in range(5):
        await world.queue(at=n * SECOND - MINUTE, lane="late")
        await world.queue(at=n * SECOND - MINUTE / 2)
    claimed = await peer.claim(live=3, late=2)
    assert sorted(assignment.lane for assignment in claimed.assignments) == ["late", "late", "live", "live", "live"]


async def test_late_work_has_a_fifth_of_the_slots_and_at_least_one(world: World) -> None:
    await world.declare(a_trigger())
    for slots, share in ((10, 2), (3, 1)):
        executor = Scripted(slots=slots)
        peer = await world.peer(executor=executor)
        for n in range(slots):
            await world.queue(at=n * SECOND - MINUTE - slots * MINUTE, lane="late")
        while await peer.runner.run_once():
            pass
        assert len(peer.hands) == share
        live = [await world.queue(at=n * SECOND - slots * MINUTE) for n in range(slots)]
        while await peer.runner.run_once():
            pass
        held = {hand.assignment.run_id for hand in peer.hands.all()}
        assert len(held & set(live)) == slots - share
        await asyncio.sleep(0)
        await executor.end_all(Succeeded(b"1"))
        await peer.settler.run_once()
        await world.admin.execute(
            "UPDATE tocsin.runs SET state = 'cancelled', seq = 2 * fence + 2, finished_at = now()"
            " WHERE state = 'queued'"
        )


async def test_one_agents_backlog_does_not_starve_another(world: World) -> None:
    await world.declare(a_trigger("big", agent="big"), a_trigger("small", agent="small"), agents=("big", "small"))
    executor = Scripted("big", "small", slots=10)
    peer = await world.peer(executor=executor)
    for n in range(40):
        await world.queue("big", at=n * SECOND - MINUTE)
    begun: list[str] = []
    for n in range(4):
        await world.queue("small", at=n * SECOND)
        world.clock.turn(n * SECOND)
        while await peer.runner.run_once():
            pass
        await asyncio.sleep(0)
        begun += [assignment.agent for assignment, *_ in executor.in_hand]
        await executor.end_all(Succeeded(b"1"))
        while await peer.settler.run_once():
            pass
    assert begun.count("big") > 20
    # Each round had ten slots, so the small one's run was never further back than the round after.
    assert begun.count("small") >= 3


async def test_an_agents_concurrency_holds_over_all_holders(world: World) -> None:
    await world.declare(a_trigger(), concurrency=3)
    one, two = await world.peer(), await world.peer()
    for n in range(6):
        await world.queue(at=-n * SECOND)
    first = await one.claim(live=2)
    second = await two.claim()
    assert (len(names(first)), len(names(second))) == (2, 1)
    permits = await world.rows("SELECT permit FROM tocsin.runs WHERE state = 'running' ORDER BY permit")
    assert [row["permit"] for row in permits] == [0, 1, 2]
    assert names(await one.claim()) == []
    await one.settle(an_end(first.assignments[0]))
    assert len(names(await two.claim())) == 1


async def test_concurrency_by_key_counts_each_value_by_itself(world: World) -> None:
    await world.declare(a_trigger(), concurrency=1, concurrency_key="repo.name")
    peer = await world.peer()
    for n, name in enumerate(["a", "a", "b", "a"]):
        await world.queue(at=n * SECOND - MINUTE, input=f'{{"repo": {{"name": "{name}"}}}}')
    await world.queue(at=-SECOND, input='"no object"')
    await world.queue(at=timedelta(0), input="null")
    claimed = await peer.claim()
    held = await world.rows("SELECT permit_scope FROM tocsin.runs WHERE state = 'running' ORDER BY permit_scope")
    assert [row["permit_scope"] for row in held] == ["agent/", "agent/a", "agent/b"]
    await peer.settle(*(an_end(assignment) for assignment in claimed.assignments))
    assert len(names(await peer.claim())) == 2


async def test_skip_decides_against_what_would_overlap(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    first = await world.queue(at=-MINUTE, overlap="skip")
    assert names(await peer.claim()) == [first]
    second = await world.queue(overlap="skip")
    claimed = await peer.claim()
    assert skips(claimed) == {second: "overlap"}
    row = await world.run(second)
    assert (row["state"], row["reason"], row["fence"], row["finished_at"]) == ("skipped", "overlap", 0, NOON)
    assert await world.trail(second) == [(None, "queued", "due"), ("queued", "skipped", "overlap")]


async def test_of_two_in_one_claim_the_first_runs_and_skip_drops_the_other(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    first = await world.queue(at=-MINUTE, overlap="skip")
    second = await world.queue(overlap="skip")
    claimed = await peer.claim()
    assert (names(claimed), skips(claimed)) == ([first], {second: "overlap"})


async def test_queue_all_runs_one_after_the_other_in_order(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    runs = [await world.queue(at=n * SECOND - MINUTE, overlap="queue_all") for n in range(3)]
    order = []
    for _ in runs:
        claimed = await peer.claim()
        assert len(claimed.assignments) == 1
        assert claimed.skipped == []
        order.append(claimed.assignments[0].run_id)
        await peer.settle(an_end(claimed.assignments[0]))
    assert order == runs


async def test_queue_one_keeps_the_newest_of_those_that_wait(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    running = await world.queue(at=-MINUTE, overlap="queue_one")
    assignment = (await peer.claim()).assignments[0]
    assert assignment.run_id == running
    waiting = [await world.queue(at=n * SECOND - 10 * SECOND, overlap="queue_one") for n in range(3)]
    assert await peer.claim() == Claimed([], [])
    await peer.settle(an_end(assignment))
    claimed = await peer.claim()
    assert names(claimed) == [waiting[-1]]
    assert skips(claimed) == dict.fromkeys(waiting[:-1], "overlap")


async def test_cancel_previous_starts_only_when_the_old_run_has_ended(world: World) -> None:
    await world.declare(a_trigger())
    peer, other = await world.peer(), await world.peer()
    old = await world.queue(at=-MINUTE, overlap="cancel_previous")
    held = (await other.claim()).assignments[0]
    assert held.run_id == old
    new = await world.queue(overlap="cancel_previous")
    assert await peer.claim() == Claimed([], [], passed_over=1)
    row = await world.run(old)
    assert (row["state"], row["cancel_reason"], row["cancel_requested_at"]) == ("running", "superseded", NOON)
    assert await peer.claim() == Claimed([], [])
    renewal = await other.leases.renew([(old, 1)], lease=MINUTE)
    assert renewal.superseded == {old}
    await other.settle(an_end(held, RunState.CANCELLED, reason="superseded"))
    assert names(await peer.claim()) == [new]


async def test_of_several_that_would_supersede_the_newest_does(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue(at=-MINUTE, overlap="cancel_previous")
    held = await peer.claim_one()
    older = await world.queue(at=-2 * SECOND, overlap="cancel_previous")
    newer = await world.queue(overlap="cancel_previous")
    assert await peer.claim() == Claimed([], [], passed_over=2)
    await peer.settle(an_end(held, RunState.CANCELLED, reason="superseded"))
    claimed = await peer.claim()
    assert (names(claimed), skips(claimed)) == ([newer], {older: "overlap"})


async def test_allow_runs_side_by_side(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    for n in range(3):
        await world.queue(at=-n * SECOND)
    assert len(names(await peer.claim())) == 3


async def test_a_scope_may_span_triggers(world: World) -> None:
    await world.declare(a_trigger("t"), a_trigger("u"))
    peer = await world.peer()
    first = await world.queue("t", at=-SECOND, overlap="queue_all", scope="agent:agent")
    second = await world.queue("u", overlap="queue_all", scope="agent:agent")
    claimed = await peer.claim()
    assert names(claimed) == [first]
    await peer.settle(an_end(claimed.assignments[0]))
    assert names(await peer.claim()) == [second]


async def test_what_waited_longer_than_it_may_expires(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    expired = await world.queue(at=-MINUTE, not_after=NOON - SECOND)
    in_time = await world.queue(at=-MINUTE, kind="manual", not_after=NOON)
    claimed = await peer.claim()
    assert (names(claimed), skips(claimed)) == ([in_time], {expired: "expired"})


async def test_what_expires_does_so_even_while_its_scope_is_busy(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue(at=-2 * MINUTE, overlap="queue_all")
    await peer.claim_one()
    expired = await world.queue(at=-MINUTE, overlap="queue_all", not_after=NOON - SECOND)
    assert skips(await peer.claim()) == {expired: "expired"}


async def test_a_run_past_its_deadline_expires_even_as_a_retry(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(at=-MINUTE, deadline_at=NOON, max_attempts=2, **TRIED)
    assert skips(await peer.claim()) == {run_id: "expired"}


async def test_a_retry_is_neither_skipped_by_overlap_nor_expired_by_its_wait(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    retry = await world.queue(at=-MINUTE, overlap="skip", max_attempts=2, not_after=NOON - SECOND, **TRIED)
    held = await world.queue(at=-2 * MINUTE, overlap="skip", priority=9)
    assert names(await peer.claim(live=1)) == [held]
    assert await peer.claim() == Claimed([], [])
    row = await world.run(held)
    await world.admin.execute(
        "UPDATE tocsin.runs SET state = 'succeeded', holder = NULL, seq = 3, finished_at = $2 WHERE id = $1",
        row["id"],
        NOON,
    )
    assert names(await peer.claim()) == [retry]


async def test_a_backfill_in_hand_makes_live_work_wait_and_not_skip(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue(at=-MINUTE, overlap="queue_all", kind="backfill")
    held = await peer.claim_one()
    live = await world.queue(overlap="skip")
    assert await peer.claim() == Claimed([], [])
    await peer.settle(an_end(held))
    assert names(await peer.claim()) == [live]


async def test_without_a_live_lease_nothing_is_claimed(world: World) -> None:
    await world.declare(a_trigger())
    await world.queue()
    expired, ended, stranger = await world.peer(), await world.peer(), await world.peer()
    await ended.leases.release()
    stranger.who.reborn()
    assert await ended.claim() == Claimed([], [])
    assert await stranger.claim() == Claimed([], [])
    world.clock.turn(31)
    assert await expired.claim() == Claimed([], [])
    await expired.leases.renew([], lease=MINUTE)
    assert len(names(await expired.claim())) == 1


async def test_the_last_success_is_told(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue(at=-MINUTE)
    first = await peer.claim_one()
    assert first.last is None
    await peer.settle(an_end(first, output=b'{"cursor": 7}'))
    await world.queue()
    second = await peer.claim_one()
    assert second.last is not None
    assert (second.last.id, second.last.output) == (str(first.run_id), {"cursor": 7})
    assert (second.last.nominal_at, second.last.finished_at) == (NOON - MINUTE, NOON)


async def test_each_run_of_a_plain_claim_is_told_what_is_its_triggers(world: World) -> None:
    await world.declare(*(a_trigger(name) for name in "abw"))
    await world.admin.execute("UPDATE tocsin.triggers SET status = 'waiting' WHERE name = 'w'")
    peer = await world.peer()
    firsts = {str(await world.queue(name, -MINUTE)): name for name in "ab"}
    for first in (await peer.claim()).assignments:
        await peer.settle(an_end(first, output=f'"{first.trigger}"'.encode()))
    for number, name in enumerate("abwab"):
        await world.queue(name, number * -SECOND)
    calls = peer.database.calls
    assignments = (await peer.claim()).assignments
    assert peer.database.calls == calls + 1, "the whole claim was needed"
    told = [(a.trigger, a.last and (firsts[a.last.id], a.last.output), a.rearms) for a in assignments]
    of_a, of_b = ("a", ("a", "a"), False), ("b", ("b", "b"), False)
    assert sorted(told, key=str) == [of_a, of_a, of_b, of_b, ("w", None, True)]


async def test_many_claimers_at_once_take_each_run_once(world: World) -> None:
    await world.declare(a_trigger())
    peers = [await world.peer() for _ in range(4)]
    for n in range(60):
        await world.queue(at=-n * SECOND)
    taken = await asyncio.gather(*(peer.claim(live=5) for peer in peers for _ in range(3)))
    ids = [run_id for claimed in taken for run_id in names(claimed)]
    assert len(ids) == len(set(ids)) == 60
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE fence <> 1") == 0


async def test_what_a_peer_has_locked_is_passed_over(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    locked = await world.queue(at=-SECOND)
    free = await world.queue()
    async with world.admin.transaction():
        await world.admin.fetch("SELECT FROM tocsin.runs WHERE id = $1 FOR UPDATE", locked)
        async with asyncio.timeout(DEADLINE):
            assert names(await peer.claim()) == [free]
    assert names(await peer.claim()) == [locked]


async def test_of_one_scope_claimed_by_many_at_once_one_runs(world: World) -> None:
    await world.declare(a_trigger())
    peers = [await world.peer() for _ in range(4)]
    for n in range(8):
        await world.queue(at=n * SECOND - MINUTE, overlap="queue_all")

    async def claim(number: int) -> list[UUID]:
        try:
            return names(await peers[number].claim(live=2))
        except Contended:
            return []

    for _ in range(8):
        taken = [run_id for ids in await asyncio.gather(*(claim(n) for n in range(4))) for run_id in ids]
        running = await world.rows("SELECT id, fence FROM tocsin.runs WHERE state = 'running'")
        assert len(running) <= 1
        assert {row["id"] for row in running} == set(taken)
        await world.admin.execute(
            "UPDATE tocsin.runs SET state = 'succeeded', holder = NULL, seq = seq + 1, finished_at = $1"
            " WHERE state = 'running'",
            NOON,
        )
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE state = 'succeeded'") >= 4


async def test_a_scope_that_a_peer_took_unseen_is_contended(world: World) -> None:
    """The unique index has the last word where a snapshot could not see the peer's claim."""
    await world.declare(a_trigger())
    peer = await world.peer()
    first = await world.queue(at=-SECOND, overlap="skip")
    second = await world.queue(overlap="skip")
    other = await asyncpg.connect(world.dsn)
    try:
        claiming = other.transaction()
        await claiming.start()
        await other.execute(
            "UPDATE tocsin.runs SET state = 'running', holder = $2, claimed_by = $2, fence = 1, attempt = 1,"
            " started_at = now(), seq = 2 WHERE id = $1",
            first,
            uuid4(),
        )
        task = asyncio.create_task(peer.claim())
        while not await world.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not task.done()
            await asyncio.sleep(0.01)
        await claiming.commit()
        with pytest.raises(Contended):
            await task
    finally:
        await other.close()
    assert skips(await peer.claim()) == {second: "overlap"}


async def test_a_quota_of_nothing_claims_nothing(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    await world.queue()
    assert await peer.attempts.claim([], free=5) == Claimed([], [])
    assert await peer.attempts.claim([Quota("agent", "live", 0)], free=5) == Claimed([], [])
    assert await peer.attempts.claim([Quota("unknown", "live", 5)], free=5) == Claimed([], [])


@pytest.mark.parametrize("overlap", ["queue_all", "cancel_previous"])
async def test_a_backlog_of_one_scope_holds_up_nobody_behind_it(world: World, overlap: str) -> None:
    await world.declare(a_trigger("many"), a_trigger("other"))
    peer = await world.peer(executor=Scripted(slots=5))
    for n in range(20):
        await world.queue("many", at=n * SECOND - MINUTE, overlap=overlap, kind="manual")
    behind = await world.queue("other")
    while await peer.runner.run_once():
        pass
    assert behind in {hand.assignment.run_id for hand in peer.hands.all()}


async def test_many_that_would_supersede_hold_up_nobody_behind_them(world: World) -> None:
    names_of = [f"t{n}" for n in range(5)]
    await world.declare(*(a_trigger(name) for name in names_of), a_trigger("other"))
    elsewhere, peer = await world.peer(), await world.peer(executor=Scripted(slots=5))
    for name in names_of:
        await world.queue(name, at=-MINUTE, overlap="cancel_previous")
    assert len((await elsewhere.claim()).assignments) == 5
    for name in names_of:
        await world.queue(name, at=-SECOND, overlap="cancel_previous")
    behind = await world.queue("other")
    while await peer.runner.run_once():
        pass
    assert {hand.assignment.run_id for hand in peer.hands.all()} == {behind}


async def test_a_backlog_of_one_key_holds_up_no_other_key(world: World) -> None:
    await world.declare(a_trigger(), concurrency=1, concurrency_key="repo")
    peer = await world.peer(executor=Scripted(slots=5))
    for n in range(20):
        await world.queue(at=n * SECOND - MINUTE, input='{"repo": "a"}')
    behind = await world.queue(input='{"repo": "b"}')
    while await peer.runner.run_once():
        pass
    assert behind in {hand.assignment.run_id for hand in peer.hands.all()}
