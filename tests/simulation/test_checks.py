"""Each check finds the bad history that it is meant for, and nothing in a good one."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tocsin.testing.history import CursorSeen, Declared, History
from tocsin.testing.invariants import check
from tocsin.testing.scripted import Answered, Begun, Ledger, Sent

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TRIGGER, RUN, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
EVERY_MINUTE = {"rules": [{"every_seconds": 60}]}


def a_run(run_id: UUID = RUN, **changes: Any) -> dict[str, Any]:
    return {
        "id": run_id, "trigger_id": TRIGGER, "agent": "scribe", "kind": "schedule", "nominal_at": NOON,
        "effective_at": NOON, "scope": "one", "state": "succeeded", "seq": 3, "holder": None, "attempt": 1,
        "max_attempts": 1, "fence": 1, "reason": None, "finished_at": NOON + MINUTE,
    } | changes  # fmt: skip


def a_step(seq: int, before: str | None, after: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": RUN, "seq": seq, "from_state": before, "to_state": after, "fence": seq // 2, "actor": "replica:a",
        "reason": None, "at": NOON + (seq - 1) * timedelta(seconds=10),
    } | changes  # fmt: skip


def a_trail(run_id: UUID = RUN, **changes: Any) -> list[dict[str, Any]]:
    steps = [a_step(1, None, "queued", fence=0), a_step(2, "queued", "running"), a_step(3, "running", "succeeded")]
    return [step | {"run_id": run_id} | changes for step in steps]


def a_history(**changes: Any) -> History:
    """One trigger, due every minute since before noon, whose one occurrence ran and succeeded."""
    trigger = {
        "id": TRIGGER, "name": "nightly", "status": "armed", "next_at": NOON + MINUTE, "wake_at": NOON + MINUTE,
        "broken_reason": None,
    }  # fmt: skip
    given: dict[str, Any] = {
        "runs": [a_run()],
        "transitions": a_trail(),
        "triggers": [trigger],
        "agents": [{"name": "scribe", "concurrency": None, "concurrency_key": None}],
        "declared": [Declared(TRIGGER, EVERY_MINUTE, NOON - timedelta(seconds=1))],
        "until": NOON + MINUTE / 2,
    }
    return History(**(given | changes))


def found(history: History) -> set[str]:
    return {violation.invariant for violation in check(history)}


def test_a_good_history_has_no_violation() -> None:
    assert check(a_history()) == []


def test_i1_two_runs_of_one_occurrence() -> None:
    twice = a_history(runs=[a_run(), a_run(OTHER, scope="two")], transitions=a_trail() + a_trail(OTHER))
    assert "I1" in found(twice)


def test_i2_a_second_end() -> None:
    trail = [*a_trail(), a_step(4, "running", "failed", fence=1)]
    assert "I2" in found(a_history(runs=[a_run(seq=4, state="failed")], transitions=trail))


def test_i2_a_way_out_of_a_terminal_state() -> None:
    trail = [*a_trail(), a_step(4, "succeeded", "queued", fence=1)]
    assert {"I2", "I16"} <= found(a_history(runs=[a_run(seq=4, state="queued")], transitions=trail))


def test_i2_a_second_end_that_a_row_keeps_no_trace_of() -> None:
    once = {"run_id": RUN, "was": "running", "state": "succeeded", "fence": 1, "at": NOON}
    assert found(a_history(ends=[once])) == set()
    assert found(a_history(ends=[once, once | {"was": "succeeded"}])) == {"I2"}


def test_i3_an_occurrence_that_became_nothing() -> None:
    assert found(a_history(runs=[], transitions=[])) == {"I3"}


def test_i3_a_run_that_was_not_due() -> None:
    early = NOON - 30 * timedelta(seconds=1)
    assert found(a_history(runs=[a_run(nominal_at=early, effective_at=early)])) == {"I3"}


def test_i3_an_occurrence_that_is_decided_twice() -> None:
    skip = {"trigger_id": TRIGGER, "first_at": NOON, "last_at": NOON, "reason": "missed", "count": 1}
    assert found(a_history(skips=[skip])) == {"I3"}
    assert check(a_history(runs=[], transitions=[], skips=[skip])) == []


def test_i3_a_cursor_that_goes_back() -> None:
    seen = [CursorSeen(TRIGGER, 1, NOON + MINUTE, NOON), CursorSeen(TRIGGER, 1, NOON, NOON + MINUTE)]
    assert found(a_history(cursors=seen)) == {"I3"}
    seen[1] = CursorSeen(TRIGGER, 2, NOON, NOON + MINUTE)
    assert check(a_history(cursors=seen)) == []


def test_i4_a_settlement_by_somebody_who_did_not_hold_the_run() -> None:
    trail = a_trail()
    trail[2] |= {"actor": "replica:b"}
    assert found(a_history(transitions=trail)) == {"I4"}


def test_i4_a_settlement_under_an_old_fence() -> None:
    trail = a_trail()
    trail[2] |= {"fence": 0}
    assert "I4" in found(a_history(transitions=trail))


def test_i4_an_answer_that_accepts_what_was_never_written() -> None:
    stale = Answered(RUN, 7, "replica:a", "succeeded", True, NOON)
    assert found(a_history(ledger=Ledger(answered=[stale]))) == {"I4"}


@pytest.mark.parametrize("change", [{"fence": 0}, {"state": "failed"}, {"actor": "replica:b"}, {"at": NOON + MINUTE}])
def test_i4_a_claim_that_is_closed_by_what_was_not_sent_for_it(change: dict[str, Any]) -> None:
    sent = Sent(RUN, 1, "replica:a", "succeeded", NOON)
    assert check(a_history(ledger=Ledger(sent=[sent]))) == []
    assert found(a_history(ledger=Ledger(sent=[dataclasses.replace(sent, **change)]))) == {"I4"}


def test_i5_a_run_in_the_name_of_a_holder_that_left() -> None:
    gone = {"holder": OTHER, "ended_at": NOON, "end_reason": "released", "expires_at": NOON + MINUTE}
    run = a_run(state="running", seq=2, holder=OTHER, finished_at=None)
    assert found(a_history(runs=[run], transitions=a_trail()[:2], leases=[gone])) == {"I5"}


def test_i6_two_attempts_of_one_scope_at_once() -> None:
    both = [a_run(), a_run(OTHER, kind="manual")]
    assert found(a_history(runs=both, transitions=a_trail() + a_trail(OTHER))) == {"I6"}


def test_i6_more_attempts_than_the_agents_limit() -> None:
    agents = [{"name": "scribe", "concurrency": 1, "concurrency_key": None}]
    both = [a_run(scope=None), a_run(OTHER, kind="manual", scope=None)]
    assert found(a_history(runs=both, transitions=a_trail() + a_trail(OTHER), agents=agents)) == {"I6"}


def test_i6_one_attempt_after_the_other_is_no_overlap() -> None:
    later = [row | {"at": row["at"] + timedelta(seconds=10)} for row in a_trail(OTHER)]
    assert check(a_history(runs=[a_run(), a_run(OTHER, kind="manual")], transitions=a_trail() + later)) == []


def test_i8_an_attempt_too_many() -> None:
    assert found(a_history(runs=[a_run(attempt=2)])) == {"I8"}


@pytest.mark.parametrize("poisoned", [set(), {TRIGGER}])
def test_i9_who_is_quarantined_and_who_is_not(poisoned: set[UUID]) -> None:
    history = a_history(poisoned=poisoned)
    if not poisoned:
        history.triggers[0] = dict(history.triggers[0]) | {"status": "broken", "broken_reason": "so it says"}
    assert found(history) == {"I9"}


def test_i9_a_trigger_that_nobody_looks_at() -> None:
    history = a_history()
    history.triggers[0] = dict(history.triggers[0]) | {"wake_at": NOON - timedelta(hours=1)}
    assert found(history) == {"I9"}


def test_i14_a_run_that_began_too_early() -> None:
    assert found(a_history(runs=[a_run(effective_at=NOON + MINUTE)])) == {"I14"}
    early = Begun(RUN, 1, "replica:a", NOON, NOON + MINUTE)
    assert found(a_history(ledger=Ledger(begun=[early]))) == {"I14"}


@pytest.mark.parametrize(
    "change", [{"seq": 4}, {"actor": ""}, {"from_state": "queued", "to_state": "succeeded"}, {"to_state": "skipped"}]
)
def test_i16_a_transition_that_is_no_edge(change: dict[str, Any]) -> None:
    trail = a_trail()
    trail[2] |= change
    assert "I16" in found(a_history(transitions=trail))


def test_a_violation_shows_few_rows_and_only_what_tells() -> None:
    [violation] = check(a_history(runs=[a_run(attempt=2)]))
    text = str(violation)
    assert text.startswith(f"I8: run {RUN} had more than 1 attempts")
    assert "max_attempts" not in text
    assert len(text.splitlines()) <= 5
