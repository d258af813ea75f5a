"""Forgets what is older than the retention, in bounded batches, and never a trigger's last success.

Answers that are kept for those who ask again go after a day, whatever the retention.

Writes: one delete a batch; a crash between batches leaves the rest for the next round.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from tocsin.clock import Clock
from tocsin.engine.dbtime import DatabaseTime
from tocsin.store.retention import Retention
from tocsin.telemetry import Log

BATCH: Final = 1_000
EVERY: Final = 600.0
BREATH: Final = 0.05
"""Seconds between batches, so that live work is not crowded out."""


class Pruner:
    name = "pruner"

    def __init__(self, *, retention: Retention, clock: Clock, time: DatabaseTime, log: Log, keep: timedelta) -> None:
        self._retention = retention
        self._clock = clock
        self._time = time
        self._log = log
        self._keep = keep

    def rest(self) -> float | None:
        return EVERY

    async def run_once(self) -> bool:
        now = self._time.now()
        if now is None or now - self._keep < datetime(1970, 1, 2, tzinfo=UTC):
            return False
        before = now - self._keep
        runs = await self._retention.prune_runs(before, batch=BATCH)
        if runs:
            self._log.info("runs.pruned", count=runs)
        events = await self._retention.prune_events(before, batch=BATCH)
        if BATCH in (runs, events):
            await self._clock.sleep(BREATH)
            return True
        if await self._retention.prune_answers(now, batch=BATCH) == BATCH:
            await self._clock.sleep(BREATH)
            return True
        await self._retention.prune_rest(before, batch=BATCH)
        return False
