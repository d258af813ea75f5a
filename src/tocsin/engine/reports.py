"""What agents report while they run: progress and usage, buffered and written about once a second.

Reads: nothing. Writes: one statement for all attempts that reported, each under its fence. If the
process dies, at most a second of progress is lost; usage is written again, whole, with the settlement.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from threading import Lock
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.run import StopReason
from tocsin.engine.hands import Hands
from tocsin.engine.run_reports import RunReports
from tocsin.store.attempts import Attempts, Report

EVERY: Final = 0.5
"""Seconds between two writes, at least."""


class Reporter:
    """Writes what changed, at most twice a second."""

    name = "reporter"

    def __init__(self, *, attempts: Attempts, hands: Hands, clock: Clock, wake: Callable[[], None]) -> None:
        self._attempts = attempts
        self._hands = hands
        self._clock = clock
        self._wake = wake
        self._changed: list[RunReports] = []
        # Attempts report from threads too: each stands in the list once, and is dirty while it does.
        self._lock = Lock()
        self._wrote_at = float("-inf")

    def rest(self) -> float | None:
        if not self._changed:
            return None
        return self._wrote_at + EVERY - self._clock.monotonic()

    def reports_for(self, run_id: UUID, fence: int) -> RunReports:
        """A new attempt's reports; what it says is written soon after it says it."""
        return RunReports(run_id, fence, self._note)

    def _note(self, reports: RunReports) -> None:
        with self._lock:
            if reports.dirty:
                return
            reports.dirty = True
            self._changed.append(reports)
        self._wake()

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if not self._changed or now < self._wrote_at + EVERY:
            return False
        batch = self._take()
        try:
            rows = list(_rows(batch))
            kept = await self._attempts.report(rows)
        except BaseException:
            self._put_back(batch)
            raise
        self._wrote_at = now
        self._hands.stop([(row.run_id, row.fence) for row in rows if row.run_id not in kept], StopReason.FENCED)
        return False

    def _take(self) -> list[RunReports]:
        with self._lock:
            batch, self._changed = self._changed, []
            # Before they are read: what is said from here on is written the next time.
            for reports in batch:
                reports.dirty = False
        return batch

    def _put_back(self, batch: list[RunReports]) -> None:
        with self._lock:
            # One row an attempt: what has said more meanwhile stands in the list already.
            unwritten = [reports for reports in batch if not reports.dirty]
            for reports in unwritten:
                reports.dirty = True
            self._changed = unwritten + self._changed


def _rows(batch: Iterable[RunReports]) -> Iterator[Report]:
    """A row for each attempt; one that cannot be told of must not cost the others theirs."""
    for reports in batch:
        with suppress(Exception):
            yield Report(reports.run_id, reports.fence, reports.message, reports.fraction, reports.usage_json())
