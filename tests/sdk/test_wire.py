"""Messages and the domain's values say the same, and what cannot be said is cut."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.sdk.scripted import an_assignment, seconds
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, StopReason, Succeeded
from tocsin.engine.run_reports import MAX_LOG, RunReports, Told
from tocsin.sdk import wire
from tocsin.v1 import agent_pb2 as pb

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def some_reports() -> RunReports:
    return RunReports(uuid4(), 1, lambda _: None)


def test_an_assignment_is_the_domains() -> None:
    message = an_assignment(fence=4, attempt=2, lane="late", kind="backfill", input=b"[1]")
    message.due_by.FromDatetime(NOON + timedelta(seconds=30, microseconds=5))
    message.last.CopyFrom(pb.LastRun(id="before", output=b'{"n": 1}'))
    message.last.nominal_at.FromDatetime(NOON - timedelta(days=1))
    message.last.finished_at.FromDatetime(NOON)
    assignment = wire.assignment_of(message)
    assert str(assignment.run_id) == message.run_id
    assert (assignment.fence, assignment.attempt, assignment.max_attempts) == (4, 2, 3)
    assert (assignment.lane, assignment.kind, assignment.agent) == ("late", "backfill", "echo")
    assert assignment.nominal_at == assignment.started_at == NOON
    assert assignment.due_by == NOON + timedelta(seconds=30, microseconds=5)
    assert assignment.idempotency_key == "once"
    assert assignment.last is not None
    assert assignment.last.output == {"n": 1}
    assert assignment.last.nominal_at == NOON - timedelta(days=1)


def test_what_is_not_set_is_not_there() -> None:
    assignment = wire.assignment_of(an_assignment())
    assert (assignment.due_by, assignment.last, assignment.input) == (None, None, "null")
    assert wire.limit_of(an_assignment()) is None


def test_an_id_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="UUID"):
        wire.assignment_of(an_assignment(run_id="7"))


def test_the_time_left_goes_before_an_instant_on_another_clock() -> None:
    message = an_assignment()
    message.due_by.FromDatetime(NOON + timedelta(seconds=90.5))
    assert wire.limit_of(message) == 90.5
    message.time_left.CopyFrom(seconds(12.25))
    assert wire.limit_of(message) == 12.25


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Succeeded(b"[1]"), pb.Result(succeeded=b"[1]")),
        (Failed("ValueError", "odd", True), pb.Result(failed=pb.Failure(kind="ValueError", message="odd", final=True))),
        (Postponed(1.5, "busy"), pb.Result(postponed=pb.Postponed(delay=seconds(1.5), reason="busy"))),
        (Stopped(), pb.Result(stopped=pb.Stopped())),
    ],
)
def test_each_outcome_has_its_message(outcome: Outcome, said: pb.Result) -> None:
    said.run_id, said.fence = "r", 2
    assert wire.result_of("r", 2, outcome, some_reports()) == said


def test_a_result_takes_along_what_was_reported() -> None:
    reports = some_reports()
    reports.usage({"model": "m", "input_tokens": 2})
    reports.log("one")
    reports.log("two")
    reports.follow_up(NOON, None, {"a": 1})
    reports.follow_up(None, timedelta(minutes=1), None)
    result = wire.result_of("r", 1, Succeeded(b"null"), reports)
    assert result.usage == '[{"model":"m","input_tokens":2}]'
    assert result.log == "one\ntwo"
    first, second = result.follow_ups
    assert (first.at.ToDatetime(tzinfo=UTC), first.input) == (NOON, b'{"a":1}')
    assert (second.after, second.input) == (Duration(seconds=60), b"null")
    assert not wire.result_of("r", 1, Stopped(), reports).follow_ups


def test_a_report_leaves_out_what_was_not_said() -> None:
    reports = some_reports()
    reports.progress("half", None)
    report = wire.report_of("r", 1, reports.news(Told()))
    assert (report.progress, report.HasField("fraction"), report.HasField("usage")) == ("half", False, False)
    reports.progress("more", 0.75)
    assert wire.report_of("r", 1, reports.news(Told())).fraction == 0.75
    reports.log("one")
    seen = reports.news(Told()).told
    reports.log("two")
    assert wire.report_of("r", 1, reports.news(seen)) == pb.Report(run_id="r", fence=1, log="\ntwo", log_from=3)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("cancelled", StopReason.CANCELLED),
        ("superseded", StopReason.SUPERSEDED),
        ("timeout", StopReason.TIMEOUT),
        ("stalled", StopReason.TIMEOUT),
        ("fenced", StopReason.FENCED),
        ("interrupted", StopReason.CANCELLED),
        ("of a newer release", StopReason.CANCELLED),
    ],
)
def test_each_reason_to_stop_is_understood(word: str, reason: StopReason) -> None:
    assert wire.stop_reason_of(word) is reason


def test_a_result_has_the_log_that_its_reports_had() -> None:
    """Both are bounded in characters, whatever these have of bytes."""
    reports = some_reports()
    for _ in range(100):
        reports.log("ä" * 1_000)
    log = wire.result_of("r", 1, Stopped(), reports).log
    assert log == wire.report_of("r", 1, reports.news(Told())).log
    assert MAX_LOG - 1_002 < len(log) < MAX_LOG + 100
