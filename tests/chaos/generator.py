"""What a seed declares: triggers from one second to one minute, of every kind and policy, that the fleet can carry."""

from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from tests.chaos.agents import elsewhere, hub, scripted
from tests.chaos.elsewhere import FAR_OFF, PLAYED
from tests.chaos.fleet import BY_HAND, HELD
from tocsin import App, Hub, Schedule, at, cron, every

TRIGGERS: Final = 300
AFTER: Final = "after-"
"""How the names of triggers begin that count from the end of their run: no client touches them."""

_PERIODS: Final = ([1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60], [3, 4, 4, 6, 8, 12, 14, 16, 16, 12, 12])
_LENGTHS: Final = (
    ([0.0], 10),
    ([0.0, 0.05], 6),
    ([0.2, 0.4], 4),
    ([1.0], 2),
    ([0.1, 0.1, 0.1, 4.5], 2),
)
"""Seconds; the last is longer than a lease now and then."""

_ELSEWHERE: Final = {"scribe": "envoy", "courier": "herald", "miller": "mason"}
"""Who does the like in an agent process."""

_ENDS: Final = (["ok", "error", "later", "fatal", "deaf"], [60, 3, 2, 1, 1])
_ROOMS: Final = 12


def declared(rng: Random, now: datetime, *, count: int = TRIGGERS, instances: int = 0) -> App:
    """The fleet's agents with the seed's triggers. now: the database's instant; instances: agent processes."""
    seeded = Hub(name="chaos")
    functions = hub.build("chaos").functions
    commands = hub.build("chaos").commands
    seeded._functions.update(functions)
    seeded._commands.update(commands)
    if instances:
        for served in (elsewhere, scripted):
            seeded._functions.update(served.build("chaos").functions)
        seeded.trigger(FAR_OFF, "envoy", overlap="allow", input={"seconds": [0.0]})
        seeded.trigger(PLAYED, "puppet", overlap="allow")
    seeded.trigger(BY_HAND, "wretch", overlap="allow", input={"seconds": [0.0]})
    seeded.trigger(HELD, "courier", overlap="allow", input={"seconds": [0.0]})
    seeded.trigger("by-hand-program", "porter", overlap="allow", input={"seconds": [0.0]})
    for number in range(count):
        one_trigger(seeded, rng, f"t{number:03d}", now, instances=instances)
    return seeded.build("chaos")


def one_trigger(seeded: Hub, rng: Random, name: str, now: datetime, *, instances: int = 0) -> None:
    period = rng.choices(*_PERIODS)[0]
    agent = _agent(rng, period)
    lengths = rng.choices([lengths for lengths, _ in _LENGTHS], [weight for _, weight in _LENGTHS])[0]
    # Work that must queue may not grow faster than it is done.
    schedule = _schedule(rng, period, now)
    if "after_completion" in str(schedule.to_json()):
        name = f"{AFTER}{name}"
    tight = agent in ("miller", "warden", "porter") or period < 3
    seconds = [0.0, 0.05] if tight else lengths
    if instances and rng.random() < 0.5:
        agent = _ELSEWHERE.get(agent, agent)
    overlaps = ["skip", "skip", "skip", "allow", "queue_one", "cancel_previous"]
    if max(seconds) * 3 < period:
        overlaps.append("queue_all")
    seeded.trigger(
        name,
        agent,
        schedule,
        input={"seconds": seconds, "end": "ok" if tight else rng.choices(*_ENDS)[0], "room": rng.randrange(_ROOMS)},
        **_policy(rng, overlaps),
    )


def _policy(rng: Random, overlaps: list[str]) -> dict[str, Any]:
    return {
        "overlap": rng.choice(overlaps),
        "catch_up": rng.choice(["skip", "latest", "latest", "all"]),
        "max_catch_up": rng.choice([1, 3, 10]),
        "catch_up_window": rng.choice([None, 0, 20, 300]),
        "grace": rng.choice([2, 5, 60]),
        "expires_after": rng.choice([None, None, None, 20]),
        "priority": rng.randrange(10),
    }


def _agent(rng: Random, period: int) -> str:
    if period < 5:
        return rng.choice(["scribe", "scribe", "courier"])
    return rng.choice(["scribe", "scribe", "scribe", "courier", "courier", "miller", "warden", "porter"])


def _schedule(rng: Random, period: int, now: datetime) -> Schedule:
    jitter = rng.choice([0, 0, 0, min(2, period - 1)])
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return every(period, jitter=jitter)
        case 4 | 5 | 6:
            return cron(_seconds_rule(rng, period), _zone(rng), jitter=jitter)
        case 7:
            return cron(_seconds_rule(rng, 30), _zone(rng)) | every(max(period, 7))
        case 8:
            return at(*(now + timedelta(seconds=rng.uniform(5, 90)) for _ in range(rng.randrange(1, 6))))
        case _:
            return every(max(period, 2), after_completion=True)


def _seconds_rule(rng: Random, period: int) -> str:
    phase = rng.randrange(min(period, 60))
    return f"{phase if period == 60 else f'{phase}-59/{period}'} * * * * *"


def _zone(rng: Random) -> str:
    return rng.choice(["UTC", "Europe/London", "Asia/Kolkata", "Australia/Lord_Howe", "America/Santiago"])
