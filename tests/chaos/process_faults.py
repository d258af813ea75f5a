"""Faults of the hub's processes and of its agents: killed, frozen, stalled, asked to leave."""

import asyncio
import os
import signal
from random import Random
from typing import Any, Final

from tests.chaos import gauge, points
from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.faults.ledgers import entries
from tests.chaos.fleet import BY_HAND, DRAIN, Fleet
from tests.chaos.journal import read_journal
from tests.chaos.member import Member
from tocsin.domain.run import POISONED_AFTER

LATE: Final = frozenset({Excuse.LATE})
SILENT: Final = frozenset({Excuse.LATE, Excuse.SILENT})
BLIND: Final = frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND})
POINTS_TRIED: Final = 4


async def crash_at_point(fleet: Fleet, rng: Random) -> int:
    """F1: a replica dies at a named point, once it has been there a few times; one that never comes there is
    killed, and another point is tried.

    The points are taken in turn, from one that the seed picks, so that all are tried alike.
    """
    for _ in range(POINTS_TRIED):
        if await _crashes(fleet, rng):
            return 1
    raise DidNothing(f"none of {POINTS_TRIED} points was come by")


async def _crashes(fleet: Fleet, rng: Random) -> bool:
    member = rng.choice(fleet.members)
    point = points.POINTS[fleet.taken("F1", rng) % len(points.POINTS)]
    statement = point.partition(":")[2]
    once = statement in ("register", "hold_lock", *points.LEAVING)
    member.env["CHAOS_CRASH"] = f"{point}:{1 if once else rng.randrange(1, 4)}"
    try:
        await member.kill()
        member.spawn()
        # What is only done for a peer that has died needs one: another is killed in between.
        if statement in ("sweep", "free_locks"):
            await fleet.until_value("SELECT count(*) > 2 FROM tocsin.leases l WHERE l.ended_at IS NULL", within=10)
            await fleet.restart(rng.choice([one for one in fleet.members if one is not member]), kill=True)
        if statement in points.LEAVING:
            await member.until_logged("hub.ready")
            member.send(signal.SIGTERM)
        hit = await _dies(member, within=DRAIN + 10 if statement in points.LEAVING else 6)
        if not hit:
            await member.kill()
    finally:
        del member.env["CHAOS_CRASH"]
    fleet.journal.note("point", point=point, hit=hit)
    await fleet.start(member)
    return hit


async def _dies(member: Member, *, within: float) -> bool:
    try:
        await member.gone(within=within)
    except TimeoutError:
        return False
    return True


async def kill_all(fleet: Fleet, rng: Random) -> int:
    """F2: all hubs crash together; they are back at once, or after longer than any grace that is given."""
    for member in fleet.members:
        member.send(signal.SIGKILL)
    for member in fleet.members:
        await member.gone(within=10)
    await fleet.for_a_while(rng.choice([0, 0, 3, 8]))
    await fleet.start()
    return len(fleet.members)


async def kill_program(fleet: Fleet, rng: Random) -> int:
    """F3: kill -9 of a program that runs; its attempt fails, and a retry has a higher fence."""
    run_id, program = await _running_program(fleet, seconds=2)
    os.kill(program, signal.SIGKILL)
    fleet.journal.note("program", signal="SIGKILL", pid=program)
    await fleet.until_value("SELECT fence > 1 FROM tocsin.runs WHERE id = $1::uuid", run_id, within=15)
    return 1


async def freeze_program(fleet: Fleet, rng: Random) -> int:
    """F6: a program stands still for longer than the lease. Its hub renews, so nobody takes its run."""
    run_id, program = await _running_program(fleet, seconds=2)
    os.kill(program, signal.SIGSTOP)
    try:
        await fleet.for_a_while(fleet.lease * 1.3)
        if await fleet.state_of(run_id) != "running":
            raise DidNothing("the program had ended before it was stopped")
    finally:
        os.kill(program, signal.SIGCONT)
    await _ends_under_its_first_fence(fleet, run_id, "a program that stood still")
    return 1


async def _ends_under_its_first_fence(fleet: Fleet, run_id: str, who: str) -> None:
    await fleet.until_ended(run_id, within=fleet.lease * 4)
    ended = await fleet.fetch("SELECT state, fence FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if ended[0] != {"state": "succeeded", "fence": 1}:
        raise AssertionError(f"{who} cost its run its lease: {ended}")


async def _running_program(fleet: Fleet, *, seconds: float) -> tuple[str, int]:
    """A run whose program has just begun, and the program's pid."""
    run_id = await fleet.fire("by-hand-program", {"seconds": [seconds]})
    begun = await fleet.begun(run_id)
    return run_id, int(begun["pid"])


async def poison_run(fleet: Fleet, rng: Random) -> int:
    """F4: a run ends its process each time it is begun, until it is held to be what does it."""
    run_id = await fleet.fire(BY_HAND, {"seconds": [0.0], "end": "exit"})
    deaths = 0
    async with asyncio.timeout(60):
        while await fleet.state_of(run_id) in ("queued", "running") and deaths < POISONED_AFTER + 2:
            for member in fleet.members:
                if not member.alive and member.returncode == 42:
                    deaths += 1
                    await fleet.start(member)
            await asyncio.sleep(0.05)
    for member in fleet.members:
        if not member.alive:
            deaths += 1
            await fleet.start(member)
    (ended,) = await fleet.fetch("SELECT state, reason FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if ended != {"state": "failed", "reason": "poisoned"}:
        raise AssertionError(f"a run that ended {deaths} processes is {ended}")
    return deaths


async def freeze_beyond_lease(fleet: Fleet, rng: Random) -> int:
    """F5: a replica with work in hand stands still for two to three leases, and goes on as if nothing had been.

    Its settlements are refused: those of its runs that a peer has begun again, and those that are closed.
    """
    member = rng.choice(fleet.living)

    def refused() -> int:
        return sum(one["pid"] == member.pid and not one["accepted"] for one in entries(fleet.ledgers, "ANSWER"))

    before = refused()
    # Some of its runs are closed when it is found silent, others are begun again and still run when it wakes.
    await fleet.until_holding(member, seconds=fleet.lease * 3)
    async with fleet.frozen(member):
        await fleet.for_a_while(fleet.lease * rng.uniform(1.5, 3))
    await member.until_logged("replica.lost", within=10)

    async def were_refused() -> bool:
        return refused() > before

    await fleet.until(were_refused, f"a settlement of {member.name} is refused", within=10)
    return refused() - before


async def freeze_all(fleet: Fleet, rng: Random) -> int:
    """F5, of everybody: the host slept. One wakes a little before the others, and must not judge them."""
    members = rng.sample(fleet.living, len(fleet.living))
    async with fleet.frozen(*members):
        await fleet.for_a_while(fleet.lease * 1.4)
        members[0].thaw()
        await fleet.for_a_while(rng.uniform(0.1, 0.9))
    return len(members)


async def freeze_in_transaction(fleet: Fleet, rng: Random) -> int:
    """F5, in the middle of a planning: due triggers are locked by a session whose process stands still."""
    member = rng.choice(fleet.members)
    member.env["CHAOS_CRASH"] = f"freeze:found:lock_due:{rng.randrange(2, 5)}"
    try:
        await fleet.restart(member, kill=True)

        async def stands_still() -> bool:
            return member.stopped

        await fleet.until(stands_still, f"{member.name} stands still", within=20)
        member.freeze()
        await fleet.for_a_while(fleet.lease * 2)
    finally:
        del member.env["CHAOS_CRASH"]
        member.thaw()
    return 1


async def stall_loop(fleet: Fleet, rng: Random) -> int:
    """F7: an agent keeps its replica's event loop busy for longer than the lease. The lease is renewed beside it."""
    run_id = await fleet.fire(BY_HAND, {"seconds": [fleet.lease * 1.5], "end": "stall"})
    begun = await fleet.begun(run_id)
    await _ends_under_its_first_fence(fleet, run_id, "a stalled loop")

    async def told() -> bool:
        return gauge.reading(fleet.ledgers, begun["pid"]).get("lag", 0.0) >= fleet.lease

    await fleet.until(told, "the stalled loop's own gauge tells of it", within=20)
    return 1


async def terminate(fleet: Fleet, rng: Random) -> int:
    """F34: SIGTERM with short, long or hung runs in hand, at a tick or between; at times a second one."""
    member = rng.choice(fleet.living)
    kind = rng.choice(["short", "long", "hung"])
    payloads: dict[str, dict[str, Any]] = {
        "short": {"seconds": [0.3]},
        "long": {"seconds": [DRAIN * 0.8]},
        "hung": {"seconds": [DRAIN * 2], "end": "deaf"},
    }
    for _ in range(6):
        await fleet.fire(BY_HAND, payloads[kind])
    await fleet.until_holding(member)
    if rng.random() < 0.5:
        await fleet.until_next_second(rng.uniform(-0.05, 0.05))
    member.send(signal.SIGTERM)
    if rng.random() < 0.3:
        await member.until_logged("hub.draining", within=5)
        member.send(signal.SIGTERM)
    code = await member.gone(within=DRAIN + 20)
    if code not in (0, 4):
        raise DidNothing(f"{member.name} left with {code}: {member.tail()}")
    await fleet.start(member)
    return 1


def crash_points_hit(fleet: Fleet) -> dict[str, int]:
    """How often each named point has killed a process, from the ledgers: the coverage of F1."""
    hit = dict.fromkeys(points.POINTS, 0)
    for ledger in fleet.ledgers.iterdir():
        for entry in read_journal(ledger):
            if entry["what"] == "CRASH":
                hit[entry["point"]] += 1
    return hit


FAULTS: Catalogue = {
    "F1": lambda: Simple("F1", crash_at_point, excuses=LATE),
    "F2": lambda: Simple("F2", kill_all, excuses=BLIND),
    "F3": lambda: Simple("F3", kill_program),
    "F4": lambda: Simple("F4", poison_run, excuses=LATE),
    "F5": lambda: Simple("F5", freeze_beyond_lease, excuses=SILENT),
    "F5a": lambda: Simple("F5a", freeze_all, excuses=SILENT),
    "F5b": lambda: Simple("F5b", freeze_in_transaction, excuses=frozenset({Excuse.SILENT})),
    "F6": lambda: Simple("F6", freeze_program),
    "F7": lambda: Simple("F7", stall_loop, excuses=LATE),
    "F34": lambda: Simple("F34", terminate, excuses=LATE),
}
