"""A process connects, is given work by credit, and what it says is settled: on a real stream and a real database."""

import asyncio
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.edges.wiring import Process, a_control, a_hub, a_process
from tests.engine.building import SECOND, a_trigger, eventually
from tocsin.domain.agent import OnLost
from tocsin.domain.trigger import Overlap
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio


async def test_a_run_goes_out_and_its_result_is_settled(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t", input={"page": 1})) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as process:
            welcome = await process.hello()
            assert (welcome.protocol, welcome.stream) == (1, 1)
            await process.credit(1)
            fired = await control.fire("t")
            (run,) = await process.assigned()
            assert (run.run_id, run.fence, run.attempt, run.input) == (str(fired["id"]), 1, 1, b'{"page": 1}')
            await process.say(report=pb.Report(run_id=run.run_id, fence=1, progress="half", fraction=0.5))
            (verdict,) = await process.finish(run, succeeded=b'{"ok": true}', usage='[{"model": "m", "cost_usd": 2}]')
            assert not verdict.fenced
        shown = await control.run(UUID(run.run_id))
        assert (shown["state"], shown["output"]) == ("succeeded", {"ok": True})
        assert shown["attempts"][0]["usage"] == [{"model": "m", "cost_usd": 2}]
        assert shown["transitions"][1]["actor"] == f"instance:{process.id}"


async def test_nothing_is_assigned_beyond_the_credit(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control,
        a_hub(dsn) as hub,
        Process(hub.address) as process,
    ):
        await process.hello()
        await process.credit(2)
        for _ in range(5):
            await control.fire("t")
        runs = await process.assigned(2)
        await process.none("assign", within=0.8)
        await process.finish(*runs)
        await process.none("assign", within=0.5)
        await process.credit(3)
        assert len(await process.assigned(3)) == 3


async def test_work_is_shared_between_instances_of_one_agent(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control,
        a_hub(dsn) as hub,
        Process(hub.address) as one,
        Process(hub.address) as two,
    ):
        for process in (one, two):
            await process.hello()
            await process.credit(2)
        for _ in range(4):
            await control.fire("t")
        got = await asyncio.gather(one.assigned(2), two.assigned(2))
        assert len({run.run_id for runs in got for run in runs}) == 4


async def test_an_agents_limit_holds_over_all_instances(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW), concurrency=1) as control,
        a_hub(dsn) as hub,
        Process(hub.address) as one,
        Process(hub.address) as two,
    ):
        for process in (one, two):
            await process.hello()
            await process.credit(2)
        for _ in range(3):
            await control.fire("t")
        await asyncio.sleep(1)
        running = [run for run in await control.runs(limit=10) if run["state"] == "running"]
        assert len(running) == 1


@pytest.mark.parametrize(
    ("outcome", "state", "error"),
    [
        ({"failed": pb.Failure(kind="ValueError", message="no luck")}, "failed", "ValueError: no luck"),
        ({"postponed": pb.Postponed(reason="later")}, "queued", None),
        ({"succeeded": b"not JSON"}, "failed", "NonJSONResult"),
        ({"succeeded": b""}, "succeeded", None),
    ],
)
async def test_outcomes(dsn: str, outcome: dict[str, Any], state: str, error: str | None) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        if state == "queued":
            outcome["postponed"].delay.FromSeconds(60)
        await process.finish(run, **outcome)
        shown = await control.run(UUID(run.run_id))
        assert shown["state"] == state
        assert error is None or error in str(shown["error"])


async def test_a_cancel_reaches_the_process(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        await process.beat()
        await control.cancel_run(UUID(run.run_id))
        await process.beat()
        cancel = (await process.next("cancel")).cancel
        assert (cancel.run_id, cancel.fence, cancel.reason) == (run.run_id, 1, "cancelled")
        await process.finish(run, stopped=pb.Stopped())
        assert (await control.run(UUID(run.run_id)))["state"] == "cancelled"


async def test_an_attempt_that_takes_too_long_is_asked_to_stop(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t"), timeout=SECOND / 2) as control,
        a_hub(dsn) as hub,
        Process(hub.address) as process,
    ):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        assert 0 < run.time_left.ToTimedelta().total_seconds() <= 0.5
        assert (await process.next("cancel")).cancel.reason == "timeout"
        await process.finish(run, stopped=pb.Stopped())
        assert (await control.run(UUID(run.run_id)))["reason"] == "timeout"


async def test_a_result_of_another_fence_is_fenced(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        forged = pb.Assignment(run_id=run.run_id, fence=2)
        (verdict,) = await process.finish(forged, succeeded=b"1")
        assert verdict.fenced
        assert (await control.run(UUID(run.run_id)))["state"] == "running"


async def test_a_result_of_a_run_that_its_stream_does_not_know_is_fenced(dsn: str) -> None:
    """A process that leaves a run out of its Hello has let it go."""
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as process:
            welcome = await process.hello()
            await process.credit(1)
            await control.fire("t")
            (run,) = await process.assigned()
        async with Process(hub.address, instance_id=process.id) as again:
            await again.hello(last_stream=welcome.stream)
            assert (await again.finish(run, succeeded=b"1"))[0].fenced


async def test_a_stream_that_its_process_ends_is_heard_to_its_last_word(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        process.frozen = True
        result = pb.Result(run_id=run.run_id, fence=run.fence, succeeded=b"1")
        await process.say(finished=pb.Finished(results=[result]))
        await process.call.done_writing()
        assert not (await process.next("settled")).settled.verdicts[0].fenced
        assert await process.code() is grpc.StatusCode.OK
        assert (await control.run(UUID(run.run_id)))["state"] == "succeeded"


async def test_a_run_that_does_not_stop_is_closed_and_its_process_told(dsn: str) -> None:
    async with (
        a_control(dsn, a_trigger("t"), cancel_within=SECOND / 2) as control,
        a_process(dsn) as (_, process),
    ):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        await control.cancel_run(UUID(run.run_id))
        assert (await process.next("cancel")).cancel.within.ToTimedelta() == SECOND / 2
        (verdict,) = (await process.next("settled")).settled.verdicts
        assert (verdict.run_id, verdict.fenced) == (run.run_id, False)
        assert (await process.finish(run, succeeded=b"1"))[0].fenced


async def test_a_result_that_comes_twice_is_settled_once_and_answered_alike(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        assert not (await process.finish(run, succeeded=b"1"))[0].fenced
        assert not (await process.finish(run, succeeded=b"1"))[0].fenced
        assert (await process.finish(run, succeeded=b"2"))[0].fenced
        assert (await control.run(UUID(run.run_id)))["output"] == 1


async def test_a_success_that_asks_for_what_cannot_be_had_fails_for_good_and_ends_nothing_else(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(3)
        for _ in range(3):
            await control.fire("t")
        first, second, third = await process.assigned(3)
        never = pb.FollowUp(input=b"{", after=Duration(seconds=1))
        assert not (await process.finish(first, succeeded=b"1", follow_ups=[never]))[0].fenced
        assert not (await process.finish(second, succeeded=b"1", follow_ups=[pb.FollowUp()] * 101))[0].fenced
        assert not (await process.finish(third, succeeded=b"1"))[0].fenced
        shown = [await control.run(UUID(run.run_id)) for run in (first, second, third)]
        assert [(run["state"], run["reason"]) for run in shown] == [("failed", "fatal")] * 2 + [("succeeded", None)]
        assert "input of a scheduled run" in shown[0]["error"]
        assert "follow-ups" in shown[1]["error"]


@pytest.mark.parametrize("outcome", [{"succeeded": b"1"}, {"failed": pb.Failure(kind="ValueError", message="no")}])
async def test_a_result_whose_answer_was_lost_is_answered_on_the_next_stream(dsn: str, outcome: Any) -> None:
    trigger = a_trigger("t", overlap=Overlap.ALLOW)
    async with a_control(dsn, trigger) as control, a_hub(dsn) as hub, a_hub(dsn) as other:
        async with Process(hub.address) as process:
            welcome = await process.hello()
            await process.credit(2)
            await control.fire("t")
            await control.fire("t")
            taken, cancelled = await process.assigned(2)
            await process.finish(taken, **outcome)
            await control.cancel_run(UUID(cancelled.run_id))
            await process.next("cancel")
        held = [pb.Held(run_id=run.run_id, fence=run.fence) for run in (taken, cancelled)]
        async with Process(other.address, instance_id=process.id) as again:
            anew = await again.hello(held=held, last_stream=welcome.stream)
            assert (list(anew.valid), list(anew.fenced)) == ([held[1]], [])
            (verdict,) = (await again.next("settled")).settled.verdicts
            assert (verdict.run_id, verdict.fenced) == (taken.run_id, False)


@pytest.mark.parametrize(
    ("first", "code", "word"),
    [
        (pb.FromAgent(credit=pb.Credit(runs=1)), grpc.StatusCode.INVALID_ARGUMENT, "hello"),
        (
            pb.FromAgent(hello=pb.Hello(protocol=9, instance_id="x", agents=["agent"], slots=1)),
            grpc.StatusCode.FAILED_PRECONDITION,
            "protocol 9",
        ),
        (
            pb.FromAgent(hello=pb.Hello(protocol=1, instance_id="x", agents=["agent"], slots=1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "instance_id",
        ),
        (
            pb.FromAgent(hello=pb.Hello(protocol=1, instance_id="5" * 32, agents=["nobody"], slots=1)),
            grpc.StatusCode.NOT_FOUND,
            "tocsin sync",
        ),
        (
            pb.FromAgent(hello=pb.Hello(protocol=1, instance_id="5" * 32, agents=["agent"], slots=0)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "slots",
        ),
    ],
)
async def test_a_bad_beginning_says_why(dsn: str, first: pb.FromAgent, code: grpc.StatusCode, word: str) -> None:
    async with a_control(dsn, a_trigger("t")), a_hub(dsn) as hub, Process(hub.address) as process:
        await process.call.write(first)
        assert await process.code() is code
        assert word in await process.call.details()


async def test_a_goodbye_gives_back_what_was_not_ended(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub:
        async with Process(hub.address) as process:
            await process.hello()
            await process.credit(1)
            await control.fire("t")
            (run,) = await process.assigned()
            await process.say(goodbye=pb.Goodbye(returned=[pb.Held(run_id=run.run_id, fence=run.fence)]))
            assert await process.code() is grpc.StatusCode.OK
        async with Process(hub.address) as other:
            await other.hello()
            await other.credit(1)
            (again,) = await other.assigned()
            assert (again.run_id, again.fence, again.attempt) == (run.run_id, 2, 1)
        assert (await control.roster.instance(process.id))["state"] == "left"


async def test_who_drains_takes_nothing_more(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (hub, process):
        await process.hello()
        await process.credit(5)
        await process.say(draining=pb.Draining())
        await eventually(lambda: hub.log.count("instance.draining"))
        await control.fire("t")
        await process.none("assign", within=0.6)
        assert (await control.roster.instance(process.id))["state"] == "draining"


async def test_who_stops_at_its_own_timer_has_timed_out(dsn: str) -> None:
    """Its clock may be ahead of the hub's: nobody has asked it to stop yet."""
    async with a_control(dsn, a_trigger("t"), timeout=SECOND) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        await asyncio.sleep(0.6)
        await process.finish(run, stopped=pb.Stopped())
        shown = await control.run(UUID(run.run_id))
        assert (shown["state"], shown["reason"]) == ("failed", "timeout")


async def test_what_a_process_has_let_go_is_not_begun_again_if_it_may_be_begun_once_only(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t"), on_lost=OnLost.FAIL) as control, a_process(dsn) as (_, process):
        await process.hello()
        await process.credit(1)
        fired = await control.fire("t")
        run_id = UUID(str(fired["id"]))

        async def has_ended() -> bool:
            return (await control.run(run_id))["finished_at"] is not None

        (run,) = await process.assigned()
        # As if the hub that has assigned it were another one.
        process.held.clear()
        await process.say(goodbye=pb.Goodbye())
        await eventually(has_ended)
        shown = await control.run(UUID(run.run_id))
        assert (shown["state"], shown["reason"]) == ("failed", "lost")


async def test_who_serves_an_agent_is_known(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_process(dsn) as (_, process):
        nobody = "No live replica or instance serves agent 'agent'"
        assert nobody in " ".join((await control.why("t"))["standing"])
        await process.hello()
        assert (await control.agent("agent"))["instances"] == [f"p-{process.id[:4]}"]
        assert nobody not in " ".join((await control.why("t"))["standing"])


async def test_lines_come_as_they_are_said_and_a_result_adds_what_is_missing(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        await process.credit(1)
        fired = await control.fire("t")
        (run,) = await process.assigned()

        async def log() -> str | None:
            attempts = (await control.run(fired["id"]))["attempts"]
            return attempts[0]["log"] if attempts else None

        async def is_there(text: str) -> bool:
            return await log() == text

        await process.say(report=pb.Report(run_id=run.run_id, fence=1, log="one"))
        await eventually(partial(is_there, "one"))
        for more, log_from in (("\n\N{MUSICAL SYMBOL G CLEF}\0", 3), ("\n\N{MUSICAL SYMBOL G CLEF}\0", 3), ("gap", 9)):
            await process.say(report=pb.Report(run_id=run.run_id, fence=1, log=more, log_from=log_from))
        await eventually(partial(is_there, "one\n\N{MUSICAL SYMBOL G CLEF}\N{REPLACEMENT CHARACTER}"))
        await process.finish(run, succeeded=b"1", log="one\n\N{MUSICAL SYMBOL G CLEF}\0\nthree")
        assert await log() == "one\n\N{MUSICAL SYMBOL G CLEF}\N{REPLACEMENT CHARACTER}\nthree"


async def test_a_result_without_lines_leaves_those_that_were_said(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        await process.credit(1)
        fired = await control.fire("t")
        (run,) = await process.assigned()
        await process.say(report=pb.Report(run_id=run.run_id, fence=1, log="one"))
        await process.finish(run)
        assert (await control.run(fired["id"]))["attempts"][0]["log"] == "one"
