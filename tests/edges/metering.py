"""A replica that counts, and somebody who reads its page."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.engine.building import Heard, a_replica
from tocsin.clock import SystemClock
from tocsin.edges.metrics.page import Metrics
from tocsin.edges.metrics.tally import Tally
from tocsin.edges.watching import Watching
from tocsin.hub import Replica
from tocsin.store.database import Database

Labels = dict[str, str]


class Page:
    """A page, read as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels; 0 where there are none."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, label: str) -> set[str]:
        """Everything that stands under a label, in any metric."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


@dataclass
class Watched:
    """A replica and its page."""

    replica: Replica
    watching: Watching
    metrics: Metrics
    log: Heard

    @property
    def tally(self) -> Tally:
        return self.watching.tally

    async def page(self) -> Page:
        """As of now: nothing that was told a moment ago."""
        self.metrics._pages.clear()
        self.metrics._asks_at = float("-inf")
        text, _ = await self.metrics.page("")
        return Page(text.decode())


def watched_by(watching: Watching, replica: Replica, log: Heard) -> Watched:
    # Never opened: how many sessions it has is none of these tests' business.
    api = Database("postgresql://nowhere")
    metrics = Metrics(
        replica=replica, beside={"api": api, "hooks": api}, tally=watching.tally, clock=SystemClock(), log=log
    )
    return Watched(replica, watching, metrics, log)


@asynccontextmanager
async def a_watched(
    dsn: str, agents: Mapping[str, Callable[..., Any]], *, limit: int = 200, **options: Any
) -> AsyncIterator[Watched]:
    log = Heard()
    watching = Watching(limit=limit, log=log)
    async with a_replica(dsn, agents, observer=watching.observer, log=log, **options) as replica:
        yield watched_by(watching, replica, log)
