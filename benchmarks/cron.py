"""How fast the next occurrence is found, beside three other libraries, in one run.

    python benchmarks/cron.py

Each figure is the best of several rounds. "iterate" asks for the next occurrence after the
last one; "parse + next" reads the expression anew each time, with nothing cached for ours.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # ships no types
from croniter import croniter  # type: ignore[import-untyped]  # ships no types
from cronsim import CronSim

from tocsin.domain.cron import parse
from tocsin.domain.cron_walk import CronWalk
from tocsin.domain.schedule import cron, next_after
from tocsin.domain.zone import zone

EXPRESSIONS = ("*/5 * * * *", "0 9 * * mon-fri", "30 2 * * *", "0 0 1 * *")
TZ = "America/New_York"
START = datetime(2026, 1, 1, tzinfo=UTC)
LOCAL_START = START.astimezone(ZoneInfo(TZ))
STEPS = 400
ROUNDS = 15
TICK = timedelta(microseconds=1)


def through_next_after(expression: str) -> None:
    at: datetime | None = START
    for _ in range(STEPS):
        assert at is not None
        at = next_after(expression, TZ, at)


def through_schedule(expression: str) -> None:
    schedule = cron(expression, TZ)
    at: datetime | None = START
    for _ in range(STEPS):
        assert at is not None
        at = schedule.next_after(at)


def through_cronsim(expression: str) -> None:
    steps = CronSim(expression, LOCAL_START)
    for _ in range(STEPS):
        next(steps)


def through_croniter(expression: str) -> None:
    steps = croniter(expression, LOCAL_START)
    for _ in range(STEPS):
        steps.get_next(datetime)


def through_apscheduler(expression: str) -> None:
    trigger = CronTrigger.from_crontab(expression, timezone=ZoneInfo(TZ))
    at = LOCAL_START
    for _ in range(STEPS):
        at = trigger.get_next_fire_time(at, at + TICK)


def parse_ours(expression: str) -> None:
    for _ in range(STEPS):
        CronWalk(parse(expression), zone(TZ), "shift", "first").next_after(START)


def parse_cronsim(expression: str) -> None:
    for _ in range(STEPS):
        next(CronSim(expression, LOCAL_START))


def parse_croniter(expression: str) -> None:
    for _ in range(STEPS):
        croniter(expression, LOCAL_START).get_next(datetime)


def parse_apscheduler(expression: str) -> None:
    for _ in range(STEPS):
        CronTrigger.from_crontab(expression, timezone=ZoneInfo(TZ)).get_next_fire_time(None, LOCAL_START)


ITERATE: dict[str, Callable[[str], None]] = {
    "tocsin next_after": through_next_after,
    "tocsin Schedule": through_schedule,
    "cronsim": through_cronsim,
    "croniter": through_croniter,
    "apscheduler": through_apscheduler,
}
PARSE: dict[str, Callable[[str], None]] = {
    "tocsin": parse_ours,
    "cronsim": parse_cronsim,
    "croniter": parse_croniter,
    "apscheduler": parse_apscheduler,
}


def per_second(rounds: dict[str, Callable[[str], None]], expression: str) -> dict[str, float]:
    """The best rate of each; the rounds alternate, so that a slow moment of the machine hits all alike."""
    best = dict.fromkeys(rounds, float("inf"))
    for _ in range(ROUNDS):
        for name, work in rounds.items():
            began = time.perf_counter()
            work(expression)
            best[name] = min(best[name], time.perf_counter() - began)
    return {name: STEPS / seconds for name, seconds in best.items()}


def report(title: str, rounds: dict[str, Callable[[str], None]]) -> None:
    print(f"\n{title:<16} {'library':<18} {'per second':>12} {'× fastest peer':>15}")
    for expression in EXPRESSIONS:
        rates = per_second(rounds, expression)
        fastest = max(rate for name, rate in rates.items() if not name.startswith("tocsin"))
        for name, rate in rates.items():
            print(f"{expression:<16} {name:<18} {rate:>12,.0f} {rate / fastest:>15.1f}")


if __name__ == "__main__":
    report("iterate", ITERATE)
    report("parse + next", PARSE)
