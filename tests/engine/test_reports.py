"""What agents report: written soon, added up rightly, and never at another attempt's cost."""

import json
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from tests.engine.building import HandClock, Peer, World, a_trigger, an_end
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.run import RunState
from tocsin.engine.hands import Hands
from tocsin.engine.reports import EVERY, Reporter
from tocsin.engine.run_reports import RunReports
from tocsin.store.attempts import Report

ONE, TWO = UUID(int=1), UUID(int=2)


class Attempts:
    """Takes reports and keeps them. before: what happens while a batch is on its way."""

    def __init__(self) -> None:
        self.rows: list[tuple[UUID, str | None]] = []
        self.before: Callable[[], None] = lambda: None

    async def report(self, reports: Sequence[Report]) -> set[UUID]:
        self.before()
        self.rows += [(report.run_id, report.progress) for report in reports]
        return {report.run_id for report in reports}


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
