"""One look at everything, every few seconds: polling is the truth, hints only make it sooner.

Reads: when the next trigger is due, whether work waits for our agents, whether peers run anything.
Writes: nothing. The look goes over the listening session, so that it also proves that session alive;
if it fails, the session is opened anew, and every loop that may have missed a hint is woken.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from tocsin.clock import Clock
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.sweeper import PROBE_EVERY, SUSPECT_FOR
from tocsin.store.leases import Leases, Look
from tocsin.store.signals import Signals


class Served:
    """Agents whose waiting work is looked for: the replica's own, and those of whoever is connected.

    names: sorted, and always the same list.
    """

    def __init__(self, own: Iterable[str]) -> None:
        self._counts = Counter(own)
        self.names = sorted(self._counts)

    @contextmanager
    def joined_by(self, agents: Sequence[str]) -> Iterator[None]:
        """For as long as the block runs."""
        self._counts.update(agents)
        self.names[:] = sorted(self._counts)
        try:
            yield
        finally:
            self._counts.subtract(agents)
            self._counts += Counter()  # drops what is down to zero
            self.names[:] = sorted(self._counts)


class Lookout:
    name = "lookout"

    def __init__(
        self,
        *,
        leases: Leases,
        signals: Signals,
        clock: Clock,
        time: DatabaseTime,
        agents: Sequence[str],
        poll_every: timedelta,
        seen: Callable[[Look], None],
        blinded: Callable[[], None],
    ) -> None:
        self._leases = leases
        self._signals = signals
        self._clock = clock
        self._time = time
        self._agents = agents
        self._every = poll_every.total_seconds()
        self._seen = seen
        self._blinded = blinded
        self._is_quiet = False

    def rest(self) -> float | None:
        """Less often while nothing is to be done anywhere and hints of the contrary would arrive; yet before a
        sweeper stops watching whom a hint has told it of.
        """
        quiet = min(self._every * 2, SUSPECT_FOR - 2 * PROBE_EVERY)
        return max(self._every, quiet) if self._is_quiet and self._signals.listening else self._every

    async def run_once(self) -> bool:
        try:
            session = await self._signals.session()
            asked_at = self._clock.monotonic()
            look = await self._leases.look(self._agents, session=session)
        except BaseException:
            self._blinded()
            await self._signals.close()
            raise
        self._time.learn(look.now, asked_at=asked_at)
        ready = look.ready_at is not None or look.next_ready_at is not None
        self._is_quiet = not (ready or look.others_run or look.waiting or look.cancelling)
        self._seen(look)
        return False
