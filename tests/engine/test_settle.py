"""The settlement: one end for each run, written by whoever holds the fence, together with all that follows from it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.engine.building import MINUTE, NOON, SECOND, Peer, Scripted, World, a_failure, a_trigger, an_end
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.run import Failed, FollowUp, Outcome, Postponed, RunState, Succeeded
from tocsin.store.attempts import Attempts, Claimed, Ended


async def test_a_success_closes_the_run_and_is_remembered(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(at=-MINUTE)
    held = await peer.claim_one()
    world.clock.turn(SECOND)
    assert await peer.settle(an_end(held, output=b'{"n": 1}')) == {run_id}
    row = await world.run(run_id)
    assert (row["state"], row["output"], row["finished_at"]) == ("succeeded", '{"n": 1}', NOON + SECOND)
    assert (row["holder"], row["attempt"], row["fence"]) == (None, 1, 1)
    assert (await world.trail(run_id))[-1] == ("running", "succeeded", None)
    last = await world.row("SELECT * FROM tocsin.last_successes")
    assert (last["run_id"], last["nominal_at"], last["finished_at"]) == (run_id, NOON - MINUTE, NOON + SECOND)


async def test_the_last_success_of_a_batch_is_its_latest_occurrence(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    for n in (2, 1, 3):
        await world.queue(at=-n * MINUTE)
    claimed = await peer.claim()
    await peer.settle(*(an_end(assignment) for assignment in claimed.assignments))
    assert await world.value("SELECT nominal_at FROM tocsin.last_successes") == NOON - MINUTE


async def test_a_stale_settlement_changes_nothing_and_is_kept_apart(world: World) -> None:
    await world.declare(a_trigger())
    old, new = await world.peer(), await world.peer()
    run_id = await world.queue()
    stale = await old.claim_one()
    world.clock.turn(31)
    await new.leases.renew([], lease=MINUTE)
    await new.sweep()
    fresh = (await new.claim(late=5)).assignments[0]
    assert fresh.fence == 2
    before = await world.run(run_id)
    usage = FollowUp(None, SECOND, "null")
    assert await old.settle(an_end(stale, output=b'"stale"', follow_ups=(usage,))) == set()
    assert await world.run(run_id) == before
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1
    late = await world.row("SELECT * FROM tocsin.late_results")
    assert (late["run_id"], late["fence"], late["holder"], late["output"]) == (run_id, 1, old.who.holder, '"stale"')
    assert await new.settle(an_end(fresh, output=b'"fresh"')) == {run_id}
    assert await old.settle(an_end(stale, output=b'"staler"')) == set()
    assert (await world.run(run_id))["output"] == '"fresh"'
    assert await world.value("SELECT count(*) FROM tocsin.late_results") == 1


async def test_a_holder_that_has_the_run_again_cannot_settle_it_with_its_former_fence(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue()
    former = await peer.claim_one()
    await peer.settle(an_end(former, RunState.QUEUED, reason="retry_after", counted=False))
    present = await peer.claim_one()
    assert (former.fence, present.fence) == (1, 2)
    await peer.settle(an_end(former, output=b'"former"'))
    assert (await world.run(run_id))["state"] == "running"
    await peer.settle(an_end(present, output=b'"present"'))
    assert (await world.run(run_id))["output"] == '"present"'


async def test_an_end_without_a_result_leaves_nothing_behind_when_stale(world: World) -> None:
    await world.declare(a_trigger())
    old, new = await world.peer(), await world.peer()
    await world.queue()
    stale = await old.claim_one()
    await new.sweep(old.who.holder)
    assert await old.settle(an_end(stale, RunState.QUEUED, reason="interrupted", counted=False)) == set()
    assert await world.value("SELECT count(*) FROM tocsin.late_results") == 0


async def test_nobody_settles_a_run_that_another_holds_under_the_same_fence(world: World) -> None:
    await world.declare(a_trigger())
    peer, thief = await world.peer(), await world.peer()
    run_id = await world.queue()
    held = await peer.claim_one()
    assert await thief.settle(an_end(held)) == set()
    assert (await world.run(run_id))["state"] == "running"


async def test_the_same_settlement_twice_changes_nothing_and_answers_the_same(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue()
    held = await peer.claim_one()
    end = an_end(held, output=b"1", usage='[{"cost_usd": 1}]', follow_ups=(FollowUp(None, MINUTE, '"again"'),))
    assert await peer.settle(end) == {run_id}
    before = await world.rows("SELECT * FROM tocsin.runs ORDER BY id")
    assert await peer.settle(end) == {run_id}
    assert await world.rows("SELECT * FROM tocsin.runs ORDER BY id") == before
    assert await world.value("SELECT count(*) FROM tocsin.late_results") == 0
    assert len(before) == 2


async def test_a_retry_waits_and_counts(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(max_attempts=3)
    held = await peer.claim_one()
    await peer.settle(
        an_end(held, RunState.QUEUED, reason="retry", delay=MINUTE, error=a_failure("first"), log="line 1")
    )
    row = await world.run(run_id)
    assert (row["state"], row["reason"], row["attempt"], row["available_at"]) == ("queued", "retry", 1, NOON + MINUTE)
    assert (row["holder"], row["finished_at"], row["lane"]) == (None, None, "live")
    assert await peer.claim() == Claimed([], [])
    world.clock.turn(MINUTE)
    await peer.leases.renew([], lease=MINUTE)
    again = await peer.claim_one()
    assert (again.fence, again.attempt, again.idempotency_key) == (2, 2, held.idempotency_key)
    await peer.settle(an_end(again, RunState.FAILED, reason="error", error=a_failure("second")))
    attempts = await world.rows("SELECT * FROM tocsin.attempts ORDER BY fence")
    assert [(row["fence"], row["attempt"], row["error_message"]) for row in attempts] == [
        (1, 1, "first"),
        (2, 2, "second"),
    ]
    assert attempts[0]["log"] == "line 1"
    assert await world.trail(run_id) == [
        (None, "queued", "due"),
        ("queued", "running", None),
        ("running", "queued", "retry"),
        ("queued", "running", None),
        ("running", "failed", "error"),
    ]


async def test_what_is_not_counted_gives_its_attempt_back_and_keeps_its_fence(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(max_attempts=1)
    for fence in (1, 2, 3):
        held = await peer.claim_one()
        assert (held.attempt, held.fence) == (1, fence)
        await peer.settle(an_end(held, RunState.QUEUED, reason="interrupted", counted=False))
        row = await world.run(run_id)
        assert (row["attempt"], row["fence"]) == (0, fence)
    tried = await world.rows("SELECT attempt, fence FROM tocsin.transitions WHERE to_state = 'running' ORDER BY seq")
    assert [(row["attempt"], row["fence"]) for row in tried] == [(1, 1), (1, 2), (1, 3)]


async def test_usage_is_stored_for_each_attempt(world: World) -> None:
    await world.declare(a_trigger())
    peer = await world.peer()
    run_id = await world.queue(max_attempts=2)
    first = await peer.claim_one()
    await peer.settle(an_end(first, RunState.QUEUED, reason="retry", usage='[{"model":"m","cost_usd":1.5}]'))
    second = await peer.claim_one()
    await peer.settle(an_end(second, usage='[{"model":"m","cost_usd":2}]'))
    told = await world.control.run(run_id)
    assert [(attempt["fence"], attempt["usage"]) for attempt in told["attempts"]] == [
        (1, [{"model": "m", "cost_usd": 1.5}]),
        (2, [{"model": "m", "cost_usd": 2}]),
    ]


async def test_follow_ups_are_written_with_the_settlement(world: World) -> None:
    await world.declare(a_trigger(), deadline=timedelta(hours=1), max_attempts=4)
    peer = await world.peer()
    run_id = await world.queue(overlap="skip", priority=7)
    held = await peer.claim_one()
    follow = (
        FollowUp(None, MINUTE, '{"page": 2}'),
        FollowUp(NOON + 2 * MINUTE, None, "null"),
        FollowUp(NOON - MINUTE, None, "3"),
    )
    await peer.settle(an_end(held, follow_ups=follow))
    rows = await world.rows("SELECT * FROM tocsin.runs WHERE id <> $1 ORDER BY occurrence_key", run_id)
    assert [(row["nominal_at"], row["input"]) for row in rows] == [
        (NOON + MINUTE, '{"page": 2}'),
        (NOON + 2 * MINUTE, "null"),
        (NOON, "3"),
    ]
    first = rows[0]
    assert (first["kind"], first["state"], first["overlap"]) == ("follow_up", "queued", "queue_all")
    assert (first["priority"], first["max_attempts"], first["scope"]) == (7, 4, str(first["trigger_id"]))
    assert first["deadline_at"] == NOON + MINUTE + timedelta(hours=1)
    assert await world.trail(first["id"]) == [(None, "queued", "follow_up")]


async def test_an_attempt_that_is_retried_leaves_no_follow_ups(world: World) -> None:
    await world.declare(a_trigger(), max_attempts=2)
    executor = Scripted(max_attempts=2)
    peer = await world.peer(executor=executor)
    await world.queue(max_attempts=2)
    await peer.runner.run_once()
    await asyncio.sleep(0)
    executor.in_hand[0][1].follow_up(None, MINUTE, "again")
    await executor.end_all(a_failure())
    await peer.settler.run_once()
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1


class Unheard(Attempts):
    """A store whose first settlement is committed, and its answer lost on the way."""

    lost = False

    async def settle(self, ends: Sequence[Ended]) -> set[UUID]:
        answer = await super().settle(ends)
        if not self.lost:
            self.lost = True
            raise DatabaseUnavailable("the connection was cut")
        return answer


async def settled_with(world: World, outcome: Outcome, **policy: Any) -> dict[str, Any]:
    """The run's row after one attempt that ended so."""
    await world.declare(a_trigger(), **policy)
    executor = Scripted(**policy)
    peer = await world.peer(executor=executor)
    run_id = await world.queue(max_attempts=policy.get("max_attempts", 1))
    await peer.runner.run_once()
    await asyncio.sleep(0)
    await executor.end_all(outcome)
    assert not await peer.settler.run_once()
    assert len(peer.hands) == 0
    return await world.run(run_id)


async def test_retry_after_queues_the_run_again_uncounted(world: World) -> None:
    row = await settled_with(world, Postponed(90, "busy"))
    assert (row["state"], row["reason"], row["attempt"]) == ("queued", "retry_after", 0)
    assert row["available_at"] == NOON + timedelta(seconds=90)


async def test_a_failure_backs_off_below_its_bound(world: World) -> None:
    row = await settled_with(world, a_failure(), max_attempts=3, backoff_base=10 * SECOND)
    assert (row["state"], row["reason"], row["attempt"]) == ("queued", "retry", 1)
    available = row["available_at"]
    assert isinstance(available, type(NOON))
    assert NOON <= available <= NOON + 10 * SECOND


@pytest.mark.parametrize(
    ("output", "message"),
    [(b'"\\u0000"', "unsupported Unicode escape"), (b'{"a":', "invalid input syntax"), (b'"\\ud800"', "invalid input")],
)
async def test_an_output_that_cannot_be_stored_fails_alone(world: World, output: bytes, message: str) -> None:
    await world.declare(a_trigger())
    executor = Scripted()
    peer = await world.peer(executor=executor)
    runs = [await world.queue(at=-n * SECOND) for n in range(5)]
    await peer.runner.run_once()
    await asyncio.sleep(0)
    poison = executor.in_hand[2][0].run_id
    executor.in_hand[2][3].set_result(Succeeded(output))
    await executor.end_all(Succeeded(b"1"))
    while await peer.settler.run_once():
        pass
    states = {row["id"]: row["state"] for row in await world.rows("SELECT id, state FROM tocsin.runs")}
    assert states == {run_id: "failed" if run_id == poison else "succeeded" for run_id in runs}
    told = await world.control.run(poison)
    assert told["reason"] == "fatal"
    assert "Unstorable" in told["error"]
    assert message in told["error"]
    assert len(peer.hands) == 0


@pytest.mark.parametrize("after", [timedelta.max, timedelta(days=3_000_000)])
async def test_a_follow_up_beyond_the_calendar_fails_its_run_alone(world: World, after: timedelta) -> None:
    await world.declare(a_trigger())
    executor = Scripted()
    peer = await world.peer(executor=executor)
    for n in range(3):
        await world.queue(at=-n * SECOND)
    await peer.runner.run_once()
    await asyncio.sleep(0)
    poison = executor.in_hand[0][0].run_id
    executor.in_hand[0][1].follow_up(None, after, None)
    await executor.end_all(Succeeded(b"1"))
    while await peer.settler.run_once():
        pass
    states = await world.rows("SELECT id = $1 AS poison, state FROM tocsin.runs ORDER BY 1", poison)
    assert [(row["poison"], row["state"]) for row in states] == [
        (False, "succeeded"),
        (False, "succeeded"),
        (True, "failed"),
    ]


async def test_ends_stay_in_hand_until_the_database_has_answered(world: World) -> None:
    await world.declare(a_trigger())
    executor = Scripted()
    peer = await world.peer(executor=executor)
    run_id = await world.queue()
    await peer.runner.run_once()
    await asyncio.sleep(0)
    await executor.end_all(Succeeded(b"1"))
    dsn, world.database.dsn = world.database.dsn, "postgresql://nobody@127.0.0.1:1/x"
    await world.database.close()
    with pytest.raises(DatabaseUnavailable):
        await peer.settler.run_once()
    assert (len(peer.settler), len(peer.hands)) == (1, 1)
    assert peer.hands.held() == [(run_id, 1)]
    world.database.dsn = dsn
    assert not await peer.settler.run_once()
    assert (len(peer.settler), len(peer.hands)) == (0, 0)
    assert (await world.run(run_id))["state"] == "succeeded"


async def test_a_settlement_whose_answer_was_lost_is_written_once(world: World) -> None:
    """What the database committed and could not say is said again, and told as ours."""
    await world.declare(a_trigger())
    executor = Scripted()
    peer = await world.peer(executor=executor, attempts=Unheard)
    run_id = await world.queue()
    await peer.runner.run_once()
    await asyncio.sleep(0)
    await executor.end_all(Succeeded(b"1"))
    with pytest.raises(DatabaseUnavailable):
        await peer.settler.run_once()
    assert (await world.run(run_id))["state"] == "succeeded"
    assert peer.settled == []
    await peer.settler.run_once()
    assert [end.run_id for end in peer.settled] == [run_id]
    assert peer.log.count("run.fenced") == 0
    assert len(await world.trail(run_id)) == 3
    assert len(peer.hands) == 0


async def test_what_an_ended_attempt_had_reported_does_not_stop_the_next_one(world: World) -> None:
    """It is written up to half a second later, when the same replica may have the run in hand again."""
    await world.declare(a_trigger())
    scripted = Scripted()
    peer = await world.peer(executor=scripted)
    run_id = await world.queue()
    await peer.runner.run_once()
    await asyncio.sleep(0)
    scripted.in_hand[0][1].progress("halfway", None)
    await scripted.end_all(Postponed(0.0, "again"))
    await peer.settler.run_once()
    await peer.runner.run_once()
    await asyncio.sleep(0)
    await peer.reporter.run_once()
    ((assignment, _, stop, _),) = scripted.in_hand
    assert (assignment.run_id, assignment.fence) == (run_id, 2)
    assert not stop.requested


async def test_progress_and_usage_are_reported_under_the_fence(world: World) -> None:
    await world.declare(a_trigger())
    executor = Scripted()
    peer: Peer = await world.peer(executor=executor)
    other = await world.peer()
    await world.queue()
    await peer.runner.run_once()
    await asyncio.sleep(0)
    assignment, reports, stop, _ = executor.in_hand[0]
    reports.progress("half\0way", 0.5)
    reports.usage({"model": "m", "cost_usd": 0.25})
    reports.usage({"model": "m", "cost_usd": 0.25, "region": "x"})
    await peer.reporter.run_once()
    told = await world.row("SELECT * FROM tocsin.attempts")
    assert (told["progress"], told["fraction"]) == ("half\N{REPLACEMENT CHARACTER}way", 0.5)
    assert msgspec.json.decode(told["usage"]) == [{"model": "m", "cost_usd": 0.5, "region": "x"}]
    await other.sweep(peer.who.holder)
    world.clock.turn(SECOND)
    reports.progress("nearly", 0.9)
    await peer.reporter.run_once()
    assert (await world.row("SELECT * FROM tocsin.attempts"))["progress"] == "half\N{REPLACEMENT CHARACTER}way"
    assert stop.requested
    await executor.end_all(Failed("x", "y"))
    await peer.settler.run_once()
    row = await world.run(assignment.run_id)
    assert (row["state"], row["reason"]) == ("queued", "lost")
