"""What an attempt's end means, and the graph that a run moves in."""

from datetime import timedelta
from typing import Any

import pytest

from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.run import (
    TERMINAL,
    TRANSITIONS,
    AttemptEnd,
    Failed,
    Outcome,
    Postponed,
    RunState,
    Settlement,
    Stopped,
    StopReason,
    Succeeded,
    backoff,
    decide,
    is_retried,
)

ERROR = Failed("ValueError", "no luck")
MINUTE = timedelta(minutes=1)


def settled(
    outcome: Outcome,
    *,
    stop: StopReason | None = None,
    attempt: int = 1,
    max_attempts: int = 3,
    time_left: timedelta | None = None,
    **policy: Any,
) -> Settlement:
    spec = AgentSpec(name="agent", max_attempts=max_attempts, **policy)
    return decide(
        AttemptEnd(
            policy=spec,
            attempt=attempt,
            max_attempts=max_attempts,
            outcome=outcome,
            stop=stop,
            time_left=time_left,
            chance=0.5,
        )
    )


def test_terminal_states_have_no_way_out_and_every_other_has() -> None:
    assert {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED} == TERMINAL
    assert set(TRANSITIONS) == set(RunState)


@pytest.mark.parametrize("stop", [None, *StopReason])
def test_a_result_that_was_reached_stands_whatever_was_asked_for(stop: StopReason | None) -> None:
    late = "overran" if stop is StopReason.TIMEOUT else None
    assert settled(Succeeded(b"1"), stop=stop) == Settlement(RunState.SUCCEEDED, reason=late, output=b"1")


def test_a_failure_is_retried_until_its_attempts_are_used_up() -> None:
    half = timedelta(seconds=0.5)
    assert settled(ERROR) == Settlement(RunState.QUEUED, reason="retry", delay=half, error=ERROR)
    assert settled(ERROR, attempt=2).delay == 2 * half
    assert settled(ERROR, attempt=3) == Settlement(RunState.FAILED, reason="error", error=ERROR)
    assert settled(ERROR, max_attempts=1) == Settlement(RunState.FAILED, reason="error", error=ERROR)


def test_a_fatal_failure_is_not_retried() -> None:
    fatal = Failed("Fatal", "never", final=True)
    assert settled(fatal) == Settlement(RunState.FAILED, reason="fatal", error=fatal)


def test_retry_on_and_no_retry_decide_by_class() -> None:
    assert settled(ERROR, no_retry=("ValueError",)).state is RunState.FAILED
    assert settled(ERROR, retry_on=("KeyError",)).state is RunState.FAILED
    assert settled(ERROR, retry_on=("ValueError",)).state is RunState.QUEUED
    both = AgentSpec(name="agent", retry_on=("ValueError",), no_retry=("ValueError",))
    assert not is_retried(both, "ValueError")


def test_a_retry_that_would_begin_after_the_deadline_fails_now() -> None:
    assert settled(ERROR, time_left=timedelta(seconds=0.4)).reason == "deadline"
    assert settled(ERROR, time_left=timedelta(seconds=0.6)).reason == "retry"
    assert settled(Postponed(60, "busy"), time_left=MINUTE).reason == "deadline"
    assert settled(Postponed(59, "busy"), time_left=MINUTE).reason == "retry_after"


def test_retry_after_waits_and_uses_up_no_attempt() -> None:
    settlement = settled(Postponed(90, "busy"), attempt=3)
    assert (settlement.state, settlement.counted, settlement.delay) == (RunState.QUEUED, False, 1.5 * MINUTE)
    assert settlement.error == Failed("RetryAfter", "busy")


@pytest.mark.parametrize("outcome", [Stopped(), ERROR, Postponed(1, "busy")])
@pytest.mark.parametrize("stop", [StopReason.CANCELLED, StopReason.SUPERSEDED])
def test_what_was_cancelled_does_not_come_back(outcome: Outcome, stop: StopReason) -> None:
    settlement = settled(outcome, stop=stop)
    assert (settlement.state, settlement.reason) == (RunState.CANCELLED, stop.value)


@pytest.mark.parametrize("stop", [StopReason.INTERRUPTED, StopReason.LEASE_LOST, StopReason.FENCED])
def test_what_was_interrupted_is_queued_again_uncounted(stop: StopReason) -> None:
    for outcome in (Stopped(), ERROR):
        settlement = settled(outcome, stop=stop, max_attempts=1)
        assert (settlement.state, settlement.reason, settlement.counted) == (RunState.QUEUED, stop.value, False)


def test_an_at_most_once_agent_that_had_begun_is_not_begun_again() -> None:
    assert settled(Stopped(), stop=StopReason.LEASE_LOST, on_lost=OnLost.FAIL).reason == "lost"
    interrupted = settled(Stopped(), stop=StopReason.INTERRUPTED, on_lost=OnLost.FAIL)
    assert (interrupted.state, interrupted.reason) == (RunState.FAILED, "interrupted")


def test_a_timeout_is_a_failure_that_follows_the_policy() -> None:
    settlement = settled(Stopped(), stop=StopReason.TIMEOUT, timeout=MINUTE)
    assert settlement.error == Failed("TimeoutError", "no end within its timeout of 60 s")
    assert settlement.state is RunState.QUEUED
    last = settled(Stopped(), stop=StopReason.TIMEOUT, timeout=MINUTE, attempt=3)
    assert (last.state, last.reason) == (RunState.FAILED, "timeout")
    assert settled(Stopped(), stop=StopReason.TIMEOUT, no_retry=("TimeoutError",)).state is RunState.FAILED


def test_a_timeout_at_the_deadline_is_the_runs_end() -> None:
    settlement = settled(Stopped(), stop=StopReason.TIMEOUT, time_left=timedelta(0))
    assert (settlement.state, settlement.reason) == (RunState.FAILED, "deadline")


def test_an_agent_that_stops_of_its_own_accord_is_cancelled() -> None:
    assert settled(Stopped()) == Settlement(RunState.CANCELLED, reason="cancelled")


def test_every_end_is_an_edge_of_the_graph() -> None:
    for outcome in (Succeeded(b"1"), ERROR, Failed("Fatal", "x", final=True), Postponed(1, "x"), Stopped()):
        for stop in (None, *StopReason):
            for on_lost in OnLost:
                for left in (None, timedelta(0), MINUTE):
                    for attempt in (1, 3):
                        end = settled(outcome, stop=stop, on_lost=on_lost, time_left=left, attempt=attempt)
                        assert end.state in TRANSITIONS[RunState.RUNNING]
                        assert end.state is RunState.SUCCEEDED or end.reason
                        assert end.counted or end.state is RunState.QUEUED


def test_back_off_is_a_draw_below_a_bound_that_doubles_up_to_the_cap() -> None:
    policy = AgentSpec(name="agent", backoff_base=timedelta(seconds=2), backoff_cap=timedelta(seconds=10))
    assert [backoff(policy, attempt, 1.0).total_seconds() for attempt in (1, 2, 3, 4, 99)] == [2, 4, 8, 10, 10]
    assert backoff(policy, 3, 0.0) == timedelta(0)
    assert backoff(policy, 3, 0.25) == timedelta(seconds=2)
