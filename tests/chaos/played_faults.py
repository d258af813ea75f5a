"""Faults of agent processes that break the protocol, each played by a script: deaf, doubled, out of order, cloned."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import uuid4

import grpc

from tests.chaos.elsewhere import DEAD_AFTER, FAR_OFF, PLAYED
from tests.chaos.fault import Catalogue, Simple
from tests.chaos.fleet import Fleet
from tests.chaos.puppet import Puppet
from tocsin.v1 import agent_pb2 as pb

GROWS: Final = 60 << 20
"""Bytes that a replica may take for somebody who does not read: it has other work too."""

Code = grpc.StatusCode
ENDED: Final = (Code.ABORTED, Code.INTERNAL, Code.UNKNOWN)
"""How a stream ends that is not its process's newest; a write at that moment is told INTERNAL."""

_LIVE: Final = """
SELECT r.holder::text AS id, r.fence FROM tocsin.runs r WHERE r.id = $1::uuid
"""


async def reads_nothing(fleet: Fleet, rng: Random) -> int:
    """F29: a process sends without end and reads none of the answers, so that its hub reads no more of it.

    What waits for it is bounded; it is lost for its silence, its stream is ended, and nobody else notices.
    """
    replica = rng.choice(fleet.members)
    async with _a_puppet(fleet, replica.index) as puppet:
        run = await puppet.take(fleet)
        before = _memory(replica.pid)
        puppet.process.deaf = puppet.process.frozen = True
        results = [pb.Result(run_id=str(uuid4()), fence=1, succeeded=b"1") for _ in range(500)]
        sent = await puppet.process.flood(pb.Finished(results=results), seconds=3)
        other, _ = await fleet.elsewhere.working(fleet, seconds=0.5)
        await fleet.until_ended(other, within=10)
        await _is_begun_again(fleet, run)

        async def is_ended() -> bool:
            ended = replica.logged("instance.disconnected")
            return any(line["holder"] == puppet.process.id for line in ended)

        await fleet.until(is_ended, f"{replica.name} ends the stream of who is lost", within=DEAD_AFTER * 2)
        if (grown := _memory(replica.pid) - before) > GROWS:
            raise AssertionError(f"{replica.name} took {grown >> 20} MB for a process that does not read")
    return sent


async def beats_in_disorder(fleet: Fleet, rng: Random) -> int:
    """F31: beats come twice, late, in disorder, of another's run, under a fence of the future, over an old stream."""
    stranger, _ = await fleet.elsewhere.working(fleet, seconds=DEAD_AFTER / 2)
    async with _a_puppet(fleet, rng.randrange(len(fleet.members))) as puppet:
        run = await puppet.take(fleet)
        told = [
            pb.Held(run_id=run.run_id, fence=run.fence),
            pb.Held(run_id=run.run_id, fence=run.fence + 7),
            pb.Held(run_id=stranger, fence=1),
            pb.Held(run_id=str(uuid4()), fence=1),
        ]
        for seq in rng.choices(range(1, 60), k=25):
            held = rng.sample(told, rng.randrange(1, len(told) + 1))
            await puppet.process.say(beat=pb.Beat(seq=seq, held=held))
            await asyncio.sleep(rng.choice([0, 0, 0.1, 0.4]))
        await _has(fleet, run.run_id, {"state": "running", "fence": run.fence})
        await puppet.refused(run.run_id, run.fence + 7)
        await puppet.refused(stranger, 1)
        async with puppet.again(rng.choice(fleet.elsewhere.addresses)) as newer:
            await _beats_until_ended(puppet)
            await newer.finish(run)
            newer.process.held[run.run_id] = told[0]
            await newer.process.beat()
            await newer.fenced(run.run_id)
        await _has(fleet, run.run_id, {"state": "succeeded", "fence": run.fence})
    await fleet.until_ended(stranger, within=20)
    await _has(fleet, stranger, {"state": "succeeded", "fence": 1})
    return 25


async def results_in_disorder(fleet: Fleet, rng: Random) -> int:
    """F32: a result comes before its run was given to anybody, twice at once, again, and over the next stream."""
    async with _a_puppet(fleet, rng.randrange(len(fleet.members))) as puppet:
        early = await fleet.fire(PLAYED, {})
        await puppet.refused(early, 1)
        await _has(fleet, early, {"state": "queued", "fence": 0})
        run = await puppet.take(fleet, fires=False)
        result = pb.Result(run_id=run.run_id, fence=run.fence, succeeded=b'"first"')
        other = pb.Result(run_id=run.run_id, fence=run.fence, succeeded=b'"second"')
        await puppet.process.say(finished=pb.Finished(results=[result, result, other]))
        await puppet.settled(run)
        await puppet.process.say(finished=pb.Finished(results=[other]))
        async with puppet.again(rng.choice(fleet.elsewhere.addresses)) as newer:
            await newer.refused(run.run_id, run.fence)
        ended = await fleet.fetch("SELECT state, fence, output::text FROM tocsin.runs WHERE id = $1::uuid", run.run_id)
        if ended != [{"state": "succeeded", "fence": run.fence, "output": '"first"'}]:
            raise AssertionError(f"a result that came five times has left {ended}")
    return 5


async def cloned(fleet: Fleet, rng: Random) -> int:
    """F33: somebody comes with the id, and the runs, of a process that lives; with its key, another's, or none."""
    run_id, member = await fleet.elsewhere.working(fleet, seconds=DEAD_AFTER / 2)
    (live,) = await fleet.fetch(_LIVE, run_id)
    keys, side = fleet.elsewhere.keys, fleet.elsewhere.side_of(member)
    held = [pb.Held(run_id=run_id, fence=live["fence"])]
    tries: list[tuple[str | None, str, dict[str, Any], Code]] = [
        (keys[side], "envoy", {"instance_id": live["id"]}, Code.ALREADY_EXISTS),
        (keys["played"], "puppet", {"instance_id": live["id"]}, Code.PERMISSION_DENIED),
        (keys["played"], "envoy", {}, Code.PERMISSION_DENIED),
        (None, "envoy", {}, Code.UNAUTHENTICATED),
    ]
    for key, agent, hello, code in rng.sample(tries, len(tries)):
        clone = Puppet(rng.choice(fleet.elsewhere.addresses), key=key, agent=agent, ledgers=fleet.ledgers, **hello)
        async with clone:
            answer = await clone.refusal(held)
            if answer is None:
                await _works(fleet, clone)
            elif answer is not code:
                raise AssertionError(f"a process with the key of {key and agent} was told {answer}, not {code}")
    await fleet.until_ended(run_id, within=20)
    await _has(fleet, run_id, {"state": "succeeded", "fence": 1})
    return len(tries)


async def _works(fleet: Fleet, clone: Puppet) -> None:
    """Who is let in takes what it gets: whether it may have that is for the checker to say."""
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await clone.process.credit(1)
            await fleet.fire(FAR_OFF, {"seconds": [0.0]})
            await clone.finish(*(await clone.process.assigned()))


@asynccontextmanager
async def _a_puppet(fleet: Fleet, replica: int) -> AsyncIterator[Puppet]:
    """A process that has been welcomed by this replica."""
    address, key = fleet.elsewhere.addresses[replica], fleet.elsewhere.keys["played"]
    async with Puppet(address, key=key, agent="puppet", ledgers=fleet.ledgers) as puppet:
        await puppet.welcome()
        yield puppet


async def _is_begun_again(fleet: Fleet, run: pb.Assignment) -> None:
    """The run was taken from its process, and another has done it."""
    async with _a_puppet(fleet, 0) as other:
        again = await other.take(fleet, fires=False, within=DEAD_AFTER + 12)
        if (again.run_id, again.fence) != (run.run_id, run.fence + 1):
            raise AssertionError(f"instead of run {run.run_id} came {again.run_id} under {again.fence}")
        await other.finish(again)


async def _beats_until_ended(puppet: Puppet) -> None:
    """What comes over the former stream counts for nothing, and ends it."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while not puppet.process.call.done():
            await puppet.process.beat()
            await asyncio.sleep(0.1)
    if (code := await puppet.process.code()) not in ENDED:
        raise AssertionError(f"a stream that is not the newest ended with {code}")


async def _has(fleet: Fleet, run_id: str, wanted: dict[str, Any]) -> None:
    (row,) = await fleet.fetch(f"SELECT {', '.join(wanted)} FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if row != wanted:
        raise AssertionError(f"run {run_id} is {row}, not {wanted}")


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FAULTS: Catalogue = {
    "F29": lambda: Simple("F29", reads_nothing),
    "F31": lambda: Simple("F31", beats_in_disorder),
    "F32": lambda: Simple("F32", results_in_disorder),
    "F33": lambda: Simple("F33", cloned),
}
