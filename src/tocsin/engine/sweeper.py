"""Takes runs from holders that are gone, and closes those that would not stop.

Reads: running runs and their holders' leases; which incarnations' session locks are free. Writes:
runs queued again or closed by their policy, the dead lease, in one statement; N replicas sweeping at
once take each run once, because the state and fence are compared. A crash between statements leaves
the rest for the next sweep.

A holder is dead when its lease has run out, or sooner, when its session's lock has been found free
twice in a row, a probe apart, in the life of the server in which it was taken: one that was
restarted, or a standby that was promoted, forgets every lock and proves nothing. Never by age.

Amnesty: a sweeper that was itself blind (just started, database gone, own loop late) cannot tell a
dead holder from one that could not renew either. It waits one whole lease before it judges again.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.leases import Leases
from tocsin.store.runs import Runs, Swept
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log

BATCH: Final = 500
PROBE_EVERY: Final = 0.8
PROBE_APART: Final = 0.75
"""Seconds between two probes that find a lock free, for the two to be proof; timers are not exact."""

SUSPECT_FOR: Final = 10.0
"""Seconds for which locks are probed after a hint that a peer may have begun something."""


class Sweeper:
    name = "sweeper"

    def __init__(
        self,
        *,
        runs: Runs,
        leases: Leases,
        triggers: Triggers,
        clock: Clock,
        log: Log,
        lease: timedelta,
        sweep_every: timedelta,
        freed: Callable[[], None] = lambda: None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._runs = runs
        self._leases = leases
        self._triggers = triggers
        self._freed = freed
        self._observer = observer
        self._clock = clock
        self._log = log
        self._lease = lease.total_seconds()
        self._every = sweep_every.total_seconds()
        self._judges_from = clock.monotonic() + self._lease
        self._saw_at = clock.monotonic()
        self._resting: float | None = None
        self._swept_at = float("-inf")
        self._watch_until = float("-inf")
        self._probes_from = float("-inf")
        self._free_since: dict[UUID, tuple[datetime, float]] = {}
        self._others_run = False
        self._cancelling = False
        self._waiting = False
        self._spares = False

    def rest(self) -> float | None:
        """Nothing while nobody else runs anything: a look will say when that changes."""
        if self._others_run or self._clock.monotonic() < self._watch_until:
            return PROBE_EVERY
        return self._every if self._cancelling or self._waiting else None

    def expect(self, *, others_run: bool, cancelling: bool, waiting: bool) -> None:
        """What the last look saw."""
        self._others_run, self._cancelling, self._waiting = others_run, cancelling, waiting

    def expect_rearm(self) -> None:
        """A run has ended that its trigger counts from: the next step gives it its next instant."""
        self._waiting = True
        self._swept_at = float("-inf")

    def suspect(self) -> bool:
        """A peer may just have begun something: watch its lock for a while. True when that is news.

        Who has just begun something lives: the first probe comes a probe's distance later, after the burst.
        """
        now = self._clock.monotonic()
        is_news = not self._others_run and now >= self._watch_until
        if is_news:
            self._probes_from = now + PROBE_EVERY
        self._watch_until = now + SUSPECT_FOR
        return is_news

    def blinded(self) -> None:
        """We could not see; verdicts by lease wait one whole lease from now."""
        self._judges_from = self._clock.monotonic() + self._lease
        self._free_since = {}

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if self._resting is not None and now - self._saw_at > self._resting + self._lease / 2:
            self.blinded()
        try:
            return await self._step(now)
        except BaseException:
            self.blinded()
            raise
        finally:
            self._saw_at = now
            self._resting = self.rest()

    async def _step(self, now: float) -> bool:
        if now < self._probes_from and not (self._cancelling or self._waiting):
            return False
        dead = await self._proved_dead() if self.rest() == PROBE_EVERY else []
        due = now - self._swept_at >= self._every
        if not dead and not due:
            return False
        swept: list[Swept] = []
        rearmed = 0
        by_lease = now >= self._judges_from
        if due and by_lease:
            await self._bury()
        if dead or due:
            swept = await self._runs.sweep(dead_holders=dead, by_lease=by_lease, batch=BATCH)
        if due:
            if self._cancelling:
                swept += await self._runs.fence_uncancelled(batch=BATCH)
            if self._waiting:
                rearmed = await self._triggers.rearm(batch=BATCH)
            # A full batch leaves more of the same: the next step goes on with it.
            self._swept_at = now if len(swept) < BATCH else float("-inf")
        self._tell(swept)
        if rearmed or swept:
            self._freed()
        return len(swept) >= BATCH

    async def _proved_dead(self) -> list[UUID]:
        """Holders whose lock was free at this probe and at one that lies a probe's distance back, taken at the
        same instant. A sweeper that is woken probes sooner than that, which by itself proves nothing: a
        keeper whose session was ended needs a moment to take its lock again.
        """
        probed_at = self._clock.monotonic()
        free = await self._leases.free_locks()
        before, self._free_since = self._free_since, {}
        for holder, locked_at in free.items():
            known = before.get(holder)
            self._free_since[holder] = known if known and known[0] == locked_at else (locked_at, probed_at)
        return [holder for holder, (_, since) in self._free_since.items() if probed_at - since >= PROBE_APART]

    async def _bury(self) -> None:
        """Agent processes that were silent for too long are lost, from here on for everybody."""
        lost, spared = await self._leases.bury_instances()
        for holder, name in lost.items():
            self._observer.judged("lost")
            self._log.warning("instance.lost", instance=name, holder=str(holder))
        if spared is not None and not self._spares:
            silent, known = spared
            self._log.error("instances.silent", silent=silent, known=known)
        self._spares = spared is not None

    def _tell(self, swept: list[Swept]) -> None:
        if swept:
            self._observer.swept(swept)
        for run in swept:
            self._log.warning(
                "run.swept",
                run_id=str(run.run_id),
                trigger=run.trigger,
                fence=run.fence,
                state=run.state,
                reason=run.reason,
                holder=str(run.holder),
            )
