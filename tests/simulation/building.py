"""What stories are told with: replicas to whom nothing happens that the story does not do, and their steps."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import Contended
from tocsin.domain.run import RunState, Settlement
from tocsin.domain.trigger import TriggerSpec
from tocsin.store.attempts import Ended, Quota
from tocsin.testing.replica import SimulatedReplica
from tocsin.testing.simulation import Simulation


@asynccontextmanager
async def calm(dsn: str, *triggers: TriggerSpec, replicas: int = 1, **options: Any) -> AsyncIterator[Simulation]:
    """Replicas without faults. options: the simulation's."""
    async with Simulation(1, dsn=dsn, replicas=replicas, triggers=triggers, **options) as simulation:
        for replica in simulation.replicas:
            replica.faults.chance = 0.0
        yield simulation


async def pass_time(simulation: Simulation, seconds: float) -> None:
    """It is later, everybody's lease runs on, and what is due from now on is queued before it is begun."""
    simulation.time.advance(seconds)
    for replica in simulation.replicas:
        replica.runner.accepting = False
        await replica.keep()


async def claimed(replica: SimulatedReplica, count: int = 1) -> Sequence[Assignment]:
    """What the replica has claimed. Nothing executes it: its end is the story's to tell."""
    try:
        claim = await replica.attempts.claim(
            [Quota("scribe", "live", count), Quota("scribe", "late", count)], free=count
        )
    except Contended:
        return []
    return claim.assignments


def an_end(assignment: Assignment, state: RunState = RunState.SUCCEEDED, **settlement: Any) -> Ended:
    """The end of one claim."""
    output = b"null" if state is RunState.SUCCEEDED else None
    return Ended(
        run_id=assignment.run_id,
        fence=assignment.fence,
        settlement=Settlement(state, output=output, **settlement),
    )
