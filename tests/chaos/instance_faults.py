"""Faults of agent processes: killed, killed by their run each time, frozen, under a wall clock that is wrong."""

import asyncio
from random import Random
from typing import Final

from tests.chaos.elsewhere import DEAD_AFTER, FAR_OFF
from tests.chaos.fault import Catalogue, DidNothing, Simple
from tests.chaos.faults.clocks import HOUR, MISSING, WallClock, library
from tests.chaos.faults.moving import moved
from tests.chaos.fleet import Fleet
from tests.chaos.member import Member
from tocsin.domain.run import POISONED_AFTER

NOTICED_WITHIN: Final = DEAD_AFTER + 10
"""Seconds from the last beat to the next attempt, on a busy machine."""

FENCED: Final = "SELECT fence > 1 FROM tocsin.runs WHERE id = $1::uuid"


async def kill_instance(fleet: Fleet, rng: Random) -> int:
    """F3a: kill -9 of an agent process with a run in hand; another takes its place, and the run begins again."""
    run_id, member = await fleet.elsewhere.working(fleet, seconds=3)
    await fleet.restart(member, kill=True)
    await fleet.until_value(FENCED, run_id, within=NOTICED_WITHIN)
    await fleet.until_ended(run_id, within=20)
    return 1


async def poison_instances(fleet: Fleet, rng: Random) -> int:
    """F4a: a run ends its agent process each time it is begun, until it is held to be what does it."""
    run_id = await fleet.fire(FAR_OFF, {"seconds": [0.0], "end": "exit"})
    deaths = 0
    async with asyncio.timeout(POISONED_AFTER * NOTICED_WITHIN):
        while await fleet.state_of(run_id) in ("queued", "running"):
            deaths += await _replaced(fleet)
            await asyncio.sleep(0.05)
    deaths += await _replaced(fleet)
    (ended,) = await fleet.fetch("SELECT state, reason FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if ended != {"state": "failed", "reason": "poisoned"} or deaths != POISONED_AFTER:
        raise AssertionError(f"a run that ended {deaths} agent processes is {ended}")
    return deaths


async def _replaced(fleet: Fleet) -> int:
    """Processes that their run has ended, in whose place there are others."""
    dead = [member for member in fleet.elsewhere.members if not member.alive and member.returncode == 42]
    for member in dead:
        await fleet.start(member)
    return len(dead)


async def freeze_instance(fleet: Fleet, rng: Random) -> int:
    """F6a: an agent process stands still until its run has begun elsewhere, and goes on as if nothing had been.

    At times its run would have ended meanwhile, and at times it has long to go. Whatever it says is refused.
    """
    seconds = rng.choice([1.5, DEAD_AFTER, DEAD_AFTER * 2])
    run_id, member = await fleet.elsewhere.working(fleet, seconds=seconds)
    async with fleet.frozen(member):
        await fleet.until_value(FENCED, run_id, within=NOTICED_WITHIN)
        await fleet.for_a_while(rng.uniform(0, 2))
    await _lost(fleet, member)
    await fleet.until_ended(run_id, within=DEAD_AFTER * 2 + 20)
    accepted = [entry["fence"] for entry in fleet.elsewhere.told("TOLD", run_id) if entry["accepted"]]
    if 1 in accepted:
        raise AssertionError(f"run {run_id} of a process that stood still was accepted under its first fence")
    return 1


async def _lost(fleet: Fleet, member: Member) -> None:
    """The process has noticed that what it had is not its own any more."""

    async def told() -> bool:
        return bool(member.logged("lease.expired") or member.logged("agent.lost"))

    await fleet.until(told, f"{member.name} knows that it was lost", within=10)


async def skew_instance(fleet: Fleet, rng: Random) -> int:
    """F17: the clock of an agent process is wrong by an hour, and steps under its run, which nobody takes from it."""
    member = rng.choice(fleet.elsewhere.members)
    clock = WallClock(fleet.place / f"clock-{member.name}")
    clock.step(rng.choice([HOUR, -HOUR]))
    async with moved(fleet, [member], env=clock.env):
        run_id, _ = await fleet.elsewhere.working(fleet, seconds=DEAD_AFTER + 2, among=[member])
        for seconds in rng.sample([HOUR, -HOUR, 300, 0], 4):
            clock.step(seconds)
            await fleet.for_a_while(1.5)
        await fleet.until_ended(run_id, within=20)
        ended = await fleet.fetch("SELECT state, fence FROM tocsin.runs WHERE id = $1::uuid", run_id)
        if ended[0] != {"state": "succeeded", "fence": 1}:
            raise AssertionError(f"a wrong clock cost a run its process: {ended}")
        stamps = {str(line["at"])[:13] for line in member.logged()}
        if len(stamps) < 2:
            raise DidNothing("the clock of its log never stepped")
    return 1


FAULTS: Catalogue = {
    "F3a": lambda: Simple("F3a", kill_instance),
    "F4a": lambda: Simple("F4a", poison_instances),
    "F6a": lambda: Simple("F6a", freeze_instance),
    **({"F17": lambda: Simple("F17", skew_instance)} if library() else {}),
}
ABSENT: Final = {} if library() else {"F17": MISSING}
