"""How a process leaves: it finishes what it has, or returns it, and says so."""

import time
from collections.abc import Callable

from tests.sdk.conftest import Agents
from tests.sdk.scripted import ScriptedHub, an_assignment, held
from tocsin.v1 import agent_pb2 as pb

Start = Callable[..., Agents]


def test_an_idle_process_says_goodbye_and_is_gone(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    stream.credits(4)
    agents.leave()
    assert not stream.expect("goodbye").returned
    assert stream.all("draining")
    stream.end()
    assert agents.end() == 0


def test_work_in_hand_is_finished_and_nothing_new_is_taken(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    stream.credits(4)
    run, crossing = an_assignment("brief"), an_assignment()
    stream.assign(run)
    stream.expect("begun")
    given = stream.all("credit")
    agents.leave()
    stream.expect("draining")
    stream.assign(crossing)
    # It had not been begun: back into the queue, uncounted.
    assert stream.result_of(crossing).postponed.reason == "draining"
    stream.settle(crossing)
    assert stream.result_of(run).succeeded == b'"done"'
    beats = len(stream.all("beat"))
    stream.expect("beat", beats + 2)
    assert not stream.all("goodbye")
    stream.settle(run)
    assert not stream.expect("goodbye").returned
    assert len(stream.all("credit")) == len(given)
    stream.end()
    assert agents.end() == 0


def test_an_idle_process_waits_for_what_was_on_its_way_to_it(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    stream.credits(4)
    stream.takes_beats = False
    agents.leave()
    stream.expect("draining")
    stream.wait(lambda: "beat" in stream.kinds[stream.kinds.index("draining") :], "beat behind it")
    behind = stream.all("beat")[-1].seq
    assert not stream.all("goodbye")
    crossing = an_assignment()
    stream.assign(crossing)
    stream.say(beat_taken=pb.BeatTaken(seq=behind))
    assert stream.result_of(crossing).postponed.reason == "draining"
    stream.settle(crossing)
    assert not stream.expect("goodbye").returned
    stream.end()
    assert agents.end() == 0


def test_what_does_not_end_in_time_is_returned(hub: ScriptedHub, start: Start) -> None:
    agents = start(drain=0.2)
    stream = hub.stream().welcome()
    run = an_assignment("endless")
    stream.assign(run)
    stream.expect("begun")
    agents.leave()
    goodbye = stream.expect("goodbye")
    assert [(each.run_id, each.fence) for each in goodbye.returned] == [(run.run_id, 1)]
    assert not stream.results
    stream.end()
    assert agents.end() == 1


def test_each_further_wish_hurries_to_the_next_stage(hub: ScriptedHub, start: Start) -> None:
    agents = start(drain=60)
    stream = hub.stream().welcome()
    run = an_assignment("deaf")
    stream.assign(run)
    stream.expect("begun")
    begun = time.monotonic()
    agents.leave()
    agents.log.wait_for("agent.draining", in_hand=1)
    agents.leave()
    agents.leave()
    assert [each.run_id for each in stream.expect("goodbye").returned] == [run.run_id]
    stream.end()
    assert agents.end() == 1
    assert time.monotonic() - begun < 5


def test_a_process_that_leaves_says_so_on_a_new_stream_too(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream().welcome()
    run = an_assignment("brief")
    first.assign(run)
    first.expect("begun")
    agents.leave()
    first.expect("draining")
    first.end()
    second = hub.stream(2).welcome(valid=[held(run)])
    second.expect("draining")
    second.result_of(run)
    second.settle(run)
    second.expect("goodbye")
    assert not second.all("credit")
    second.end()
    assert agents.end() == 0


def test_without_a_hub_a_process_leaves_all_the_same(hub: ScriptedHub, start: Start) -> None:
    agents = start(drain=0.1)
    stream = hub.stream().welcome()
    stream.assign(an_assignment("endless"))
    stream.expect("begun")
    hub.close()
    agents.log.wait_for("agent.disconnected")
    agents.leave()
    assert agents.end() == 1
    agents.log.wait_for("agent.left", told=False, returned=1)


def test_a_process_that_never_had_a_hub_leaves_at_once(hub: ScriptedHub, start: Start) -> None:
    hub.close()
    agents = start()
    agents.log.wait_for("agent.refused", code="UNAVAILABLE")
    begun = time.monotonic()
    agents.leave()
    assert agents.end() == 0
    assert time.monotonic() - begun < 2


def test_an_end_that_was_not_answered_counts_as_left(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    run = an_assignment()
    stream.assign(run)
    stream.result_of(run)
    agents.leave()
    stream.expect("draining")
    stream.quiet("goodbye", 0.2)
    agents.log.wait_for("agent.draining")
    # Nobody waits any longer: what is left over is its lease's affair.
    for _ in range(4):
        agents.leave()
    assert not stream.expect("goodbye").returned
    stream.end()
    assert agents.end() == 1


def test_a_hub_that_does_not_end_the_stream_is_not_waited_for(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome()
    stream.credits(4)
    agents.leave()
    stream.expect("goodbye")
    assert agents.end() == 0
    assert stream.all("goodbye") == [pb.Goodbye()]
