"""Beats, the lease that they renew, and a loop that stands still."""

from collections.abc import Callable

from tests.sdk.conftest import Agents
from tests.sdk.scripted import ScriptedHub, an_assignment, held
from tocsin.v1 import agent_pb2 as pb

Start = Callable[..., Agents]


def test_beats_come_as_often_as_the_hub_wants_them_and_say_what_is_in_hand(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome(beat_every=0.05)
    run = an_assignment("telling")
    stream.assign(run)
    stream.result_of(run)
    beats = stream.all("beat")
    assert [beat.seq for beat in beats] == list(range(1, len(beats) + 1))
    # Half a second of work.
    assert 5 <= len(beats) <= 20
    progress = [each.progress for beat in beats for each in beat.held if each.run_id == run.run_id]
    assert progress[0] < progress[-1]
    assert progress == sorted(progress)
    assert not any(beat.stalled for beat in beats)


def test_a_silent_run_makes_no_progress(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome(beat_every=0.05)
    stream.assign(an_assignment("endless"))
    stream.expect("beat", 3, where=lambda beat: bool(beat.held))
    assert {each.progress for beat in stream.all("beat") for each in beat.held} == {0}


def test_a_probe_is_answered_at_once(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome(beat_every=60)
    stream.expect("beat")
    stream.say(probe=pb.Probe())
    stream.expect("beat", 2)


def test_a_loop_that_stands_still_is_told_of_with_its_culprit(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome(beat_every=0.1)
    run = an_assignment("blocking", input=b"1.0")
    stream.assign(run)
    beat = stream.expect("beat", 3, where=lambda beat: beat.stalled)
    assert "time.sleep(run.input)" in beat.culprit
    assert [each.run_id for each in beat.held] == [run.run_id]
    agents.log.wait_for("agent.stalled")
    assert stream.result_of(run).succeeded == b'"awake"'
    agents.log.wait_for("agent.resumed")
    after = len(stream.all("beat"))
    assert not stream.expect("beat", after + 1).stalled


def test_a_short_halt_is_not_called_one(hub: ScriptedHub, start: Start) -> None:
    start()
    stream = hub.stream().welcome(beat_every=0.1)
    run = an_assignment("blocking", input=b"0.15")
    stream.assign(run)
    stream.result_of(run)
    assert not any(beat.stalled for beat in stream.all("beat"))


def test_without_answers_everything_in_hand_is_stopped_before_it_is_taken(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream()
    first.takes_beats = False
    first.welcome(beat_every=0.1, dead_after=0.8)
    running, ended = an_assignment("endless"), an_assignment()
    first.assign(running, ended)
    first.result_of(ended)
    agents.log.wait_for("lease.expired", in_hand=2)
    agents.log.wait_for("run.ended", run_id=running.run_id, stop="lease_lost")
    second = hub.stream(2)
    assert not second.hello.held
    assert second.hello.instance_id == first.hello.instance_id
    # A lease of its own, which begins with this Hello.
    second.welcome(beat_every=0.1, dead_after=0.8).credits(4)
    second.expect("beat", 10)
    assert not second.ended
    assert not second.results


def test_a_hello_without_its_runs_waits_until_they_have_stopped(hub: ScriptedHub, start: Start) -> None:
    """A hub gives away at once what a Hello does not name, and two never run at once."""
    agents = start()
    first = hub.stream()
    first.takes_beats = False
    first.welcome(beat_every=0.5, suspect_after=20, dead_after=6)
    run = an_assignment("tidy")
    first.assign(run)
    first.expect("begun")
    assert not hub.stream(2).hello.held
    assert [line["stop"] for line in agents.log.events if line["event"] == "run.ended"] == ["lease_lost"]


def test_a_hub_that_says_nothing_any_more_is_left_for_another_stream(hub: ScriptedHub, start: Start) -> None:
    """Its connection may be half open; the lease is not waited for."""
    agents = start()
    first = hub.stream()
    first.takes_beats = False
    run = an_assignment("endless")
    first.welcome(beat_every=0.5, dead_after=8).assign(run)
    first.expect("begun")
    assert [each.run_id for each in hub.stream(2).hello.held] == [run.run_id]
    hub.stream(2).welcome(dead_after=8, valid=[held(run)])
    agents.log.wait_for("agent.disconnected", error="not a word within 4 s")
    assert all(line["event"] != "lease.expired" for line in agents.log.events)


def test_a_hub_that_is_gone_takes_its_lease_along(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome(beat_every=0.1, dead_after=0.8)
    run = an_assignment("endless")
    stream.assign(run)
    stream.expect("beat", 3)
    hub.close()
    agents.log.wait_for("run.ended", run_id=run.run_id, stop="lease_lost")


def test_answers_keep_the_lease(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    stream = hub.stream().welcome(beat_every=0.1, dead_after=0.5)
    stream.assign(an_assignment("endless"))
    stream.expect("beat", 10)
    assert not stream.ended
    assert all(line["event"] != "lease.expired" for line in agents.log.events)


def test_a_loop_that_stands_still_cannot_hold_the_lease_up(hub: ScriptedHub, start: Start) -> None:
    agents = start()
    first = hub.stream()
    first.takes_beats = False
    first.welcome(beat_every=0.1, dead_after=0.6)
    run = an_assignment("blocking", input=b"1.5")
    first.assign(run)
    # All while the loop still stands: the link has let go, connected anew, and holds nothing.
    agents.log.wait_for("lease.expired", in_hand=1)
    assert not hub.stream(2).hello.held
    second = hub.stream(2).welcome()
    assert all(line["event"] != "run.ended" for line in agents.log.events)
    agents.log.wait_for("run.ended", run_id=run.run_id)
    second.credits(4)
    second.quiet("finished")


def test_a_stream_that_is_gone_does_not_lengthen_the_lease(hub: ScriptedHub, start: Start) -> None:
    """A Hello is no beat: whoever holds something counts from its last beat that was answered."""
    agents = start()
    first = hub.stream().welcome(beat_every=0.1, dead_after=0.8)
    run = an_assignment("endless")
    first.assign(run)
    first.expect("beat", 2)
    first.takes_beats = False
    first.expect("beat", 6)
    first.end()
    second = hub.stream(2)
    second.takes_beats = False
    second.welcome(beat_every=0.1, dead_after=0.8, valid=[held(run)])
    agents.log.wait_for("lease.expired", in_hand=1)
    assert len(second.all("beat")) < 6
