"""What agents report while they run: progress and usage, buffered and written about once a second.

Reads: nothing. Writes: one statement for all attempts that reported, each under its fence. If the
process dies, at most a second of progress is lost; usage is written again, whole, with the settlement.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from math import copysign, isfinite
from sys import float_info
from threading import Lock
from typing import Any, Final
from uuid import UUID

import msgspec

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput
from tocsin.domain.payload import encode
from tocsin.domain.run import StopReason
from tocsin.engine.hands import Hands
from tocsin.store.runs import FollowUp, Report, Runs

EVERY: Final = 0.5
MAX_LOG: Final = 64 * 1024
MAX_MESSAGE: Final = 1_000
MAX_MODELS: Final = 32
MAX_FOLLOW_UPS: Final = 100


class RunReports:
    """One attempt's reports. Any thread may call; each call returns at once."""

    __slots__ = ("_changed", "_lock", "_log_size", "dirty", "follow_ups", "fraction", "lines", "message", "used")

    def __init__(self, changed: Callable[[], None]) -> None:
        self.message: str | None = None
        self.fraction: float | None = None
        self.used: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.follow_ups: list[FollowUp] = []
        self.dirty = False
        self._log_size = 0
        self._lock = Lock()
        self._changed = changed

    def progress(self, message: str, fraction: float | None) -> None:
        self.message = _storable(str(message))[:MAX_MESSAGE]
        if fraction is not None and isfinite(fraction):
            self.fraction = min(1.0, max(0.0, float(fraction)))
        self._touch()

    def usage(self, figures: dict[str, Any]) -> None:
        """Numbers are added up per model; everything else replaces what was there."""
        figures = {key: value for key, value in figures.items() if value is not None}
        model = _storable(str(figures.pop("model", "")))[:200]
        # A copy: what the agent does to its lists later is its own affair.
        figures = msgspec.json.decode(encode(figures, what="usage"))
        with self._lock:
            if model not in self.used and len(self.used) >= MAX_MODELS:
                raise BadInput(f"usage for more than {MAX_MODELS} models in one attempt: add them up first")
            sums = self.used.setdefault(model, {})
            for key, value in figures.items():
                adds = isinstance(value, int | float) and isinstance(sums.get(key, 0), int | float)
                sums[key] = _sum(sums.get(key, 0), value) if adds else value
        self._touch()

    def log(self, line: str) -> None:
        with self._lock:
            if self._log_size > MAX_LOG:
                return
            text = _storable(str(line))
            self._log_size += len(text) + 1
            self.lines.append(text if self._log_size <= MAX_LOG else "… further lines were dropped")

    def follow_up(self, at: datetime | None, after: timedelta | None, payload: Any) -> None:
        encoded = encode(payload, what="input of a scheduled run").decode()
        with self._lock:
            if len(self.follow_ups) >= MAX_FOLLOW_UPS:
                raise BadInput(f"more than {MAX_FOLLOW_UPS} follow-ups from one run: schedule a trigger instead")
            self.follow_ups.append(FollowUp(at, after, encoded))

    def usage_json(self) -> str | None:
        """The sums as a JSON list of objects, one a model; None when nothing was reported. Never raises."""
        with self._lock:
            rows = [({"model": model} if model else {}) | sums for model, sums in self.used.items()]
        if not rows:
            return None
        try:
            return msgspec.json.encode(rows).decode()
        except Exception:
            # Whatever got past usage(): an attempt's end counts for more than its figures.
            return None

    def log_text(self) -> str | None:
        """The lines as one text; None without any. Never raises."""
        with self._lock:
            return "\n".join(self.lines) if self.lines else None

    def _touch(self) -> None:
        if not self.dirty:
            self._changed()


class Reporter:
    """Writes what changed, at most twice a second."""

    name = "reporter"

    def __init__(self, *, runs: Runs, hands: Hands, clock: Clock, wake: Callable[[], None]) -> None:
        self._runs = runs
        self._hands = hands
        self._clock = clock
        self._wake = wake
        self._changed: list[tuple[UUID, int, RunReports]] = []
        # Attempts report from threads too: each stands in the list once, and is dirty while it does.
        self._lock = Lock()
        self._wrote_at = float("-inf")

    def rest(self) -> float | None:
        if not self._changed:
            return None
        return self._wrote_at + EVERY - self._clock.monotonic()

    def reports_for(self, run_id: UUID, fence: int) -> RunReports:
        """A new attempt's reports; what it says is written soon after it says it."""

        def changed() -> None:
            with self._lock:
                if reports.dirty:
                    return
                reports.dirty = True
                self._changed.append((run_id, fence, reports))
            self._wake()

        reports = RunReports(changed)
        return reports

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if not self._changed or now < self._wrote_at + EVERY:
            return False
        batch = self._take()
        try:
            rows = list(_rows(batch))
            kept = await self._runs.report(rows)
        except BaseException:
            self._put_back(batch)
            raise
        self._wrote_at = now
        self._hands.stop([row.run_id for row in rows if row.run_id not in kept], StopReason.FENCED)
        return False

    def _take(self) -> list[tuple[UUID, int, RunReports]]:
        with self._lock:
            batch, self._changed = self._changed, []
            # Before they are read: what is said from here on is written the next time.
            for _, _, reports in batch:
                reports.dirty = False
        return batch

    def _put_back(self, batch: list[tuple[UUID, int, RunReports]]) -> None:
        with self._lock:
            # One row an attempt: what has said more meanwhile stands in the list already.
            unwritten = [change for change in batch if not change[2].dirty]
            for _, _, reports in unwritten:
                reports.dirty = True
            self._changed = unwritten + self._changed


def _rows(batch: Iterable[tuple[UUID, int, RunReports]]) -> Iterator[Report]:
    """A row for each attempt; one that cannot be told of must not cost the others theirs."""
    for run_id, fence, reports in batch:
        with suppress(Exception):
            yield Report(run_id, fence, reports.message, reports.fraction, reports.usage_json())


def _sum(so_far: float, more: float) -> float:
    """Both together, as a number that JSON's readers take: past 64 bits a float, past those the largest."""
    total = so_far + more
    if isinstance(total, int) and -(2**63) <= total < 2**64:
        return total
    return float(total) if isfinite(total) else copysign(float_info.max, total)


def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot keep: NUL and lone surrogates."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode("utf-8")
