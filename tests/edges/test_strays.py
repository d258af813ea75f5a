"""Runs that are a process's by the database, and that it does not have: given back as soon as that is certain."""

from uuid import UUID

import pytest

from tests.edges.wiring import Process, a_control, a_hub, a_process
from tests.engine.building import PATIENCE, a_trigger, eventually
from tocsin.clock import SystemClock
from tocsin.domain.agent import OnLost
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control
from tocsin.store.attempts import Attempts, Quota
from tocsin.store.leases import Incarnation
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio

AT_ONCE = 2.0 * PATIENCE


async def a_run(control: Control, process: Process) -> pb.Assignment:
    """One run in the hands of a process that has been welcomed."""
    await process.credit(1)
    await control.fire("t")
    (run,) = await process.assigned()
    return run


@pytest.mark.parametrize("on_lost", list(OnLost))
async def test_what_a_process_does_not_bring_along_is_given_back_as_it_comes(dsn: str, on_lost: OnLost) -> None:
    """It was on its way when the stream ended, or was let go when the lease had run out: no beat need be waited for."""
    async with a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW), on_lost=on_lost) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as process:
            welcome = await process.hello()
            kept, gone = await a_run(control, process), await a_run(control, process)
        async with Process(hub.address, instance_id=process.id, beats=False) as again:
            again.held[kept.run_id] = pb.Held(run_id=kept.run_id, fence=1)
            back = await again.hello(held=list(again.held.values()), last_stream=welcome.stream)
            assert [one.run_id for one in back.valid] == [kept.run_id]

            async def is_given_back() -> bool:
                return bool((await control.run(UUID(gone.run_id)))["state"] != "running")

            await eventually(is_given_back, within=AT_ONCE)
            shown = await control.run(UUID(gone.run_id))
            if on_lost is OnLost.RETRY:
                assert (shown["state"], shown["reason"]) == ("queued", "interrupted")
                await again.credit(1)
                (anew,) = await again.assigned()
                assert (anew.run_id, anew.fence, anew.attempt) == (gone.run_id, 2, 1)
            else:
                assert (shown["state"], shown["reason"]) == ("failed", "lost")
            assert not (await again.finish(kept))[0].fenced


async def test_a_claim_whose_answer_was_lost_is_given_back_after_ten_seconds(dsn: str) -> None:
    """Neither the process nor the hub that it is connected to knows of it."""
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (hub, process):
        await process.hello()
        fired = await control.fire("t")
        who = Incarnation("lost", actor=f"instance:{process.id}", holder=UUID(process.id))
        claims = Attempts(database=hub.replica.database, clock=SystemClock(), who=who)
        assert len((await claims.claim([Quota("agent", "live", 1)], free=1)).assignments) == 1
        await process.credit(1)
        (run,) = await process.assigned()
        assert (run.run_id, run.fence, run.attempt) == (str(fired["id"]), 2, 1)
