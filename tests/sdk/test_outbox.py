"""What waits to be said is for one stream, and is said together."""

from uuid import UUID

from tests.sdk.scripted import an_assignment
from tocsin.domain.run import Succeeded
from tocsin.sdk import wire
from tocsin.sdk.hands import Hand
from tocsin.sdk.outbox import BATCH_BYTES, REPORT_EVERY, Outbox
from tocsin.v1 import agent_pb2 as pb


def a_hand(outbox: Outbox, output: bytes = b"null") -> Hand:
    """One that has ended with this output."""
    message = an_assignment()
    hand = Hand(message.run_id, wire.assignment_of(message), within=1, limit=None, changed=outbox.note)
    hand.result = wire.result_of(hand.run_id, hand.fence, Succeeded(output), hand.reports.kept)
    return hand


def said(outbox: Outbox, now: float = 100.0) -> list[str | None]:
    return [message.WhichOneof("message") for message in outbox.take(now)]


def test_what_was_meant_for_a_former_stream_is_not_said_on_the_next() -> None:
    outbox = Outbox()
    hand = a_hand(outbox)
    outbox.open(1)
    outbox.put(1, begun=[hand], ended=[hand], credit=3)
    outbox.drain(1)
    outbox.open(2)
    outbox.put(1, begun=[hand], ended=[hand], credit=3)
    outbox.drain(1)
    assert said(outbox) == []
    outbox.put(2, begun=[hand], ended=[hand], credit=3)
    assert said(outbox) == ["begun", "finished", "credit"]
    assert said(outbox) == []


def test_credits_add_up_and_a_drain_takes_them_back() -> None:
    outbox = Outbox()
    outbox.open(1)
    outbox.put(1, credit=2)
    outbox.put(1, credit=3)
    assert [message.credit.runs for message in outbox.take(0.0)] == [5]
    outbox.put(1, credit=1)
    outbox.drain(1)
    assert said(outbox) == ["draining"]


def test_large_results_are_told_in_several_messages_and_none_is_left_out() -> None:
    outbox = Outbox()
    outbox.open(1)
    hands = [a_hand(outbox, b'"' + b"x" * (BATCH_BYTES * 2 // 5) + b'"') for _ in range(5)]
    outbox.put(1, ended=hands)
    messages = list(outbox.take(0.0))
    assert [len(message.finished.results) for message in messages] == [2, 2, 1]
    assert [each.run_id for message in messages for each in message.finished.results] == [h.run_id for h in hands]
    assert all(message.ByteSize() < BATCH_BYTES * 1.1 for message in messages)


def test_only_the_latest_of_a_run_waits_and_goes_over_to_the_next_stream() -> None:
    outbox = Outbox()
    outbox.open(1)
    hand = a_hand(outbox)
    for step in range(100):
        hand.reports.progress(f"step {step}", None)
    outbox.open(2)
    (message,) = outbox.take(100.0)
    assert message.report == pb.Report(run_id=str(UUID(hand.run_id)), fence=1, progress="step 99")
    hand.reports.progress("more", None)
    assert said(outbox, 100.0 + REPORT_EVERY / 2) == []
    assert outbox.rest(100.0 + REPORT_EVERY / 2) is not None
    assert said(outbox, 100.0 + REPORT_EVERY) == ["report"]
    assert outbox.rest(200.0) is None


def test_of_a_log_each_stream_is_told_what_it_has_not_been_told() -> None:
    outbox = Outbox()
    outbox.open(1)
    hand = a_hand(outbox)
    hand.reports.log("one")
    (first,) = outbox.take(100.0)
    hand.reports.log("two")
    (second,) = outbox.take(200.0)
    assert (first.report.log, first.report.log_from) == ("one", 0)
    assert (second.report.log, second.report.log_from) == ("\ntwo", 3)
    outbox.open(2)
    hand.reports.log("three")
    (anew,) = outbox.take(300.0)
    assert (anew.report.log, anew.report.log_from) == ("one\ntwo\nthree", 0)


def test_lines_that_an_end_takes_along_are_not_told_before_it() -> None:
    outbox = Outbox()
    outbox.open(1)
    hands = [a_hand(outbox) for _ in range(2)]
    for hand in hands:
        hand.reports.log("a line")
    hands[1].reports.progress("done", None)
    outbox.put(1, ended=hands)
    told, ended = outbox.take(100.0)
    assert (told.report.run_id, told.report.progress) == (hands[1].run_id, "done")
    assert len(ended.finished.results) == 2
    assert outbox.rest(100.0) is None
