"""Constellations that a random course meets by luck, each made to happen: what the guards are there for.

Nothing here depends on the course that the engine takes by itself: each step is the story's. With every
guard in its place a story's history has no violation; without one, it has the guard's own.
"""

from typing import Any

from tests.simulation.building import an_end, calm, claimed, pass_time
from tocsin.domain.run import RunState, StopReason
from tocsin.domain.trigger import Overlap
from tocsin.testing.builders import a_trigger
from tocsin.testing.history import History

DUE = 61.0
"""Seconds after which what is due every minute is due."""


async def an_end_comes_when_a_peer_has_the_run(dsn: str, **options: Any) -> History:
    async with calm(dsn, a_trigger(), replicas=2, **options) as simulation:
        one, other = simulation.replicas
        await pass_time(simulation, DUE)
        await one.step(one.planner)
        [former] = await claimed(one)
        await other.runs.sweep(dead_holders=[one.who.holder], by_lease=False, batch=10)
        [present] = await claimed(other)
        assert (former.run_id, former.fence + 1) == (present.run_id, present.fence)
        await one.attempts.settle([an_end(former)])
        await other.attempts.settle([an_end(present)])
        return await simulation.history()


async def an_end_comes_when_its_process_has_the_run_again(dsn: str, **options: Any) -> History:
    """Its lease was ended under it, and it has claimed the run anew as somebody new."""
    async with calm(dsn, a_trigger(), replicas=2, **options) as simulation:
        one, other = simulation.replicas
        await pass_time(simulation, DUE)
        await one.step(one.planner)
        [former] = await claimed(one)
        lost = one.who.holder
        await other.runs.sweep(dead_holders=[lost], by_lease=False, batch=10)
        await one.keep()
        assert one.who.holder != lost
        [present] = await claimed(one)
        assert (former.run_id, former.fence + 1) == (present.run_id, present.fence)
        await one.attempts.settle([an_end(former)])
        await one.attempts.settle([an_end(present)])
        return await simulation.history()


async def an_end_is_sent_again_when_its_holder_has_the_run_again(dsn: str, **options: Any) -> History:
    """Given back by a holder who did not hear the answer, has the run once more, and gives the old claim back again."""
    async with calm(dsn, a_trigger(), **options) as simulation:
        [one] = simulation.replicas
        await pass_time(simulation, DUE)
        await one.step(one.planner)
        [former] = await claimed(one)
        given_back = an_end(former, RunState.QUEUED, reason=StopReason.INTERRUPTED.value, counted=False)
        await one.attempts.settle([given_back])
        [present] = await claimed(one)
        assert (former.run_id, former.fence + 1) == (present.run_id, present.fence)
        await one.attempts.settle([given_back])
        simulation.time.advance(1)
        await one.attempts.settle([an_end(present)])
        return await simulation.history()


async def an_end_is_sent_twice(dsn: str, **options: Any) -> History:
    async with calm(dsn, a_trigger(), **options) as simulation:
        [one] = simulation.replicas
        await pass_time(simulation, DUE)
        await one.step(one.planner)
        [assignment] = await claimed(one)
        for _ in range(2):
            await one.attempts.settle([an_end(assignment)])
        return await simulation.history()


async def a_planner_writes_what_a_peer_has_decided_since(dsn: str, **options: Any) -> History:
    """It stands between its decision and its writing, while a peer decides the same occurrence and the next."""
    async with calm(dsn, a_trigger(), replicas=2, **options) as simulation:
        one, other = simulation.replicas
        await pass_time(simulation, DUE)
        await one.begin_held(one.planner, "materialise", "before")
        assert one.busy is not None
        await other.step(other.planner)
        await pass_time(simulation, DUE)
        await other.step(other.planner)
        await one.let_go()
        return await simulation.history()


async def a_planner_is_cut_off_when_it_has_written(dsn: str, **options: Any) -> History:
    """No statement of it comes through after its first write; a peer goes on."""
    async with calm(dsn, a_trigger(), replicas=2, **options) as simulation:
        one, other = simulation.replicas
        await pass_time(simulation, DUE)
        await one.begin_held(one.planner, "materialise", "after")
        assert one.busy is not None
        one.faults.cut_off = True
        await one.let_go()
        await other.step(other.planner)
        return await simulation.history()


async def two_replicas_claim_of_one_scope(dsn: str, **options: Any) -> History:
    both = [a_trigger(name, overlap=Overlap.QUEUE_ALL, overlap_scope="agent") for name in ("northern", "southern")]
    async with calm(dsn, *both, replicas=2, **options) as simulation:
        one, other = simulation.replicas
        await pass_time(simulation, DUE)
        await one.step(one.planner)
        [first] = await claimed(one)
        second = await claimed(other)
        simulation.time.advance(1)
        await one.attempts.settle([an_end(first)])
        await other.attempts.settle([an_end(assignment) for assignment in second])
        return await simulation.history()
