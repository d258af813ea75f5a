"""Silence in two stages, streams that end and begin again, and hubs that leave: nothing is lost, doubled or harmed."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

import grpc
import pytest

from tests.edges.wiring import Process, a_control, a_hub, a_process
from tests.engine.building import SECOND, a_trigger, eventually
from tocsin.domain.agent import OnLost
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio


async def a_run(control: Control, process: Process) -> pb.Assignment:
    """One run in the hands of a process that has been welcomed."""
    await process.credit(1)
    await control.fire("t")
    (run,) = await process.assigned()
    return run


async def state_of(control: Control, process: Process) -> str:
    return str((await control.roster.instance(process.id))["state"])


async def test_a_beat_is_answered_and_renews_the_lease(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn, beats=False) as (_, process):
        await process.hello()
        before = (await control.roster.instance(process.id))["heard_at"]
        seq = await process.beat()
        assert (await process.next("beat_taken")).beat_taken.seq == seq
        assert (await control.roster.instance(process.id))["heard_at"] > before


async def test_who_is_silent_is_probed_and_given_nothing_and_keeps_what_it_has(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control, a_process(dsn) as (hub, process):
        await process.hello()
        run = await a_run(control, process)
        process.frozen = True
        await process.next("probe")
        await process.credit(1)
        await control.fire("t")
        await process.none("assign", within=0.4)
        assert await state_of(control, process) == "suspect"
        # It wakes up: nothing has happened to its run, and the other comes.
        process.frozen = False
        await process.beat()
        await process.assigned()
        assert hub.log.count("instance.alive") == 1
        assert not (await process.finish(run))[0].fenced
        assert (await control.run(UUID(run.run_id)))["fence"] == 1


async def test_who_is_silent_for_too_long_loses_its_runs_and_its_late_word_is_nothing(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as silent, Process(hub.address) as other:
            await silent.hello()
            await other.hello()
            run = await a_run(control, silent)
            silent.frozen = True
            await other.credit(1)
            (again,) = await other.assigned()
            assert (again.run_id, again.fence) == (run.run_id, 2)
            assert await state_of(control, silent) == "lost"
            await silent.beat()
            assert await silent.code() is grpc.StatusCode.ABORTED
            assert not (await other.finish(again, succeeded=b'"other"'))[0].fenced
        # Its id is burnt.
        async with Process(hub.address, instance_id=silent.id) as back:
            await back.say(hello=pb.Hello(instance_id=silent.id, agents=["agent"], slots=1, protocol=1))
            assert await back.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await control.run(UUID(run.run_id)))["output"] == "other"


async def test_a_run_that_may_not_be_repeated_is_closed_when_its_process_is_lost(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t"), on_lost=OnLost.FAIL) as control, a_process(dsn) as (_, process):
        await process.hello()
        run = await a_run(control, process)
        process.frozen = True

        async def has_failed() -> bool:
            return bool((await control.run(UUID(run.run_id)))["state"] == "failed")

        await eventually(has_failed)
        assert (await control.run(UUID(run.run_id)))["reason"] == "lost"


async def test_a_stream_that_ends_and_comes_again_costs_nothing(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as process:
            welcome = await process.hello()
            run = await a_run(control, process)

        async def is_suspect() -> bool:
            return await state_of(control, process) == "suspect"

        await eventually(is_suspect)
        async with Process(hub.address, instance_id=process.id) as again:
            held = pb.Held(run_id=run.run_id, fence=run.fence)
            again.held[run.run_id] = held
            back = await again.hello(held=[held], last_stream=welcome.stream)
            assert [(one.run_id, one.fence) for one in back.valid] == [(run.run_id, 1)]
            assert not (await again.finish(run, succeeded=b"7"))[0].fenced
        shown = await control.run(UUID(run.run_id))
        assert (shown["state"], shown["fence"], shown["output"]) == ("succeeded", 1, 7)


async def test_a_hub_that_has_just_begun_knows_what_is_left_of_a_limit_that_is_brought_along(dsn: str) -> None:
    """Without the database's time it would hold every such run to be over its limit."""
    async with a_hub(dsn) as hub:
        assert hub.replica.house.time.now() is not None


async def test_runs_move_to_another_replica_with_their_process(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as second, AsyncExitStack() as stack:
        async with a_hub(dsn) as first:
            process = await stack.enter_async_context(Process(first.address))
            welcome = await process.hello()
            run = await a_run(control, process)
        # The first hub has drained: it said so, and has not touched the run.
        assert (await process.next("leaving")).leaving.reason
        assert await process.code() is grpc.StatusCode.UNAVAILABLE
        assert (await control.run(UUID(run.run_id)))["state"] == "running"
        async with Process(second.address, instance_id=process.id) as there:
            held = pb.Held(run_id=run.run_id, fence=run.fence)
            there.held[run.run_id] = held
            back = await there.hello(held=[held], last_stream=welcome.stream)
            assert len(back.valid) == 1
            await control.cancel_run(UUID(run.run_id))
            assert (await there.next("cancel")).cancel.reason == "cancelled"
            await there.finish(run, stopped=pb.Stopped())
        assert (await control.run(UUID(run.run_id)))["state"] == "cancelled"


async def test_a_second_stream_of_one_id_is_refused_while_the_first_lives(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")), a_hub(dsn) as hub, a_hub(dsn) as other, Process(hub.address) as process:
        await process.hello()
        for address in (hub.address, other.address):
            async with Process(address, instance_id=process.id) as clone:
                await clone.say(hello=pb.Hello(instance_id=process.id, agents=["agent"], slots=1, protocol=1))
                assert await clone.code() is grpc.StatusCode.ALREADY_EXISTS
        await process.beat()
        await process.next("beat_taken")


async def test_who_knows_the_latest_stream_takes_over_from_it(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t")) as control,
        a_hub(dsn) as hub,
        a_hub(dsn) as other,
        Process(hub.address) as process,
        Process(other.address, instance_id=process.id) as moved,
    ):
        welcome = await process.hello()
        run = await a_run(control, process)
        held = pb.Held(run_id=run.run_id, fence=run.fence)
        moved.held[run.run_id] = held
        await moved.hello(held=[held], last_stream=welcome.stream)
        # What comes over the older stream renews nothing, and ends it.
        # Its own write may meet the end of the stream, which the client calls INTERNAL.
        assert await process.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL)
        assert not (await moved.finish(run))[0].fenced


async def test_runs_that_are_not_its_own_any_more_are_named_at_the_welcome(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")), a_process(dsn) as (_, process):
        stranger = pb.Held(run_id="5" * 32, fence=3)
        welcome = await process.hello(held=[stranger])
        assert [one.fence for one in welcome.fenced] == [3]
        assert not welcome.valid


async def test_a_process_whose_loop_stands_still_keeps_its_lease_and_is_given_nothing(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control,
        a_process(dsn, beats=False) as (hub, process),
    ):
        await process.hello()
        run = await a_run(control, process)
        for _ in range(25):
            await process.beat(stalled=True, culprit="agents.py:7 in think")
            await asyncio.sleep(0.25)
        shown = await control.roster.instance(process.id)
        assert (shown["state"], shown["culprit"]) == ("stalled", "agents.py:7 in think")
        assert hub.log.count("instance.stalled") == 1
        await process.credit(1)
        await control.fire("t")
        await process.none("assign", within=0.4)
        await process.beat()
        await process.assigned()
        assert (await control.run(UUID(run.run_id)))["fence"] == 1


async def test_many_beat_in_one_statement_a_second(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")), a_hub(dsn, suspect_after=4, dead_after=20) as hub:
        processes = [Process(hub.address) for _ in range(20)]
        for process in processes:
            await process.__aenter__()
            await process.hello()
        await asyncio.sleep(1)
        sent, calls = hub.replica.statements, hub.replica.database.calls
        await asyncio.sleep(3)
        assert hub.replica.statements - sent < 35, "20 processes cost more than their share of one statement a second"
        assert hub.replica.database.calls > calls
        for process in processes:
            await process.__aexit__()


async def test_a_run_without_progress_is_asked_to_stop_and_one_with_it_is_not(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW), stall_after=SECOND * 1.2) as control,
        a_process(dsn) as (hub, process),
    ):
        await process.hello()
        moving, still = await a_run(control, process), await a_run(control, process)
        for step in range(1, 12):
            process.held[moving.run_id] = pb.Held(run_id=moving.run_id, fence=1, progress=step)
            await asyncio.sleep(0.2)
        cancel = (await process.next("cancel")).cancel
        assert (cancel.run_id, cancel.reason) == (still.run_id, "stalled")
        assert hub.log.count("run.stalled") == 1
        await process.finish(still, stopped=pb.Stopped())
        assert (await control.run(UUID(still.run_id)))["reason"] == "stalled"
        assert (await control.run(UUID(moving.run_id)))["state"] == "running"


async def test_when_all_fall_silent_at_once_it_is_we_who_are_deaf(dsn: str) -> None:
    """Amnesty: nobody is lost until they have been silent twice as long, and somebody is told."""
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(Process(hub.address)) for _ in range(4)]
        for process in processes:
            await process.hello()
        run = await a_run(control, processes[0])
        for process in processes:
            process.frozen = True
        await eventually(lambda: hub.log.count("instances.silent"))
        assert hub.log.count("instance.lost") == 0
        for process in processes:
            process.frozen = False
        await asyncio.sleep(1.5)
        assert not (await processes[0].finish(run))[0].fenced
        assert hub.log.count("instance.lost") == 0


async def test_a_beat_under_a_fence_that_its_run_does_not_have_changes_nothing(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn, beats=False) as (_, process):
        await process.hello()
        run = await a_run(control, process)
        process.held["of the future"] = pb.Held(run_id=run.run_id, fence=run.fence + 7)
        seq = await process.beat()
        while (await process.next("beat_taken")).beat_taken.seq != seq:
            continue
        told = (await process.next("cancel")).cancel
        assert (told.run_id, told.fence, told.reason) == (run.run_id, run.fence + 7, "fenced")
        assert (await control.run(UUID(run.run_id)))["state"] == "running"
        assert not (await process.finish(run))[0].fenced


async def test_who_says_nothing_for_twice_as_long_as_it_may_has_no_stream(dsn: str) -> None:
    """Its transport answers every ping, so nothing else would ever end it."""
    async with (
        a_control(dsn, a_trigger("t")),
        a_hub(dsn, suspect_after=0.5, dead_after=1.5) as hub,
        Process(hub.address) as silent,
        Process(hub.address) as other,
    ):
        await silent.hello()
        await other.hello()
        silent.frozen = True
        assert await silent.code() is grpc.StatusCode.ABORTED
        await other.beat()
        await other.next("beat_taken")
        await eventually(lambda: hub.log.count("instance.disconnected"))
