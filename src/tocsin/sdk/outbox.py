"""What waits to be said to the hub: of each run its begin, its latest report and its end, and a number of credits.

Filled on the agents' loop (reports: by any thread), emptied by the link's. There is no queue that could
grow: all of it is bounded by what is in hand, and whatever waits longer is told together. Everything is
said on one stream; what was meant for a former one is void, but for reports, which go on the next. Ends
are not kept here: `Work` has them until they are answered, and puts them here anew for each stream.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import Final

from tocsin.engine.run_reports import RunReports, Told
from tocsin.sdk import wire
from tocsin.sdk.hands import Hand
from tocsin.v1 import agent_pb2 as pb

REPORT_EVERY: Final = 0.2
"""Seconds between two batches of reports, at least; an end takes its run's along."""

BATCH_BYTES: Final = 1024 * 1024
"""Results are told together up to so many bytes; a single one may be larger."""


class Outbox:
    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._lock = Lock()
        self._stream = 0
        self._credit = 0
        self._begun: list[Hand] = []
        self._ended: list[Hand] = []
        self._reports: dict[RunReports, None] = {}
        self._draining = False
        self._reported_at = float("-inf")

    def open(self, stream: int) -> None:
        """What is put from now on is for this stream."""
        with self._lock:
            self._stream = stream
            self._credit = 0
            self._begun, self._ended, self._draining = [], [], False

    def put(self, stream: int, *, begun: Sequence[Hand] = (), ended: Iterable[Hand] = (), credit: int = 0) -> None:
        """These are said soon, unless the stream has ended meanwhile."""
        with self._lock:
            if stream != self._stream:
                return
            self._begun += begun
            self._ended += ended
            self._credit += credit
        self.wake()

    def drain(self, stream: int) -> None:
        """No more work is wanted: credits that were not said yet are not said any more."""
        with self._lock:
            if stream != self._stream:
                return
            self._draining, self._credit = True, 0
        self.wake()

    def note(self, reports: RunReports) -> None:
        """A run has something to tell; from any thread."""
        with self._lock:
            if reports.dirty:
                return
            reports.dirty = True
            self._reports[reports] = None
        self.wake()

    def rest(self, now: float) -> float | None:
        """Seconds until reports that wait may be told; None when none do."""
        return max(0.0, self._reported_at + REPORT_EVERY - now) if self._reports else None

    def take(self, now: float) -> Iterator[pb.FromAgent]:
        """All that waits, in the order in which it is to be said."""
        with self._lock:
            begun, self._begun = self._begun, []
            ended, self._ended = self._ended, []
            credit, self._credit = self._credit, 0
            draining, self._draining = self._draining, False
            reports = self._take_reports(now, ended)
            stream = self._stream
        if draining:
            yield pb.FromAgent(draining=pb.Draining())
        if begun:
            yield pb.FromAgent(begun=pb.Begun(runs=[hand.held for hand in begun]))
        for told in reports:
            yield pb.FromAgent(report=_report(told, stream))
        yield from _finished(ended)
        if credit:
            yield pb.FromAgent(credit=pb.Credit(runs=credit))

    def _take_reports(self, now: float, ended: Sequence[Hand]) -> list[RunReports]:
        """Those that are due, and those of runs whose end is about to be told."""
        if not self._reports:
            return []
        over = {hand.reports.kept for hand in ended}
        is_due = now >= self._reported_at + REPORT_EVERY
        if is_due:
            self._reported_at = now
        taken = [reports for reports in self._reports if is_due or reports in over]
        for reports in taken:
            # Before it is read: what is said from here on is told the next time.
            reports.dirty = False
            self._reports.pop(reports, None)
        # A result says all but the progress.
        return [reports for reports in taken if reports not in over or reports.has_moved]


def _report(reports: RunReports, stream: int) -> pb.Report:
    """What a run has to tell on this stream."""
    news = reports.news(reports.told if reports.told.stream == stream else Told(stream=stream))
    reports.told = news.told
    return wire.report_of(str(reports.run_id), reports.fence, news)


def _finished(ended: Iterable[Hand]) -> Iterator[pb.FromAgent]:
    results: list[pb.Result] = []
    size = 0
    for hand in ended:
        result = hand.result
        if result is None:
            continue
        more = result.ByteSize()
        if results and size + more > BATCH_BYTES:
            yield pb.FromAgent(finished=pb.Finished(results=results))
            results, size = [], 0
        results.append(result)
        size += more
    if results:
        yield pb.FromAgent(finished=pb.Finished(results=results))
