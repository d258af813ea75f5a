"""What seeds have found, each as the smallest story that shows it."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.simulation.building import calm
from tocsin.domain.planning import Cursor, Skip, plan
from tocsin.domain.run import Lane, RunState, Settlement, SkipReason
from tocsin.domain.schedule import every
from tocsin.domain.trigger import CatchUp
from tocsin.store.attempts import Ended
from tocsin.testing.builders import a_trigger, mixed_agents
from tocsin.testing.invariants import check

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
AFTER = every(45, after_completion=True)


def test_a_schedule_that_counts_from_the_end_has_one_instant_however_late_it_is_seen() -> None:
    due = Cursor(next_at=NOON)
    on_time = plan(a_trigger(schedule=AFTER), AFTER, due, NOON + timedelta(seconds=50))
    assert [one.nominal_at for one in on_time.occurrences] == [NOON]
    assert on_time.status == "waiting"

    late = plan(a_trigger(schedule=AFTER, grace=timedelta(0)), AFTER, due, NOON + timedelta(seconds=50))
    assert [(one.nominal_at, one.lane) for one in late.occurrences] == [(NOON, Lane.LATE)]
    assert (late.status, late.skips) == ("waiting", [])


@pytest.mark.parametrize("catch_up", list(CatchUp))
def test_a_missed_instant_that_counts_from_the_end_is_counted_once_and_from_now(catch_up: CatchUp) -> None:
    now = NOON + timedelta(hours=2)
    missed = plan(a_trigger(schedule=AFTER, catch_up=catch_up), AFTER, Cursor(next_at=NOON), now)
    assert missed.skips == [Skip(SkipReason.MISSED, NOON, NOON, 1)]
    assert (missed.status, missed.next_at, missed.occurrences) == ("armed", now + timedelta(seconds=45), [])


async def test_an_account_grows_by_a_single_occurrence(dsn: str) -> None:
    async with calm(dsn, a_trigger("hourly", schedule=every("1h"))) as simulation:
        await simulation.author.control.pause("hourly")
        for _ in range(4):
            simulation.time.advance(3_600)
            await simulation.replicas[0].step(simulation.replicas[0].planner)
        history = await simulation.history()
    assert [(row["name"], row["status"]) for row in history.triggers] == [("hourly", "armed")]
    assert [(row["reason"], row["count"]) for row in history.skips] == [("paused", 3)]
    assert check(history) == []


async def test_a_limit_beyond_the_calendar_is_none(dsn: str) -> None:
    patient = a_trigger("patient", expires_after=timedelta(days=10_000_000))
    async with calm(dsn, patient, a_trigger("neighbour")) as simulation:
        simulation.time.advance(61)
        await simulation.replicas[0].step(simulation.replicas[0].planner)
        history = await simulation.history()
    assert len(history.runs) == 2
    assert [run["not_after"] for run in history.runs] == [None, None]


async def test_an_edit_accounts_for_the_occurrence_that_its_jitter_still_holds_back(dsn: str) -> None:
    jittery = every("10m", jitter="9m")
    async with calm(dsn, a_trigger("jittery", schedule=jittery)) as simulation:
        simulation.time.advance(600)
        await simulation.author.reschedule("jittery", every("7m"))
        history = await simulation.history()
    assert [(row["reason"], row["count"]) for row in history.skips] == [("withdrawn", 1)]
    assert check(history) == []


async def test_a_trigger_that_is_deleted_when_it_is_due_accounts_for_that(dsn: str) -> None:
    async with calm(dsn, a_trigger("brief")) as simulation:
        simulation.time.advance(125)
        await simulation.author.delete("brief")
        history = await simulation.history()
    assert [(row["reason"], row["count"]) for row in history.skips] == [("withdrawn", 2)]
    assert check(history) == []


async def test_two_ends_of_one_run_in_one_buffer_are_told_apart(dsn: str) -> None:
    async with calm(dsn, a_trigger("torn"), replicas=2) as simulation:
        one, other = simulation.replicas
        simulation.time.advance(61)
        await one.keep()
        await one.step(one.planner)
        await one.step(one.runner)
        [run] = (await simulation.history()).runs
        await other.runs.sweep(dead_holders=[one.who.holder], by_lease=False, batch=10)
        await one.keep()  # a peer has ended its lease: it goes on as somebody new
        for _ in mixed_agents():  # the late lane has one slot here, which goes round
            await one.step(one.runner)
        for fence in (1, 2):
            settlement = Settlement(RunState.SUCCEEDED, output=b"%d" % fence)
            one.settler.put(None, Ended(run_id=run["id"], fence=fence, settlement=settlement))
        while len(one.settler):
            await one.step(one.settler)
        whole = await one.runs.whole(run["id"])
        history = await simulation.history()
    assert [(row["state"], row["fence"], row["output"]) for row in history.runs] == [("succeeded", 2, "2")]
    assert whole is not None
    assert [row["fence"] for row in whole[1]["late_results"]] == [1]
    assert [(answer.fence, answer.accepted) for answer in history.ledger.answered] == [(1, False), (2, True)]
    assert check(history) == []
