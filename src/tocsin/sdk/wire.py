"""Between the wire's messages and the domain's values, in both directions. Nothing here does anything else."""

from datetime import UTC, datetime, timedelta
from typing import Final, assert_never
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tocsin.domain.assignment import Assignment, LastRun
from tocsin.domain.run import Failed, FollowUp, Outcome, Postponed, Stopped, StopReason, Succeeded
from tocsin.engine.run_reports import News, RunReports
from tocsin.v1 import agent_pb2 as pb

NULL: Final = b"null"

STOP_REASONS: Final = {
    "cancelled": StopReason.CANCELLED,
    "superseded": StopReason.SUPERSEDED,
    "timeout": StopReason.TIMEOUT,
    # The domain has no reason of its own for a run that stands still: like one past its limit, it may be tried again.
    "stalled": StopReason.TIMEOUT,
    "fenced": StopReason.FENCED,
}
"""What a hub may ask for; the others are for this side to say."""


def assignment_of(message: pb.Assignment) -> Assignment:
    """Raises: ValueError, when an id is none."""
    return Assignment(
        run_id=UUID(message.run_id),
        trigger_id=UUID(message.trigger_id),
        trigger=message.trigger,
        agent=message.agent,
        kind=message.kind,
        lane=message.lane,
        fence=message.fence,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        nominal_at=instant_of(message.nominal_at),
        effective_at=instant_of(message.effective_at),
        available_at=None,
        started_at=instant_of(message.started_at),
        deadline_at=None,
        input=(message.input or NULL).decode(),
        occurrence_key=None,
        last=last_of(message.last) if message.HasField("last") else None,
        due_by=instant_of(message.due_by) if message.HasField("due_by") else None,
        key=message.idempotency_key,
        traceparent=message.traceparent or None,
    )


def last_of(message: pb.LastRun) -> LastRun:
    return LastRun(
        id=message.id,
        nominal_at=instant_of(message.nominal_at),
        finished_at=instant_of(message.finished_at),
        raw=(message.output or NULL).decode(),
    )


def limit_of(message: pb.Assignment) -> float | None:
    """Seconds that the attempt has from now on; None without a limit."""
    if message.HasField("time_left"):
        return seconds_of(message.time_left)
    if message.HasField("due_by"):
        # Both on the database's clock: this host's may differ from it.
        return seconds_between(message.started_at, message.due_by)
    return None


def stop_reason_of(reason: str) -> StopReason:
    """One that a newer hub has thought of is a cancellation."""
    return STOP_REASONS.get(reason, StopReason.CANCELLED)


def result_of(run_id: str, fence: int, outcome: Outcome, reports: RunReports) -> pb.Result:
    """How a run ended, with all that it reported."""
    result = pb.Result(run_id=run_id, fence=fence)
    match outcome:
        case Succeeded(output):
            result.succeeded = output
            for follow_up in reports.follow_ups:
                result.follow_ups.append(follow_up_to(follow_up))
        case Failed(kind, message, final):
            result.failed.kind = kind
            result.failed.message = message
            result.failed.final = final
        case Postponed(seconds, reason):
            result.postponed.delay.CopyFrom(duration_to(seconds))
            result.postponed.reason = reason
        case Stopped():
            result.stopped.SetInParent()
        case _:
            assert_never(outcome)
    if reports.used is not None:
        result.usage = reports.usage_json() or ""
    result.log = reports.log_text() or ""
    return result


def failure_of(run_id: str, fence: int, failed: Failed) -> pb.Result:
    """A failure, and nothing of what was reported."""
    failure = pb.Failure(kind=failed.kind, message=failed.message, final=failed.final)
    return pb.Result(run_id=run_id, fence=fence, failed=failure)


def report_of(run_id: str, fence: int, news: News) -> pb.Report:
    """What a run has to tell."""
    return pb.Report(
        run_id=run_id,
        fence=fence,
        progress=news.progress,
        fraction=news.fraction,
        usage=news.usage,
        log=news.log or "",
        log_from=news.log_from if news.log else 0,
    )


def follow_up_to(follow_up: FollowUp) -> pb.FollowUp:
    message = pb.FollowUp(input=follow_up.input.encode())
    if follow_up.at is not None:
        message.at.FromDatetime(follow_up.at)
    elif follow_up.after is not None:
        message.after.FromTimedelta(follow_up.after)
    return message


def instant_of(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def seconds_of(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def seconds_between(first: Timestamp, second: Timestamp) -> float:
    return (second.seconds - first.seconds) + (second.nanos - first.nanos) / 1e9


def duration_to(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
