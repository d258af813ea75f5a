"""What agents report while they run: progress, usage and log lines, buffered and written about once a second.

Reads: nothing. Writes: one statement for all attempts that reported, each under its fence. Of a log it writes what
is new, and where in the log that begins: a write whose answer was lost is repeated and doubles nothing. If the
process dies, at most a second of all that is lost; usage and log are written again, whole, with the settlement.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.run import StopReason
from tocsin.engine.hands import Hands
from tocsin.engine.run_reports import News, RunReports, Told
from tocsin.store.attempts import Attempts, Report

EVERY: Final = 0.5
"""Seconds between two writes, at least."""

LINGER: Final = 0.1
"""Seconds that lines and figures wait after idleness: a run that ends sooner brings them with its settlement. Progress,
which a settlement does not bring, waits for nothing.
"""

MOST_TEXT: Final = 1024 * 1024
"""Characters of logs in one statement; what is more goes with the next, which comes at once."""


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
        self._due_at = float("inf")
        self._wrote_at = float("-inf")

    def rest(self) -> float | None:
        return self._from_now(self._clock.monotonic()) if self._changed else None

    def _from_now(self, now: float) -> float:
        """Seconds until the next write is due."""
        return max(self._due_at, self._wrote_at + EVERY) - now

    def reports_for(self, run_id: UUID, fence: int) -> RunReports:
        """A new attempt's reports; what it says is written soon after it says it."""
        return RunReports(run_id, fence, self._note)

    def _note(self, reports: RunReports) -> None:
        with self._lock:
            if reports.dirty:
                return
            reports.dirty = True
            self._changed.append(reports)
            due_at = self._clock.monotonic() + (0 if reports.has_moved else LINGER)
            is_sooner = due_at < self._due_at
            if is_sooner:
                self._due_at = due_at
        if is_sooner:
            self._wake()

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if not self._changed or self._from_now(now) > 0:
            return False
        batch = self._take()
        try:
            news, left = _news([reports for reports in batch if self._is_wanted(reports)])
            rows = [_row(reports, new) for reports, new in news]
            stored = await self._attempts.report(rows) if rows else {}
        except BaseException:
            self._put_back(batch)
            raise
        self._hands.stop([(row.run_id, row.fence) for row in rows if row.run_id not in stored], StopReason.FENCED)
        for reports, new in news:
            self._told(reports, new, stored)
        self._put_back(left)
        if rows and not left:
            self._wrote_at = now
        return bool(left)

    def _is_wanted(self, reports: RunReports) -> bool:
        """Of an attempt that has ended the settlement says all but its progress."""
        hand = self._hands.get(reports.run_id)
        return reports.has_moved or (hand is not None and hand.reports is reports and not hand.ended)

    def _told(self, reports: RunReports, new: News, stored: Mapping[UUID, int]) -> None:
        reports.told = new.told
        if stored.get(reports.run_id, new.told.characters) < new.told.characters:
            # A standby has taken over that did not have the last writes yet: it is told all of the log.
            reports.told = Told(new.told.moves)
            self._note(reports)

    def _take(self) -> list[RunReports]:
        with self._lock:
            batch, self._changed = self._changed, []
            self._due_at = float("inf")
            # Before they are read: what is said from here on is written the next time.
            for reports in batch:
                reports.dirty = False
        return batch

    def _put_back(self, batch: Sequence[RunReports]) -> None:
        if not batch:
            return
        with self._lock:
            # One row an attempt: what has said more meanwhile stands in the list already.
            unwritten = [reports for reports in batch if not reports.dirty]
            for reports in unwritten:
                reports.dirty = True
            self._changed = unwritten + self._changed
            self._due_at = float("-inf")


def _news(batch: Sequence[RunReports]) -> tuple[list[tuple[RunReports, News]], Sequence[RunReports]]:
    """(what is to be written of each, what is left for the next time); one that cannot be told of must not cost the
    others theirs.
    """
    news: list[tuple[RunReports, News]] = []
    size = 0
    for place, reports in enumerate(batch):
        with suppress(Exception):
            new = reports.news(reports.told)
            size += len(new.log or "")
            if news and size > MOST_TEXT:
                return news, batch[place:]
            news.append((reports, new))
    return news, ()


def _row(reports: RunReports, new: News) -> Report:
    return Report(reports.run_id, reports.fence, new.progress, new.fraction, new.usage, new.log_from, new.log)
