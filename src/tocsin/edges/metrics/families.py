"""Every metric that a hub tells, in the form of Prometheus: what it is called, what it says, and its figures.

``tocsin_cluster_…`` is of the database, and every replica tells the same; all else is of one replica.

Source: https://prometheus.io/docs/practices/naming/
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.domain.instance import InstanceState
from tocsin.edges.metrics.tally import Bounded, Counts, Spread
from tocsin.hub import Replica
from tocsin.store.database import Database
from tocsin.store.gauges import Reading
from tocsin.version import __version__

Labels = Sequence[str]

REPLICAS: Final = ("alive", "draining", "silent", "lost")
INSTANCES: Final = tuple(state.value for state in InstanceState if state is not InstanceState.LEFT)


@dataclass(frozen=True, slots=True)
class Pool:
    """Sessions of one kind."""

    name: str
    open: int
    in_use: int
    waiting: int
    limit: int
    statements: int


@dataclass(frozen=True, slots=True)
class Step:
    """A loop and how it has fared."""

    name: str
    steps: int
    failed: int
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How a replica stands at one moment."""

    ready: bool
    executing: int
    slots: int
    connected: int
    pools: Sequence[Pool]
    loops: Sequence[Step]


def state_of(replica: Replica, databases: Mapping[str, Database]) -> State:
    """To be asked on the replica's event loop."""
    return State(
        ready=replica.ready,
        executing=sum(runner.active for runner in replica.work),
        slots=sum(runner.slots for runner in replica.work),
        connected=len(replica.work) - len(replica.runners),
        pools=[
            Pool(name, pool.opened, pool.in_use, pool.waiting, pool.size, pool.calls)
            for name, pool in databases.items()
        ],
        loops=[Step(loop.service.name, loop.steps, loop.failed, loop.healthy) for loop in replica.loops],
    )


def families(counts: Counts, state: State) -> Iterator[Metric]:
    """What a replica knows of itself, whatever becomes of the database."""
    yield _gauge("tocsin_build_info", "What runs here; always 1.", ("version", "python"), [_built()])
    yield _gauge("tocsin_ready", "Whether the replica takes work.", (), [((), state.ready)])
    yield from _of_runs(counts)
    yield from _of_the_fleet(counts, state)
    yield from _of_the_process(counts, state)


def _of_runs(counts: Counts) -> Iterator[Metric]:
    yield _histogram(
        "tocsin_run_lateness_seconds",
        "From the instant at which a run was due to its first begin; backfills are left out.",
        ("kind", "lane"),
        counts.lateness.items(),
    )
    yield _summary(
        "tocsin_trigger_lateness_seconds", "The same by trigger.", ("trigger",), counts.trigger_lateness.items()
    )
    yield _histogram(
        "tocsin_queue_wait_seconds",
        "From when an attempt could have begun to when it did.",
        ("agent",),
        _keyed(counts.waits),
    )
    yield _histogram(
        "tocsin_attempt_duration_seconds",
        "From an attempt's begin to its end, written.",
        ("agent",),
        _keyed(counts.durations),
    )
    yield _counter(
        "tocsin_runs_ended",
        "Runs that have ended, as they were written here; skips are counted apart.",
        ("trigger", "agent", "state", "reason"),
        counts.ended.items(),
    )
    yield _counter("tocsin_runs_requeued", "Runs that were queued again.", ("agent", "reason"), counts.requeued.items())
    yield _counter(
        "tocsin_fires", "Calls by schedules and events that became runs.", ("trigger",), _single(counts.fired)
    )
    yield _counter(
        "tocsin_skips",
        "Calls that became no run, or whose run was skipped.",
        ("trigger", "reason"),
        counts.skipped.items(),
    )
    yield _counter("tocsin_triggers_broken", "Triggers that were quarantined here.", (), [((), counts.broken)])
    yield _gauge(
        "tocsin_trigger_last_success_timestamp_seconds",
        "When a run of the trigger last succeeded here, by this host's clock.",
        ("trigger",),
        [((trigger,), at) for trigger, at in counts.successes.items()],
    )


def _of_the_fleet(counts: Counts, state: State) -> Iterator[Metric]:
    yield _counter("tocsin_runs_swept", "Runs taken from holders that were gone.", ("reason",), _single(counts.swept))
    yield _counter("tocsin_fenced_results", "Ends that came too late and were not applied.", (), [((), counts.fenced)])
    yield _counter(
        "tocsin_lease_losses",
        "The replica's own lease: expired by its own reckoning, or ended by a peer.",
        ("how",),
        _all_of(("expired", "ended"), counts.leases),
    )
    yield _counter(
        "tocsin_instance_verdicts",
        "What was found of agent processes elsewhere.",
        ("verdict",),
        _all_of(("suspect", "stalled", "lost", "fenced"), counts.verdicts),
    )
    yield _counter(
        "tocsin_hook_calls",
        "Webhooks' calls by how they were answered.",
        ("answer",),
        _all_of(("accepted", "duplicate", "unverified", "throttled", "busy"), counts.hook_calls),
    )
    yield _gauge("tocsin_runs_executing", "Attempts in hand here.", (), [((), state.executing)])
    yield _gauge("tocsin_slots", "Attempts that may be in hand here at once.", (), [((), state.slots)])
    yield _gauge("tocsin_instances_connected", "Agent processes with a stream to here.", (), [((), state.connected)])


def _of_the_process(counts: Counts, state: State) -> Iterator[Metric]:
    yield _histogram(
        "tocsin_event_loop_lag_seconds", "What timers were late by, twice a second.", (), [((), counts.lag)]
    )
    yield _counter(
        "tocsin_loop_steps",
        "Steps that a loop has taken.",
        ("loop",),
        [((one.name,), one.steps) for one in state.loops],
    )
    yield _counter(
        "tocsin_loop_failures", "Steps that failed.", ("loop",), [((one.name,), one.failed) for one in state.loops]
    )
    yield _gauge(
        "tocsin_loop_healthy",
        "0 after three failures in a row.",
        ("loop",),
        [((one.name,), one.healthy) for one in state.loops],
    )
    pools = state.pools
    yield _gauge(
        "tocsin_database_sessions",
        "Sessions with the database that are open.",
        ("pool", "state"),
        [((one.name, "in_use"), one.in_use) for one in pools]
        + [((one.name, "idle"), one.open - one.in_use) for one in pools],
    )
    yield _gauge(
        "tocsin_database_sessions_limit",
        "Sessions that may be open at once.",
        ("pool",),
        [((one.name,), one.limit) for one in pools],
    )
    yield _gauge(
        "tocsin_database_waiting", "Who waits for a session.", ("pool",), [((one.name,), one.waiting) for one in pools]
    )
    yield _counter(
        "tocsin_database_statements", "Statements sent.", ("pool",), [((one.name,), one.statements) for one in pools]
    )


def cluster(readings: Sequence[Reading] | None, agents: Bounded) -> Iterator[Metric]:
    """What the database says, and whether it does. Agents beyond the bound are added up."""
    yield _gauge(
        "tocsin_database_up",
        "Whether the database has answered what is asked for here.",
        (),
        [((), readings is not None)],
    )
    if readings is None:
        return
    depth: dict[Labels, float] = {}
    oldest: dict[Labels, float] = {}
    running: dict[Labels, float] = {}
    single: dict[str, dict[str, float]] = {"replicas": {}, "instances": {}}
    whole = {"overdue": 0.0, "unmatched": 0.0}
    for one in readings:
        match one.what:
            case "queued":
                place = (agents.of(one.name or ""), one.detail or "")
                depth[place] = depth.get(place, 0) + one.value
                oldest[place] = max(oldest.get(place, 0), one.seconds)
            case "running":
                agent = (agents.of(one.name or ""),)
                running[agent] = running.get(agent, 0) + one.value
            case "replicas" | "instances":
                single[one.what][one.name or ""] = one.value
            case _:
                whole[one.what] = one.value + one.seconds
    yield _gauge("tocsin_cluster_queued_runs", "Runs that could begin and wait.", ("agent", "lane"), depth.items())
    yield _gauge(
        "tocsin_cluster_queue_oldest_seconds",
        "For how long the first of them has waited.",
        ("agent", "lane"),
        oldest.items(),
    )
    yield _gauge("tocsin_cluster_running_runs", "Runs in anybody's hand.", ("agent",), running.items())
    yield _gauge(
        "tocsin_cluster_replicas",
        "Hubs, by their leases; lost: within the last hour.",
        ("state",),
        _all_of(REPLICAS, single["replicas"]),
    )
    yield _gauge(
        "tocsin_cluster_instances",
        "Agent processes, as they stand; lost: within the last hour.",
        ("state",),
        _all_of(INSTANCES, single["instances"]),
    )
    yield _gauge(
        "tocsin_cluster_schedule_overdue_seconds",
        "For how long the first trigger that is due has waited to be planned.",
        (),
        [((), whole["overdue"])],
    )
    yield _gauge(
        "tocsin_cluster_unmatched_events", "Events that were not looked at yet.", (), [((), whole["unmatched"])]
    )


Figures = Iterable[tuple[Labels, float]]


def _gauge(name: str, about: str, labels: Labels, figures: Figures) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, figure in figures:
        family.add_metric(values, float(figure))
    return family


def _counter(name: str, about: str, labels: Labels, figures: Figures) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for values, figure in figures:
        family.add_metric(values, figure)
    return family


def _summary(name: str, about: str, labels: Labels, figures: Iterable[tuple[str, tuple[int, float]]]) -> Metric:
    family = SummaryMetricFamily(name, about, labels=labels)
    for value, (count, total) in figures:
        family.add_metric((value,), count, total)
    return family


def _histogram(name: str, about: str, labels: Labels, spreads: Iterable[tuple[Labels, Spread]]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for values, spread in spreads:
        bounds = [*(str(float(bound)) for bound in spread.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(spread.counts), strict=True)), spread.sum)
    return family


def _keyed(spreads: Mapping[str, Spread]) -> list[tuple[Labels, Spread]]:
    return [((label,), spread) for label, spread in spreads.items()]


def _single(counts: Mapping[str, int]) -> list[tuple[Labels, float]]:
    return [((label,), count) for label, count in counts.items()]


def _all_of(labels: Sequence[str], figures: Mapping[str, float]) -> list[tuple[Labels, float]]:
    """One for each label, whether or not there is anything to tell."""
    return [((label,), figures.get(label, 0)) for label in labels]


def _built() -> tuple[Labels, float]:
    return (__version__, platform.python_version()), 1
