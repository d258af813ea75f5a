"""Between the wire's messages and the engine's values, on the hub's side. Pure.

What a process sends is believed in nothing: a message that makes no sense is BadInput, which ends its stream.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tocsin.domain.agent import MAX_PAYLOAD, AgentSpec, check_name
from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import BadInput
from tocsin.domain.payload import accept, plain
from tocsin.domain.run import Failed, FollowUp, Outcome, Postponed, Stopped, StopReason, Succeeded
from tocsin.engine.connection import Result, Said
from tocsin.engine.outcome import MAX_DELAY, refused_result
from tocsin.engine.run_reports import DROPPED, MAX_FOLLOW_UPS, MAX_LOG
from tocsin.store.instances import Held, Introduction
from tocsin.v1 import agent_pb2 as pb

PROTOCOL: Final = 1
MAX_SLOTS: Final = 10_000
MAX_LABELS: Final = 32
MAX_CULPRIT: Final = 16 * 1024
MAX_LOG_TEXT: Final = MAX_LOG + len(DROPPED) + 2
"""Characters of a log that are looked at: what is kept, the line that tells of more, and one more to know it by."""
NO_TIME: Final = timedelta()


def introduction_of(hello: pb.Hello, *, key: str | None) -> Introduction:
    """Raises: BadInput."""
    agents = list(dict.fromkeys(hello.agents))
    if not agents:
        raise BadInput("agents: name at least one agent that this process runs")
    if len(agents) > 1_000:
        raise BadInput(f"agents: at most 1,000 a process, not {len(agents):,}")
    for name in agents:
        check_name("agent", name)
    if not 1 <= hello.slots <= MAX_SLOTS:
        raise BadInput(f"slots: must be 1–{MAX_SLOTS}, not {hello.slots}")
    if len(hello.labels) > MAX_LABELS or any(len(k) + len(v) > 400 for k, v in hello.labels.items()):
        raise BadInput(f"labels: at most {MAX_LABELS}, of at most 400 characters each")
    return Introduction(
        id=uuid_of(hello.instance_id, "instance_id"),
        name=plain(hello.name, 200) or hello.instance_id,
        version=plain(hello.version, 200),
        agents=agents,
        labels={plain(key, 400): plain(value, 400) for key, value in hello.labels.items()},
        slots=hello.slots,
        key=key,
        last_stream=min(hello.last_stream, 2**62),
    )


def uuid_of(text: str, what: str) -> UUID:
    """Raises: BadInput."""
    try:
        return UUID(text)
    except ValueError:
        raise BadInput(f"{what} {text[:60]!r}: must be a UUID") from None


def held_of(held: Iterable[pb.Held]) -> list[Held]:
    """Raises: BadInput."""
    return [(uuid_of(one.run_id, "run_id"), _fence(one.fence)) for one in held]


def _fence(fence: int) -> int:
    if not 0 < fence < 2**62:
        raise BadInput(f"fence: must be the number that came with the run, not {fence}")
    return fence


def held_message(held: Iterable[Held]) -> list[pb.Held]:
    return [pb.Held(run_id=str(run_id), fence=fence) for run_id, fence in held]


def result_of(result: pb.Result) -> Result:
    """What a run wants of us and cannot have is its failure for good, as it is for agents of this process.

    Raises: BadInput.
    """
    outcome = _outcome(result)
    follow_ups: tuple[FollowUp, ...] = ()
    if isinstance(outcome, Succeeded):
        try:
            follow_ups = _follow_ups(result.follow_ups)
        except BadInput as refusal:
            outcome = refused_result(refusal)
    return Result(
        run_id=uuid_of(result.run_id, "run_id"),
        fence=_fence(result.fence),
        outcome=outcome,
        usage=result.usage or None,
        log=log_of(result.log),
        follow_ups=follow_ups,
    )


def said_of(report: pb.Report) -> Said:
    return Said(
        progress=report.progress if report.HasField("progress") else None,
        fraction=report.fraction if report.HasField("fraction") else None,
        usage=usage_of(report.usage) if report.HasField("usage") else None,
        log_from=report.log_from,
        log=log_of(report.log),
    )


def log_of(text: str) -> str | None:
    """Lines of a log; None, where there are none."""
    return plain(text[:MAX_LOG_TEXT], MAX_LOG_TEXT) if text else None


def _outcome(result: pb.Result) -> Outcome:
    match result.WhichOneof("outcome"):
        case "succeeded":
            return _output(result.succeeded)
        case "failed":
            failed = result.failed
            return Failed(plain(failed.kind, 200) or "Failed", plain(failed.message, 1_000), final=failed.final)
        case "postponed":
            seconds = min(max(0.0, length_of(result.postponed.delay).total_seconds()), MAX_DELAY)
            return Postponed(seconds, plain(result.postponed.reason, 1_000))
        case "stopped":
            return Stopped()
        case _:
            raise BadInput(f"run {result.run_id}: a result says how the run ended")


def _output(output: bytes) -> Outcome:
    """What cannot be stored fails for good, as it does for agents of this process."""
    if not output:
        return Succeeded(b"null")
    try:
        return Succeeded(accept(output, what="output"))
    except BadInput as refusal:
        return refused_result(refusal)


def _follow_ups(follow_ups: Sequence[pb.FollowUp]) -> tuple[FollowUp, ...]:
    if len(follow_ups) > MAX_FOLLOW_UPS:
        raise BadInput(f"more than {MAX_FOLLOW_UPS} follow-ups from one run: schedule a trigger instead")
    return tuple(_follow_up(one) for one in follow_ups)


def _follow_up(follow_up: pb.FollowUp) -> FollowUp:
    payload = accept(follow_up.input or b"null", what="input of a scheduled run").decode()
    match follow_up.WhichOneof("when"):
        case "at":
            return FollowUp(instant_of(follow_up.at), None, payload)
        case "after":
            return FollowUp(None, length_of(follow_up.after), payload)
        case _:
            raise BadInput("a follow-up has an instant (at) or a distance (after)")


def instant_of(stamp: Timestamp) -> datetime:
    """Raises: BadInput, outside the calendar."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise BadInput("an instant must lie in the years 1–9999") from None


def length_of(duration: Duration) -> timedelta:
    """Raises: BadInput, for one that no calendar holds."""
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError):
        raise BadInput("a duration must be shorter than 9,999 years") from None


def stamp(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def duration(length: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(length)
    return message


def assignment_message(assignment: Assignment, policy: AgentSpec, *, now: datetime | None) -> pb.Assignment:
    """now: the database's instant, from which the time that is left is counted."""
    message = pb.Assignment(
        run_id=str(assignment.run_id),
        fence=assignment.fence,
        trigger_id=str(assignment.trigger_id),
        trigger=assignment.trigger,
        agent=assignment.agent,
        kind=assignment.kind,
        lane=assignment.lane,
        attempt=assignment.attempt,
        max_attempts=assignment.max_attempts,
        nominal_at=stamp(assignment.nominal_at),
        effective_at=stamp(assignment.effective_at),
        started_at=stamp(assignment.started_at),
        input=assignment.input.encode(),
        idempotency_key=assignment.idempotency_key,
        cancel_within=duration(policy.cancel_within),
        traceparent=assignment.traceparent or "",
    )
    if assignment.due_by is not None:
        message.due_by.CopyFrom(stamp(assignment.due_by))
        left = assignment.due_by - (now or assignment.started_at)
        message.time_left.CopyFrom(duration(max(timedelta(), left)))
    if assignment.last is not None:
        last = assignment.last
        message.last.CopyFrom(
            pb.LastRun(
                id=last.id,
                nominal_at=stamp(last.nominal_at),
                finished_at=stamp(last.finished_at),
                output=last.raw.encode(),
            )
        )
    return message


def cancel_message(run_id: UUID, fence: int, reason: StopReason, within: timedelta) -> pb.FromHub:
    return pb.FromHub(cancel=pb.Cancel(run_id=str(run_id), fence=fence, reason=reason.value, within=duration(within)))


def usage_of(text: str) -> str:
    """Raises: BadInput, for what is no JSON list of objects."""
    try:
        msgspec.json.decode(text, type=list[dict[str, object]])
    except msgspec.DecodeError:
        raise BadInput("usage: must be a JSON list of objects, one a model") from None
    return text


assert MAX_PAYLOAD < 4 * 1024 * 1024  # an output fits into a message with room to spare
