"""Values for tests, with everything that does not matter filled in."""

from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.schedule import Schedule, cron, every
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec


def an_agent(name: str = "scribe", **policy: Any) -> AgentSpec:
    return AgentSpec(name=name, **policy)


def a_trigger(name: str = "nightly", *, agent: str = "scribe", **policy: Any) -> TriggerSpec:
    """A trigger that is due every minute unless it says otherwise."""
    policy.setdefault("schedule", every("1m"))
    return TriggerSpec(name=name, agent=agent, **policy)


def an_id(random: Random) -> UUID:
    """An id that the seed decides, so that a trigger's jitter and its order are the seed's too."""
    return UUID(int=random.getrandbits(128), version=4)


def mixed_agents() -> list[AgentSpec]:
    """Agents of every policy that bears on leases, limits and retries."""
    return [
        an_agent("scribe", max_attempts=3, backoff_base=_seconds(5), backoff_cap=_seconds(60)),
        an_agent("courier", on_lost=OnLost.FAIL, timeout=_seconds(90)),
        an_agent("miller", concurrency=2, max_attempts=2, deadline=_seconds(600)),
        an_agent("warden", concurrency=1, concurrency_key="room", cancel_within=_seconds(10)),
    ]


def mixed_triggers(random: Random, count: int) -> list[TriggerSpec]:
    """Triggers of every overlap, catch-up, scope and kind of schedule, drawn from the seed."""
    return [_mixed(random, f"trigger-{number:03d}") for number in range(count)]


def a_mixed_schedule(random: Random) -> Schedule:
    """A schedule that is due some four to sixty times an hour, in some zone."""
    tz = random.choice(["UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
    jitter = random.choice([0, 0, 0, 20])
    minutes = random.choice(["*", "*/2", "*/5", "*/10", "7-52/9", "0,17,31,58", "*/15"])
    match random.randrange(4):
        case 0:
            return every(random.choice([60, 75, 90, 200, 610]), jitter=jitter)
        case 1:
            return cron(f"{minutes} * * * *", tz, jitter=jitter)
        case 2:
            return cron(f"{random.randrange(15)},{random.randrange(30, 60)} 0-23 * * *", tz, jitter=jitter)
        case _:
            return cron(f"{minutes} * * * mon-fri", tz) | every(random.choice([130, 420]))


def _mixed(random: Random, name: str) -> TriggerSpec:
    agent = random.choice([agent.name for agent in mixed_agents()])
    return TriggerSpec(
        name=name,
        agent=agent,
        schedule=a_mixed_schedule(random),
        input={"room": random.choice(["north", "south"])},
        overlap=random.choice([*Overlap, Overlap.SKIP]),
        overlap_scope=random.choice(["trigger", "trigger", "trigger", "agent", "input.room"]),
        catch_up=random.choice(list(CatchUp)),
        catch_up_window=random.choice([None, _seconds(0), _seconds(300)]),
        max_catch_up=random.choice([1, 3, 10]),
        grace=random.choice([_seconds(60), _seconds(60), _seconds(5)]),
        expires_after=random.choice([None, None, _seconds(45), _seconds(400)]),
        priority=random.randrange(10),
    )


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
