"""A run's states, the edges between them, and what an attempt's end means.

The graph below is the only one: the database's CHECK constraint, docs/states.md and the tests
are compared with it.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never

import msgspec

from tocsin.domain.agent import AgentSpec, OnLost

POISONED_AFTER: Final = 3
"""Lost attempts after which a run is held to be what kills its holders."""


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


TRANSITIONS: Final[dict[RunState, frozenset[RunState]]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.SKIPPED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.QUEUED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.SKIPPED: frozenset(),
}
TERMINAL: Final = frozenset(state for state, onward in TRANSITIONS.items() if not onward)


class RunKind(StrEnum):
    """What called the run into being."""

    SCHEDULE = "schedule"
    MANUAL = "manual"
    BACKFILL = "backfill"
    FOLLOW_UP = "follow_up"
    EVENT = "event"


class Lane(StrEnum):
    """LIVE work comes as it is due; LATE work (caught up, backfilled) has a fifth of the slots.

    What was lost with its holder keeps its lane: it had begun, and is bounded by the holder's slots.
    """

    LIVE = "live"
    LATE = "late"


class SkipReason(StrEnum):
    OVERLAP = "overlap"
    MISSED = "missed"
    EXPIRED = "expired"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"
    BUDGET = "budget"
    GATE = "gate"
    BREAKER = "breaker"
    CATCH_UP_CAP = "catch_up_cap"
    FILTER = "filter"
    DEPTH = "depth"


class StopReason(StrEnum):
    """Why a holder asks an attempt to stop."""

    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    INTERRUPTED = "interrupted"
    LEASE_LOST = "lease_lost"
    FENCED = "fenced"


class Succeeded(msgspec.Struct, frozen=True):
    """output: JSON, encoded."""

    output: bytes


class Failed(msgspec.Struct, frozen=True):
    """kind: the exception's class name or ``exit``; message: for a person; final: retrying is pointless."""

    kind: str
    message: str
    final: bool = False


class Postponed(msgspec.Struct, frozen=True):
    """The agent asked to be tried again after ``seconds``, uncounted."""

    seconds: float
    reason: str


class Stopped(msgspec.Struct, frozen=True):
    """The attempt ended because it was asked to."""


Outcome = Succeeded | Failed | Postponed | Stopped


class FollowUp(msgspec.Struct, frozen=True):
    """A run that an agent asked for; exactly one of ``at`` and ``after`` is set. input: JSON text."""

    at: datetime | None
    after: timedelta | None
    input: str


class Settlement(msgspec.Struct, frozen=True):
    """What is written for an ended attempt.

    delay: how long a run that is queued again waits; counted: whether the attempt used up one of
    max_attempts. output and error: JSON, encoded, or None.
    """

    state: RunState
    reason: str | None = None
    delay: timedelta = timedelta(0)
    counted: bool = True
    output: bytes | None = None
    error: Failed | None = None


class AttemptEnd(msgspec.Struct, frozen=True, kw_only=True):
    """An ended attempt as ``decide`` sees it.

    attempt: 1 for the first; time_left: until the run's deadline, None without one;
    stop: why the holder had asked it to stop, if it had; chance: a draw from [0, 1).
    """

    policy: AgentSpec
    attempt: int
    max_attempts: int
    outcome: Outcome
    stop: StopReason | None = None
    time_left: timedelta | None = None
    chance: float = 0.0


def decide(end: AttemptEnd) -> Settlement:
    """What becomes of the run. A result that was reached stands, even when a stop had been asked for."""
    match end.outcome:
        case Succeeded(output):
            late = "overran" if end.stop is StopReason.TIMEOUT else None
            return Settlement(RunState.SUCCEEDED, reason=late, output=output)
        case Postponed(seconds, reason):
            return _postponed(end, timedelta(seconds=seconds), reason)
        case Failed() as failure:
            return _retried_or_failed(end, failure) if end.stop is None else _stopped(end, end.stop, failure)
        case Stopped():
            return _stopped(end, end.stop or StopReason.CANCELLED, None)
        case _:
            assert_never(end.outcome)


def _stopped(end: AttemptEnd, stop: StopReason, failure: Failed | None) -> Settlement:
    match stop:
        case StopReason.CANCELLED | StopReason.SUPERSEDED:
            return Settlement(RunState.CANCELLED, reason=stop.value, error=failure)
        case StopReason.TIMEOUT:
            limit = end.policy.timeout
            if end.time_left is not None and end.time_left <= timedelta(0):
                return Settlement(
                    RunState.FAILED,
                    reason="deadline",
                    error=failure or Failed("Deadline", "the run's deadline passed"),
                )
            message = f"no end within its timeout of {limit.total_seconds():g} s" if limit else "no end in time"
            return _retried_or_failed(end, Failed("TimeoutError", message))
        case StopReason.STALLED:
            patience = end.policy.stall_after
            within = f" within {patience.total_seconds():g} s" if patience else ""
            return _retried_or_failed(end, Failed("Stalled", f"no progress{within}"))
        case StopReason.INTERRUPTED | StopReason.LEASE_LOST | StopReason.FENCED:
            if end.policy.on_lost is OnLost.FAIL:
                # It had begun, and is to be begun at most once.
                reason = stop.value if stop is StopReason.INTERRUPTED else "lost"
                return Settlement(RunState.FAILED, reason=reason, error=failure)
            return Settlement(RunState.QUEUED, reason=stop.value, counted=False)
        case _:
            assert_never(stop)


def _postponed(end: AttemptEnd, delay: timedelta, reason: str) -> Settlement:
    if end.stop in (StopReason.CANCELLED, StopReason.SUPERSEDED):
        return Settlement(RunState.CANCELLED, reason=end.stop.value)
    if end.time_left is not None and delay >= end.time_left:
        return Settlement(RunState.FAILED, reason="deadline", error=Failed("RetryAfter", reason))
    return Settlement(
        RunState.QUEUED, reason="retry_after", delay=delay, counted=False, error=Failed("RetryAfter", reason)
    )


def _retried_or_failed(end: AttemptEnd, failure: Failed) -> Settlement:
    reason = end.stop.value if end.stop in (StopReason.TIMEOUT, StopReason.STALLED) else "error"
    if failure.final or not is_retried(end.policy, failure.kind):
        return Settlement(RunState.FAILED, reason="fatal" if failure.final else reason, error=failure)
    if end.attempt >= end.max_attempts:
        return Settlement(RunState.FAILED, reason=reason, error=failure)
    delay = backoff(end.policy, end.attempt, end.chance)
    if end.time_left is not None and delay >= end.time_left:
        return Settlement(RunState.FAILED, reason="deadline", error=failure)
    return Settlement(RunState.QUEUED, reason="retry", delay=delay, error=failure)


def is_retried(policy: AgentSpec, kind: str) -> bool:
    """Whether the policy retries an exception of this class name."""
    if kind in policy.no_retry:
        return False
    return not policy.retry_on or kind in policy.retry_on


def backoff(policy: AgentSpec, attempt: int, chance: float) -> timedelta:
    """Full jitter: a uniform draw below the exponential bound.

    Source: Brooker, "Exponential Backoff And Jitter" (2015).
    """
    factor: int = 2 ** min(attempt - 1, 20)
    bound = min(policy.backoff_cap, policy.backoff_base * factor)
    return bound * chance
