"""Forgets what is older than the retention, in bounded batches, and never a trigger's last success.

Answers that are kept for those who ask again go after a day, whatever the retention. The audit has a retention
of its own. So has the feed, after which it is switched off, too, if nobody has wanted it since.

Writes: one delete a batch; a crash between batches leaves the rest for the next round.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from tocsin.clock import Clock
from tocsin.engine.dbtime import DatabaseTime
from tocsin.store.feed import Feed
from tocsin.store.retention import Retention
from tocsin.telemetry import Log

BATCH: Final = 1_000
EVERY: Final = 600.0
BREATH: Final = 0.05
"""Seconds between batches, so that live work is not crowded out."""


class Pruner:
    """keep: how long ended runs and decisions stay; keep_audit: how long who did what."""

    name = "pruner"

    def __init__(
        self,
        *,
        retention: Retention,
        feed: Feed,
        clock: Clock,
        time: DatabaseTime,
        log: Log,
        keep: timedelta,
        keep_audit: timedelta,
        keep_feed: timedelta,
    ) -> None:
        self._retention = retention
        self._feed = feed
        self._clock = clock
        self._time = time
        self._log = log
        self._keep = keep
        self._keep_audit = keep_audit
        self._keep_feed = keep_feed

    def rest(self) -> float | None:
        return EVERY

    async def run_once(self) -> bool:
        now = self._time.now()
        if now is None or now - max(self._keep, self._keep_audit) < datetime(1970, 1, 2, tzinfo=UTC):
            return False
        before = now - self._keep
        runs = await self._retention.prune_runs(before, batch=BATCH)
        if runs:
            self._log.info("runs.pruned", count=runs)
        events = await self._retention.prune_events(before, batch=BATCH)
        if BATCH in (runs, events, await self._prune_feed(now - self._keep_feed)):
            await self._clock.sleep(BREATH)
            return True
        answers = await self._retention.prune_answers(now, batch=BATCH)
        audit = await self._retention.prune_audit(now - self._keep_audit, batch=BATCH)
        if BATCH in (answers, audit):
            await self._clock.sleep(BREATH)
            return True
        await self._retention.prune_rest(before, batch=BATCH)
        return False

    async def _prune_feed(self, before: datetime) -> int:
        if await self._feed.leave(before):
            self._log.info("feed.off")
        return await self._feed.prune(before, batch=BATCH)
