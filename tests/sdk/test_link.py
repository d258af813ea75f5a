"""Streams that end: what goes on, what is told anew, and when a process is somebody else."""

import time
from collections.abc import Callable

import grpc
import pytest

from tests.sdk.conftest import Agents
from tests.sdk.scripted import ScriptedHub, an_assignment, held, seconds
from tocsin.domain.errors import BadInput, Refused
from tocsin.sdk.dial import Access
from tocsin.v1 import agent_pb2 as pb

Start = Callable[..., Agents]
Code = grpc.StatusCode


def test_a_key_is_shown_to_the_hub(hub: ScriptedHub, start: Start) -> None:
    start(access=Access(key="secret"))
    assert hub.stream().metadata["authorization"] == "Bearer secret"


def test_a_result_is_told_on_each_stream_until_it_is_answered(hub: ScriptedHub, start: Start) -> None:
    start()
    first = hub.stream().welcome()
    run = an_assignment(input=b"1")
    first.assign(run)
    first.result_of(run)
    first.end(Code.UNAVAILABLE, "restarting")
    second = hub.stream(2)
    assert [each.run_id for each in second.hello.held] == [run.run_id]
    assert second.hello.instance_id == first.hello.instance_id
    second.quiet("finished", 0.1)
    second.welcome(valid=[held(run)])
    assert second.result_of(run).succeeded == b"1"
    second.settle(run)
    second.credits(4)
    second.end()
    third = hub.stream(3).welcome()
    assert not third.hello.held
    third.quiet("finished")


def test_work_goes_on_without_a_hub_and_its_end_is_told_later(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream().welcome()
    run = an_assignment("brief")
    first.assign(run)
    first.expect("begun")
    port = hub.port
    hub.close()
    agents.log.wait_for("run.ended", run_id=run.run_id, outcome="succeeded")
    again = ScriptedHub(port)
    try:
        second = again.stream()
        second.welcome(valid=[held(run)])
        assert second.result_of(run).succeeded == b'"done"'
    finally:
        again.close()


def test_what_a_welcome_fences_stops_and_the_rest_goes_on(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream().welcome()
    kept, taken, told = an_assignment("brief"), an_assignment("endless"), an_assignment()
    first.assign(kept, taken, told)
    first.result_of(told)
    first.end()
    second = hub.stream(2)
    assert {each.run_id for each in second.hello.held} == {run.run_id for run in (kept, taken, told)}
    second.welcome(valid=[held(kept)], fenced=[held(taken), held(told)])
    agents.log.wait_for("run.ended", run_id=taken.run_id, stop="fenced")
    assert second.result_of(kept).succeeded == b'"done"'
    assert [result.run_id for result in second.results] == [kept.run_id]


def test_credit_begins_anew_with_each_stream(hub: ScriptedHub, start: Start) -> None:
    start(slots=3)
    first = hub.stream().welcome()
    first.credits(3)
    run = an_assignment("endless")
    first.assign(run)
    first.expect("begun")
    first.end()
    second = hub.stream(2).welcome(valid=[held(run)])
    second.credits(2)


def test_a_lost_instance_goes_on_as_another_with_nothing_in_hand(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream().welcome()
    running, ended = an_assignment("endless"), an_assignment()
    first.assign(running, ended)
    first.result_of(ended)
    first.end()
    hub.stream(2).refuse(Code.FAILED_PRECONDITION, "the instance was declared lost")
    second = hub.stream(3)
    assert second.hello.instance_id != first.hello.instance_id
    assert not second.hello.held
    agents.log.wait_for("run.ended", run_id=running.run_id, stop="fenced")
    second.welcome().credits(4)
    second.quiet("finished")


@pytest.mark.parametrize("code", [Code.ALREADY_EXISTS, Code.UNAVAILABLE, Code.CANCELLED, Code.UNIMPLEMENTED])
def test_what_may_pass_is_tried_again(hub: ScriptedHub, start: Start, code: grpc.StatusCode) -> None:
    start()
    hub.stream().refuse(code, "not now")
    hub.stream(2).refuse(code, "not now")
    hub.stream(3).welcome().credits(4)
    assert hub.stream(3).hello.instance_id == hub.stream(1).hello.instance_id


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.UNAUTHENTICATED, Refused),
        (Code.PERMISSION_DENIED, Refused),
        (Code.NOT_FOUND, Refused),
        (Code.FAILED_PRECONDITION, Refused),
        (Code.INVALID_ARGUMENT, BadInput),
    ],
)
def test_a_refusal_at_first_ends_the_process(
    hub: ScriptedHub, start: Start, code: grpc.StatusCode, error: type[Exception]
) -> None:
    agents = start()
    hub.stream().refuse(code, "because of this")
    with pytest.raises(error, match="because of this"):
        agents.end()


def test_a_refusal_later_is_no_reason_to_end(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    hub.stream().welcome().credits(4)
    hub.stream().end()
    hub.stream(2).refuse(Code.UNAUTHENTICATED, "the key has been changed")
    agents.log.wait_for("agent.refused", code="UNAUTHENTICATED", error="the key has been changed")
    hub.stream(3).welcome().credits(4)


def test_a_hub_that_leaves_sends_us_to_another(start: Start) -> None:
    hubs = (ScriptedHub(), ScriptedHub())
    try:
        agents = start(*hubs)
        agents_first = next(each for each in _both(hubs))
        other = hubs[1] if agents_first is hubs[0] else hubs[0]
        first = agents_first.stream().welcome()
        first.credits(4)
        run = an_assignment("brief")
        first.assign(run)
        first.expect("begun")
        first.say(leaving=pb.Leaving(within=seconds(0.1), reason="restart"))
        second = other.stream()
        assert [each.run_id for each in second.hello.held] == [run.run_id]
        second.welcome(valid=[held(run)])
        assert second.result_of(run).succeeded == b'"done"'
        agents.log.wait_for("agent.moving", reason="restart")
        # What was in hand was not touched, and the old stream got no further credit.
        assert sum(credit.runs for credit in first.all("credit")) == 4
    finally:
        for each in hubs:
            each.close()


def _both(hubs: tuple[ScriptedHub, ScriptedHub]) -> list[ScriptedHub]:
    """The hub that was connected to."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        found = [each for each in hubs if each.streams]
        if found:
            return found
        with hubs[0].come:
            hubs[0].come.wait(0.02)
    raise AssertionError("no hub was connected to")


def test_a_hub_that_is_leaving_gets_no_more_credit(hub: ScriptedHub, start: Start) -> None:
    start(slots=1)
    first = hub.stream().welcome()
    first.credits(1)
    run = an_assignment()
    first.say(leaving=pb.Leaving(within=seconds(600)))
    first.assign(run)
    first.result_of(run)
    first.settle(run)
    first.quiet("credit", count=1)


def test_an_assignment_of_a_former_stream_is_not_begun(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream().welcome()
    first.credits(4)
    stopper, late = an_assignment("blocking", input=b"0.5"), an_assignment()
    first.assign(stopper)
    first.expect("begun")
    # The agents' loop stands still: it learns of this assignment when the next stream has said what is held.
    first.assign(late)
    first.end()
    second = hub.stream(2)
    assert [each.run_id for each in second.hello.held] == [stopper.run_id]
    second.welcome(valid=[held(stopper)])
    assert second.result_of(stopper).succeeded == b'"awake"'
    second.credits(4)
    second.quiet("finished", count=1)
    assert all(line.get("run_id") != late.run_id for line in agents.log.events)
