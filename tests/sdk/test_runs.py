"""Runs over the wire: assigned, begun, ended as they ended, stopped as they are asked to."""

import json
from collections.abc import Callable
from uuid import UUID

import pytest

from tests.sdk.conftest import Agents
from tests.sdk.scripted import ScriptedHub, an_assignment, held, seconds
from tocsin.v1 import agent_pb2 as pb

Start = Callable[..., Agents]


def test_a_process_says_what_it_can_and_asks_for_as_much_as_it_has_slots(hub: ScriptedHub, start: Start) -> None:
    start(slots=7, name="mine", labels={"zone": "a"})
    stream = hub.stream()
    hello = stream.hello
    assert (hello.protocol, hello.name, hello.slots, dict(hello.labels)) == (1, "mine", 7, {"zone": "a"})
    assert UUID(hello.instance_id).version == 4
    assert {"echo", "endless"} <= set(hello.agents)
    assert not hello.held
    assert stream.all("credit") == []
    stream.welcome()
    stream.credits(7)


def test_a_run_is_begun_and_ends_with_its_output(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment(input=b'{"a": [1, null]}')
    stream.assign(run)
    result = stream.result_of(run)
    assert json.loads(result.succeeded) == {"a": [1, None]}
    assert result.fence == 1
    assert [each.run_id for begun in stream.all("begun") for each in begun.runs] == [run.run_id]
    assert stream.kinds.index("begun") < stream.kinds.index("finished")


def test_an_agent_is_told_all_that_the_wire_tells(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment("plain_told", fence=5, attempt=2, last=pb.LastRun(id="x", output=b'"before"'))
    stream.assign(run)
    assert json.loads(stream.result_of(run).succeeded) == {
        "key": "once",
        "fence": 5,
        "attempt": 2,
        "nominal_at": "2026-03-01T12:00:00+00:00",
        "last": "before",
        "thread": True,
    }


def test_each_kind_of_end_is_told_as_it_is(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    odd, fatal, later = (an_assignment("failing", input=json.dumps(how).encode()) for how in ("odd", "fatal", "later"))
    unknown = an_assignment("nobody")
    stream.assign(odd, fatal, later, unknown)
    failed = stream.result_of(odd).failed
    assert (failed.kind, failed.message, failed.final) == ("ValueError", "odd", False)
    assert "ValueError: odd" in stream.result_of(odd).log
    assert stream.result_of(fatal).failed.final
    assert (stream.result_of(later).postponed.delay.seconds, stream.result_of(later).postponed.reason) == (7, "busy")
    assert stream.result_of(unknown).failed.kind == "UnknownAgent"


def test_what_ends_together_is_told_together(hub: ScriptedHub, start: Start) -> None:
    start(slots=50)
    stream = hub.stream().welcome()
    runs = [an_assignment() for _ in range(50)]
    stream.assign(*runs)
    for run in runs:
        stream.result_of(run)
    assert len(stream.all("begun")) <= 2
    assert len(stream.all("finished")) <= 2


def test_a_result_that_no_message_holds_fails_for_good(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome(max_message_bytes=10_000)
    run = an_assignment(input=json.dumps("x" * 20_000).encode())
    stream.assign(run)
    assert stream.result_of(run).failed.kind == "PayloadTooLarge"
    assert stream.result_of(run).failed.final


def test_reports_are_told_now_and_then_and_the_last_of_them_before_the_end(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment("telling")
    stream.assign(run)
    result = stream.result_of(run)
    reports = stream.all("report")
    # Half a second of work that reports 400 times.
    assert 2 <= len(reports) <= 8
    assert (reports[-1].progress, reports[-1].fraction) == ("step 199", 0.995)
    assert json.loads(result.usage) == [{"model": "m", "input_tokens": 200, "output_tokens": 0}]
    assert result.log == "a line"
    (follow_up,) = result.follow_ups
    assert (follow_up.after.seconds, follow_up.input) == (60, b'{"again":true}')


def test_a_cancelled_run_stops_and_says_so(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment("endless")
    stream.assign(run)
    stream.expect("begun")
    stream.say(cancel=pb.Cancel(run_id=run.run_id, fence=1, reason="cancelled", within=seconds(5)))
    assert stream.result_of(run).WhichOneof("outcome") == "stopped"


def test_a_cancel_under_another_fence_changes_nothing(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment("endless", fence=3)
    stream.assign(run)
    stream.expect("begun")
    stream.say(cancel=pb.Cancel(run_id=run.run_id, fence=2, reason="cancelled", within=seconds(0)))
    stream.quiet("finished")


def test_an_agent_that_will_not_stop_is_left_behind(hub: ScriptedHub, start: Start) -> None:
    start(slots=1)
    stream = hub.stream().welcome()
    stream.credits(1)
    run = an_assignment("deaf")
    stream.assign(run)
    stream.expect("begun")
    stream.say(cancel=pb.Cancel(run_id=run.run_id, fence=1, reason="cancelled", within=seconds(0.1)))
    assert stream.result_of(run).WhichOneof("outcome") == "stopped"
    # Its slot is free again, whatever it still does.
    stream.credits(2)


def test_a_fenced_run_stops_without_a_word(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    run = an_assignment("endless")
    stream.assign(run)
    stream.expect("begun")
    stream.say(cancel=pb.Cancel(run_id=run.run_id, fence=1, reason="fenced"))
    agents.log.wait_for("run.ended", run_id=run.run_id, stop="fenced")
    stream.expect("beat", where=lambda beat: not beat.held)
    stream.quiet("finished")


@pytest.mark.parametrize("limit", ["time_left", "due_by"])
def test_a_run_past_its_limit_is_stopped_here_too(hub: ScriptedHub, start: Start, limit: str) -> None:
    agents = start()
    stream = hub.stream().welcome()
    run = an_assignment("endless")
    if limit == "time_left":
        run.time_left.CopyFrom(seconds(0.2))
    else:
        run.due_by.FromJsonString("2026-03-01T12:00:00.200Z")
    stream.assign(run)
    assert stream.result_of(run).WhichOneof("outcome") == "stopped"
    agents.log.wait_for("run.ended", run_id=run.run_id, stop="timeout")


def test_a_higher_fence_takes_the_run_from_the_lower_one(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    first = an_assignment("endless")
    second = an_assignment("echo", run_id=first.run_id, fence=2, input=b"2")
    stream.assign(first)
    stream.expect("begun")
    stream.assign(second, first)
    assert stream.result_of(second).fence == 2
    agents.log.wait_for("run.ended", run_id=first.run_id, fence=1, stop="fenced")
    stream.quiet("finished", count=1)
    assert len(stream.results) == 1


def test_a_run_that_goes_on_has_its_slot(hub: ScriptedHub, start: Start) -> None:
    start(slots=2)
    stream = hub.stream().welcome()
    stream.credits(2)
    run = an_assignment()
    stream.assign(an_assignment("endless"), run)
    stream.result_of(run)
    stream.settle(run)
    stream.credits(3)
    stream.quiet("credit", count=2)


def test_what_is_fenced_leaves_no_trace(hub: ScriptedHub, start: Start) -> None:
    start(slots=1)
    stream = hub.stream().welcome()
    for number in range(1, 4):
        stream.credits(number)
        run = an_assignment("endless")
        stream.assign(run)
        stream.expect("begun", number)
        stream.say(cancel=pb.Cancel(run_id=run.run_id, fence=1, reason="fenced"))
    stream.credits(4)


def test_credit_ends_where_answers_do_not_come(hub: ScriptedHub, start: Start) -> None:
    start(slots=3)
    stream = hub.stream().welcome()
    stream.credits(3)
    first = [an_assignment() for _ in range(3)]
    stream.assign(*first)
    stream.credits(6)
    stream.assign(*(an_assignment() for _ in range(3)))
    stream.wait(lambda: len(stream.results) == 6, "six results")
    # Six ends wait for their answers: twice the slots. No more is taken.
    stream.quiet("credit", count=len(stream.all("credit")))
    stream.credits(6)
    for run in first:
        stream.settle(run)
    stream.credits(9)


def test_what_is_answered_is_in_hand_no_more(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome()
    run = an_assignment()
    stream.assign(run)
    stream.result_of(run)
    stream.expect("beat", where=lambda beat: [each.run_id for each in beat.held] == [run.run_id])
    stream.settle(run)
    seen = len(stream.all("beat"))
    stream.expect("beat", count=seen + 2)
    assert not stream.all("beat")[-1].held
    stream.say(cancel=pb.Cancel(run_id=held(run).run_id, fence=1, reason="cancelled"))
    stream.quiet("finished", count=1)
