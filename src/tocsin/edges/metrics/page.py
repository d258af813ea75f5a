"""``/metrics``: what a replica has counted, how it stands, and how the whole stands, as Prometheus reads it.

A page is made once a second at most, however many ask, and costs one statement. The database is given two seconds to
answer; without it the page says so, and tells all that needs none. Where an answer takes long, the next is asked for
after ten times as long.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from tocsin.clock import Clock
from tocsin.domain.errors import StoreError
from tocsin.edges.metrics.families import State, cluster, families, state_of
from tocsin.edges.metrics.tally import Counts, Tally
from tocsin.hub import Replica
from tocsin.store.database import Database
from tocsin.store.gauges import Gauges, Reading
from tocsin.telemetry import Log

FRESH: Final = 1.0
"""Seconds for which a page is told again as it is."""

ANSWER_WITHIN: Final = 2.0

SHARE: Final = 10
"""Asking takes at most one part in so many of one session's time."""

MOST_AGENTS: Final = 1_000
MOST_COUNTED: Final = 10_000
"""Waiting runs of one agent, lane and priority."""

OPEN_METRICS: Final[str] = openmetrics.CONTENT_TYPE_LATEST

_ENCODERS: Final[dict[str, Callable[[CollectorRegistry], bytes]]] = {
    CONTENT_TYPE_PLAIN_0_0_4: generate_latest,
    OPEN_METRICS: openmetrics.generate_latest,
}


class Metrics:
    """The page of one replica. beside: sessions that are not its own, by what they are for."""

    def __init__(
        self, *, replica: Replica, beside: Mapping[str, Database], tally: Tally, clock: Clock, log: Log
    ) -> None:
        self._replica = replica
        self._databases = {**replica.databases, **beside}
        self._tally = tally
        self._clock = clock
        self._log = log
        self._gauges = Gauges(database=replica.database, clock=clock)
        self._gate = asyncio.Lock()
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._readings: Sequence[Reading] | None = None
        self._asks_at = float("-inf")
        self._is_up = True

    async def page(self, accept: str) -> tuple[bytes, str]:
        """(the page, its media type): OpenMetrics where that is asked for."""
        media = OPEN_METRICS if "application/openmetrics-text" in accept else CONTENT_TYPE_PLAIN_0_0_4
        async with self._gate:
            made_at, page = self._pages.get(media, (float("-inf"), b""))
            if self._clock.monotonic() - made_at < FRESH:
                return page, media
            await self._read()
            counts, state = self._tally.counts.snapshot(), state_of(self._replica, self._databases)
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Told(self._families(counts, state)))
            ProcessCollector(registry=registry)
            # Beside the event loop: there may be thousands of lines.
            page = await asyncio.to_thread(_ENCODERS[media], registry)
            self._pages[media] = self._clock.monotonic(), page
        return page, media

    def _families(self, counts: Counts, state: State) -> list[Metric]:
        return [*families(counts, state), *cluster(self._readings, self._tally.agents)]

    async def _read(self) -> None:
        asked_at = self._clock.monotonic()
        if asked_at < self._asks_at:
            return
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                self._readings = await self._gauges.read(agents=MOST_AGENTS, most=MOST_COUNTED)
        except (StoreError, TimeoutError) as error:
            self._readings = None
            if self._is_up:
                self._log.warning("metrics.partial", error=str(error) or f"no answer within {ANSWER_WITHIN:g} s")
        self._is_up = self._readings is not None
        now = self._clock.monotonic()
        self._asks_at = now + max(FRESH, (now - asked_at) * SHARE) if self._is_up else now + FRESH


class _Told(Collector):
    """What was collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
