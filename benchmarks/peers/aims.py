"""What Tocsin is to reach, as numbers that the results answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.contestants import LOOPS, TOCSIN
from benchmarks.peers.summary import Summary


@dataclass(frozen=True, slots=True)
class Aim:
    """words: what is aimed at. value: what was measured, None where it was not; limit: the last value that will do."""

    words: str
    value: Callable[[Summary], float | None]
    limit: float
    at_least: bool
    unit: str = ""

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _of(scenario: str, case: str, figure: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.median(scenario, case, "tocsin", figure)


def _to(scenario: str, case: str, figure: str, other: str, *, theirs: str = "") -> Callable[[Summary], float | None]:
    """Tocsin's figure to another contestant's."""

    def ratio(summary: Summary) -> float | None:
        mine = summary.median(scenario, case, "tocsin", figure)
        other_one = summary.median(theirs or scenario, case, other, figure)
        return mine / other_one if mine is not None and other_one else None

    return ratio


def _to_best(scenario: str, case: str, figure: str) -> Callable[[Summary], float | None]:
    """Tocsin's figure to the best peer's, less being better."""

    def ratio(summary: Summary) -> float | None:
        mine = summary.median(scenario, case, "tocsin", figure)
        peers = [
            value
            for name in summary.contestants
            if name not in (TOCSIN, *LOOPS)
            and not summary.median(scenario, case, name, "missed")
            and (value := summary.median(scenario, case, name, figure)) is not None
        ]
        return mine / min(peers) if mine is not None and peers else None

    return ratio


def _two_to_one(summary: Summary) -> float | None:
    one = summary.median("throughput", "processes=1", "tocsin", "runs_per_s")
    two = summary.median("throughput", "processes=2", "tocsin", "runs_per_s")
    return two / one if one and two else None


def _beside_history(summary: Summary) -> float | None:
    with_history = summary.median("plan", "", "tocsin", "after_per_s")
    without = summary.median("throughput", "processes=1", "tocsin", "runs_per_s")
    return with_history / without if with_history and without else None


def _scaled(summary: Summary) -> float | None:
    few = summary.median("scale", "schedules=10000", "tocsin", "all_begun_s")
    many = summary.median("scale", "schedules=1000000", "tocsin", "all_begun_s")
    return many / few if few and many else None


def _wrong(*scenarios: str) -> Callable[[Summary], float | None]:
    """Runs doubled or missed, in the worst measurement."""

    def worst(summary: Summary) -> float | None:
        found = [
            value
            for scenario in scenarios
            for figure in ("doubled", "missed")
            for value in summary.all_values(scenario, "tocsin", figure)
        ]
        return max(found) if found else None

    return worst


AIMS: Final = (
    Aim("throughput to the reference", _to("throughput", "processes=1", "runs_per_s", "reference"), 0.5, True, "×"),
    Aim("throughput to PgQueuer", _to("throughput", "processes=1", "runs_per_s", "pgqueuer"), 1.2, True, "×"),
    Aim("throughput of two processes to one", _two_to_one, 1.6, True, "×"),
    Aim("after ANALYZE to before, 1,000,000 finished runs", _of("plan", "", "after_to_before"), 0.85, True, "×"),
    Aim("throughput beside 1,000,000 finished runs to without", _beside_history, 0.85, True, "×"),
    Aim("throughput after 100,000 runs under a snapshot", _of("snapshot", "", "last_to_first"), 0.5, True, "×"),
    Aim(
        "burst of 10,000 to the reference",
        _to("burst", "schedules=10000", "all_begun_s", "reference"),
        3,
        False,
        "×",
    ),
    Aim("burst of 100 to the best peer", _to_best("burst", "schedules=100", "all_begun_s"), 1, False, "×"),
    Aim("burst of 1,000 to the best peer", _to_best("burst", "schedules=1000", "all_begun_s"), 1, False, "×"),
    Aim("burst of 10,000 to the best peer", _to_best("burst", "schedules=10000", "all_begun_s"), 1, False, "×"),
    Aim("doubled or missed in any burst", _wrong("burst", "burst-kill"), 0, False, " runs"),
    Aim("p99 of a burst of 1,000 with a death", _of("burst-kill", "schedules=1000", "p99_ms"), 100, False, " ms"),
    Aim("statements a minute, idle with 1,000,000", _of("idle", "schedules=1000000", "statements_per_min"), 20, False),
    Aim(
        "CPU seconds a minute, idle with 1,000,000", _of("idle", "schedules=1000000", "cpu_s_per_min"), 0.1, False, " s"
    ),
    Aim("registering 10,000 schedules", _of("idle", "schedules=10000", "register_s"), 2, False, " s"),
    Aim("latency p50 to the reference", _to("latency", "", "p50_ms", "reference"), 1.2, False, "×"),
    Aim("latency p99 to the reference", _to("latency", "", "p99_ms", "reference"), 1.5, False, "×"),
    Aim(
        "latency p50 within a process to the reference across",
        _to("latency-within", "", "p50_ms", "reference", theirs="latency"),
        0.5,
        False,
        "×",
    ),
    Aim("bulk enqueueing to PgQueuer", _to("bulk", "", "runs_per_s", "pgqueuer"), 2, True, "×"),
    Aim("crash, default settings", _of("crash", "settings=default", "all_begun_s"), 2, False, " s"),
    Aim("live work run again", _of("live", "", "run_again"), 0, False, " runs"),
    Aim("released runs begun elsewhere after the limit", _of("drain", "", "after_limit_s"), 2, False, " s"),
    Aim("1,000 due of 1,000,000 to 1,000 of 10,000", _scaled, 1.5, False, "×"),
)
