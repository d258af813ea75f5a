"""What agents report: written soon, added up rightly, and never at another attempt's cost."""

import asyncio
import json
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from tests.engine.building import HandClock, Peer, Scripted, World, a_trigger, an_end, eventually
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.run import RunState, Succeeded
from tocsin.engine.hands import Hand, Hands
from tocsin.engine.reports import EVERY, LINGER, MOST_TEXT, Reporter
from tocsin.engine.run_reports import DROPPED, MAX_LOG, RunReports, Told
from tocsin.store.attempts import Attempts as Stored
from tocsin.store.attempts import Report

ONE, TWO = UUID(int=1), UUID(int=2)


class Attempts:
    """Takes reports and keeps them. before: what happens while a batch is on its way."""

    def __init__(self) -> None:
        self.rows: list[tuple[UUID, str | None]] = []
        self.before: Callable[[], None] = lambda: None

    async def report(self, reports: Sequence[Report]) -> dict[UUID, int]:
        self.before()
        self.rows += [(report.run_id, report.progress) for report in reports]
        return {report.run_id: report.log_from + len(report.log or "") for report in reports}


@pytest.fixture
def runs() -> Attempts:
    return Attempts()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def reporter(runs: Attempts, clock: HandClock) -> Reporter:
    return Reporter(attempts=runs, hands=Hands(), clock=clock, wake=lambda: None)  # type: ignore[arg-type]


def told(reports: RunReports) -> Any:
    return json.loads(reports.usage_json() or "null")


def test_usage_is_as_it_was_when_it_was_reported(reporter: Reporter) -> None:
    reports = reporter.reports_for(ONE, 1)
    calls: list[object] = ["search"]
    reports.usage({"model": "m", "tools": calls})
    calls.append(object())
    assert told(reports) == [{"model": "m", "tools": ["search"]}]


@pytest.mark.parametrize(
    ("figures", "total"),
    [
        ((2**63, 2**63), 2.0**64),
        ((-(2**62), -(2**62), -(2**62)), -3.0 * 2**62),
        ((1.5e308, 1.5e308), 1.7976931348623157e308),
        ((1, 2.5), 3.5),
        (("a", "b"), "b"),
    ],
)
def test_sums_are_numbers_that_can_be_written(reporter: Reporter, figures: tuple[Any, ...], total: Any) -> None:
    reports = reporter.reports_for(ONE, 1)
    for figure in figures:
        reports.usage({"total": figure})
    assert told(reports) == [{"total": total}]


def test_figures_that_got_past_the_border_cost_no_more_than_themselves(reporter: Reporter) -> None:
    reports = reporter.reports_for(ONE, 1)
    reports.used = {"m": {"odd": object()}}
    reports.log("a line")
    assert (reports.usage_json(), reports.log_text()) == (None, "a line")


async def test_a_row_that_cannot_be_made_costs_only_itself(reporter: Reporter, runs: Attempts) -> None:
    class Broken(RunReports):
        __slots__ = ()

        def usage_json(self) -> str | None:
            raise TypeError

    bad, good = reporter.reports_for(ONE, 1), reporter.reports_for(TWO, 1)
    bad.__class__ = Broken
    bad.progress("lost", None)
    good.progress("halfway", None)
    await reporter.run_once()
    assert runs.rows == [(TWO, "halfway")]


async def test_a_batch_that_was_not_written_is_written_the_next_time_once_an_attempt(
    reporter: Reporter, runs: Attempts
) -> None:
    one, two = reporter.reports_for(ONE, 1), reporter.reports_for(TWO, 1)
    one.progress("first", None)
    two.progress("first", None)

    def fail() -> None:
        two.progress("second", None)
        raise DatabaseUnavailable("gone")

    runs.before = fail
    with pytest.raises(DatabaseUnavailable):
        await reporter.run_once()
    runs.before = lambda: None
    one.progress("third", None)
    await reporter.run_once()
    assert sorted(runs.rows) == [(ONE, "third"), (TWO, "second")]


async def test_what_threads_say_is_written_in_the_end(reporter: Reporter, runs: Attempts, clock: HandClock) -> None:
    attempts = [reporter.reports_for(UUID(int=n), 1) for n in range(4)]

    def speak(reports: RunReports) -> None:
        for n in range(2_000):
            reports.progress(str(n), None)

    threads = [Thread(target=speak, args=(reports,)) for reports in attempts for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        clock.turn(EVERY)
        before = len(runs.rows)
        await reporter.run_once()
        batch = [run_id for run_id, _ in runs.rows[before:]]
        assert len(batch) == len(set(batch))
    for reports in attempts:
        reports.progress("done", None)
    clock.turn(EVERY)
    await reporter.run_once()
    assert dict(runs.rows) == {UUID(int=n): "done" for n in range(4)}


async def test_a_report_that_falls_into_the_taking_of_a_batch_is_not_lost(
    reporter: Reporter, runs: Attempts, clock: HandClock
) -> None:
    """The thread stands between reading the list and appending to it while the list is swapped."""
    reports, other = reporter.reports_for(ONE, 1), reporter.reports_for(TWO, 1)
    other.progress("other", None)

    class Slow(list[Any]):
        """A list whose append is overtaken by a batch that is taken meanwhile."""

        def append(self, change: Any) -> None:
            taker = Thread(target=lambda: drained(reporter))
            taker.start()
            taker.join(0.2)
            super().append(change)

    def drained(of: Reporter) -> None:
        # Up to the first await the step runs at once, as it would on the hub's loop.
        step = of.run_once()
        try:
            step.send(None)
        except StopIteration:
            return

    reporter._changed = Slow(reporter._changed)
    reports.progress("mine", None)
    for _ in range(2):
        clock.turn(EVERY)
        reports.progress("mine, later", None)
        await reporter.run_once()
    assert (ONE, "mine, later") in runs.rows


async def test_a_report_that_comes_late_stops_no_later_attempt(world: World) -> None:
    """Its attempt has ended, and the run has begun again with the same holder."""
    await world.declare(a_trigger())
    peer = await Peer(world.database, world.clock).register()
    run_id = await world.queue()
    first = await peer.claim_one()
    late = peer.reporter.reports_for(run_id, first.fence)
    await peer.settle(an_end(first, RunState.QUEUED, reason="retry_after", counted=False))
    await peer.runner.run_once()
    late.progress("half of it", 0.5)
    await peer.reporter.run_once()
    hand = peer.hands.get(run_id)
    assert hand is not None
    assert (hand.assignment.fence, hand.stop.reason) == (2, None)


# --- the log, which is written as it grows


class Forgetful(Stored):
    """Every statement of reports is seen; the answer of one is lost, as often as ``deaf`` says."""

    deaf = 0

    def __init__(self, **collaborators: Any) -> None:
        super().__init__(**collaborators)
        self.sent: list[list[Report]] = []

    async def report(self, reports: Sequence[Report]) -> dict[UUID, int]:
        self.sent.append(list(reports))
        stored = await super().report(reports)
        if self.deaf:
            self.deaf -= 1
            raise DatabaseUnavailable("the answer was lost")
        return stored


async def begun(world: World, count: int = 1) -> tuple[Peer, list[Hand]]:
    """A peer with so many runs in hand."""
    await world.declare(a_trigger())
    peer = await world.peer(attempts=Forgetful, slots=2 * count)
    for _ in range(count):
        await world.queue(kind="manual")
    while len(peer.hands) < count:
        await peer.runner.run_once()
    await asyncio.sleep(0)
    return peer, peer.hands.all()


def sent(peer: Peer) -> list[list[Report]]:
    assert isinstance(peer.attempts, Forgetful)
    return peer.attempts.sent


async def written(world: World, peer: Peer, after: float = EVERY) -> None:
    world.clock.turn(after)
    while await peer.reporter.run_once():
        pass


async def log_of(world: World, hand: Hand) -> str | None:
    (attempt,) = (await world.control.run(hand.assignment.run_id))["attempts"]
    log: str | None = attempt["log"]
    return log


async def test_lines_are_there_while_the_run_runs_and_each_is_written_once(world: World) -> None:
    peer, (hand,) = await begun(world)
    hand.reports.log("one")
    hand.reports.log("")
    await written(world, peer)
    assert await log_of(world, hand) == "one\n"
    hand.reports.log("\N{MUSICAL SYMBOL G CLEF} ä \0")
    await written(world, peer)
    hand.reports.log("last")
    await written(world, peer)
    assert await log_of(world, hand) == "one\n\n\N{MUSICAL SYMBOL G CLEF} ä \N{REPLACEMENT CHARACTER}\nlast"
    assert [(row.log_from, row.log) for (row,) in sent(peer)] == [
        (0, "one\n"),
        (4, "\n\N{MUSICAL SYMBOL G CLEF} ä \N{REPLACEMENT CHARACTER}"),
        (10, "\nlast"),
    ]


async def test_a_write_whose_answer_was_lost_doubles_nothing(world: World) -> None:
    peer, (hand,) = await begun(world)
    hand.reports.log("one")
    await written(world, peer)
    assert isinstance(peer.attempts, Forgetful)
    peer.attempts.deaf = 1
    hand.reports.log("two \N{MUSICAL SYMBOL G CLEF}")
    with pytest.raises(DatabaseUnavailable):
        await written(world, peer)
    hand.reports.log("three")
    await written(world, peer)
    assert await log_of(world, hand) == "one\ntwo \N{MUSICAL SYMBOL G CLEF}\nthree"
    assert [row.log_from for (row,) in sent(peer)] == [0, 3, 3]


async def test_what_a_standby_had_not_got_yet_is_written_again(world: World) -> None:
    """It took over, and of what was answered the last is missing."""
    peer, (hand,) = await begun(world)
    hand.reports.log("one")
    await written(world, peer)
    await world.admin.execute("UPDATE tocsin.attempts SET log = 'o'")
    hand.reports.log("two")
    await written(world, peer)
    assert await log_of(world, hand) == "o", "nothing is put behind a gap"
    await written(world, peer)
    assert await log_of(world, hand) == "one\ntwo"


async def test_a_report_that_a_settlement_overtakes_takes_nothing_back(world: World) -> None:
    """It has read the run as running, and waits for the row that the settlement writes."""
    peer, (hand,) = await begun(world)
    hand.reports.log("all")
    world.clock.turn(EVERY)
    async with world.admin.transaction():
        await world.admin.execute(
            "INSERT INTO tocsin.attempts (run_id, fence, attempt, log) SELECT id, 1, 1, 'all of it' FROM tocsin.runs"
        )
        report = asyncio.create_task(peer.reporter.run_once())
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        # Within the transaction a snapshot of the activity would stay as it was first read.
        await world.admin.execute("SET LOCAL stats_fetch_consistency = 'none'")
        await eventually(lambda: world.value(waiting))
    await report
    assert await log_of(world, hand) == "all of it"


async def test_a_run_that_ends_at_once_costs_no_statement_of_its_own(world: World) -> None:
    peer, (hand,) = await begun(world)
    assert isinstance(peer.executor, Scripted)
    hand.reports.log("a line")
    hand.reports.usage({"model": "m", "n": 1})
    await written(world, peer, LINGER / 2)
    await peer.executor.end_all(Succeeded(b"1"))
    await written(world, peer)
    assert sent(peer) == []
    await peer.settler.run_once()
    await written(world, peer)
    assert (sent(peer), await log_of(world, hand)) == ([], "a line")


async def test_lines_wait_a_moment_and_progress_does_not(world: World) -> None:
    peer, (one, two) = await begun(world, 2)
    one.reports.log("a line")
    await written(world, peer, 0)
    assert sent(peer) == []
    assert peer.reporter.rest() == pytest.approx(LINGER)
    two.reports.progress("half", None)
    await written(world, peer, 0)
    assert [[row.run_id for row in rows] for rows in sent(peer)] == [[hand.assignment.run_id for hand in (one, two)]]


async def test_what_was_said_of_progress_keeps_its_instant(world: World) -> None:
    peer, (hand,) = await begun(world)
    hand.reports.progress("half", 0.5)
    await written(world, peer, 0)
    said_at = world.clock.now()
    hand.reports.log("a line")
    await written(world, peer)
    (attempt,) = (await world.control.run(hand.assignment.run_id))["attempts"]
    assert (attempt["progress"], attempt["fraction"], attempt["progress_at"]) == ("half", 0.5, said_at)


async def test_a_statement_has_a_bound_and_the_rest_follows_at_once(world: World) -> None:
    text = "ä" * (MAX_LOG - 1)
    count = 2 * MOST_TEXT // MAX_LOG
    peer, hands = await begun(world, count)
    for hand in hands:
        hand.reports.log(text)
    await written(world, peer)
    assert len(sent(peer)) == 2
    assert all(sum(len(row.log or "") for row in rows) <= MOST_TEXT for rows in sent(peer))
    assert [await log_of(world, hand) for hand in hands] == [text] * count
    assert sum(len(rows) for rows in sent(peer)) == count


async def test_a_log_has_its_bound_and_says_so(world: World) -> None:
    peer, (hand,) = await begun(world)
    for n in range(100):
        hand.reports.log(f"{n}" + "x" * 1_000)
        if n in (20, 80):
            await written(world, peer)
    log = await log_of(world, hand) or ""
    assert log == hand.reports.log_text()
    assert log.endswith(f"\n{DROPPED}")
    assert MAX_LOG - 2_000 < len(log) < MAX_LOG + len(DROPPED) + 1


def test_the_log_of_another_process_only_grows_and_has_no_gaps(reporter: Reporter) -> None:
    reports = reporter.reports_for(ONE, 1)
    reports.take_log(0, "one")
    reports.take_log(0, "one\ntwo")
    reports.take_log(3, "\ntwo")
    reports.take_log(100, "behind a gap")
    reports.take_log(0, "another")
    assert reports.log_text() == "one\ntwo"
    assert (reports.news(Told()).log_from, reports.news(Told()).log) == (0, "one\ntwo")


def test_the_log_of_another_process_has_a_bound(reporter: Reporter) -> None:
    mine, cut, whole = (reporter.reports_for(UUID(int=n), 1) for n in range(3))
    for _ in range(100):
        mine.log("ä" * 1_000)
    text = mine.log_text() or ""
    whole.take_log(0, text)
    assert whole.log_text() == text
    cut.take_log(0, "y" * (MAX_LOG - 1))
    cut.take_log(MAX_LOG - 1, "yzzz")
    cut.take_log(MAX_LOG, "more")
    assert cut.log_text() == "y" * MAX_LOG + f"\n{DROPPED}"
