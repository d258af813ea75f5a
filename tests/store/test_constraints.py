"""Rows that cannot be: the tables refuse them, whoever writes."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tocsin.domain.run import TERMINAL, TRANSITIONS, RunState, SkipReason
from tocsin.store.migrate import migrations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATES = Path(__file__).parents[2] / "docs" / "states.md"
TRIGGER = UUID(int=1)
HOLDER = UUID(int=9)

RUN: dict[str, Any] = {
    "id": UUID(int=7),
    "trigger_id": TRIGGER,
    "trigger_version": 1,
    "agent": "agent",
    "kind": "schedule",
    "nominal_at": NOON,
    "effective_at": NOON,
    "lane": "live",
    "priority": 5,
    "overlap": "allow",
    "available_at": NOON,
    "max_attempts": 2,
    "input": "null",
    "queued_at": NOON,
    "asked_by": "x",
}
CLAIMED = {"attempt": 1, "fence": 1, "claimed_by": HOLDER, "started_at": NOON}
RUNNING = CLAIMED | {"state": "running", "holder": HOLDER, "seq": 2}
ENDED = CLAIMED | {"state": "succeeded", "finished_at": NOON, "seq": 3}
STANDING: dict[RunState, dict[str, Any]] = {
    RunState.QUEUED: {"state": "queued", "seq": 1},
    RunState.RUNNING: RUNNING,
    RunState.SUCCEEDED: ENDED,
    RunState.FAILED: ENDED | {"state": "failed"},
    RunState.CANCELLED: ENDED | {"state": "cancelled"},
    RunState.SKIPPED: {"state": "skipped", "reason": "overlap", "finished_at": NOON, "seq": 2},
}
TRIGGER_ROW: dict[str, Any] = {
    "id": TRIGGER,
    "name": "t",
    "agent": "agent",
    "policy": "{}",
    "input": "null",
    "source": "app.py",
    "status": "manual",
    "created_at": NOON,
    "changed_at": NOON,
}
#: How the driver writes infinity.
FOR_EVER = datetime.max  # noqa: DTZ901 — the driver knows it by this very value
INSTANTS = ("nominal_at", "effective_at", "available_at", "not_after", "deadline_at")
EDGE: dict[str, Any] = {
    "run_id": UUID(int=7), "seq": 2, "from_state": "queued", "to_state": "running", "attempt": 1, "fence": 1,
    "actor": "x", "at": NOON,
}  # fmt: skip
SKIP: dict[str, Any] = {
    "trigger_id": TRIGGER, "first_at": NOON, "reason": "missed", "last_at": NOON, "count": 1, "decided_at": NOON,
    "actor": "x",
}  # fmt: skip
AGENT: dict[str, Any] = {
    "name": "other", "spec": "{}", "max_attempts": 1, "on_lost": "retry", "source": "x", "declared_at": NOON,
}  # fmt: skip
OCCURRENCE: dict[str, Any] = {"trigger_id": TRIGGER, "nominal_at": NOON, "run_id": UUID(int=7)}
LEASE: dict[str, Any] = {"holder": HOLDER, "expires_at": NOON, "renewed_at": NOON}
ATTEMPT: dict[str, Any] = {"run_id": UUID(int=7), "fence": 1, "attempt": 1}


class Table:
    """Writes rows behind everybody's back."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def insert(self, name: str, base: dict[str, Any], /, **changes: Any) -> None:
        values = base | changes
        places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await self._connection.execute(
            f"INSERT INTO tocsin.{name} ({', '.join(values)}) VALUES ({places})", *values.values()
        )

    async def update(self, name: str, row_id: UUID, /, **changes: Any) -> None:
        sets = ", ".join(f"{column} = ${n}" for n, column in enumerate(changes, 2))
        await self._connection.execute(f"UPDATE tocsin.{name} SET {sets} WHERE id = $1", row_id, *changes.values())

    async def refused(self, name: str, base: dict[str, Any], constraint: str, /, **changes: Any) -> None:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
            await self.insert(name, base, **changes)
        assert caught.value.constraint_name == constraint, caught.value


@pytest.fixture
async def table(dsn: str) -> AsyncIterator[Table]:
    connection = await asyncpg.connect(dsn)
    try:
        table = Table(connection)
        await table.insert("agents", AGENT, name="agent")
        yield table
    finally:
        await connection.close()


async def test_the_rows_that_the_others_differ_from_are_taken(table: Table) -> None:
    for name, base in (
        ("triggers", TRIGGER_ROW), ("runs", RUN), ("past_transitions", EDGE), ("skips", SKIP), ("agents", AGENT),
        ("leases", LEASE), ("attempts", ATTEMPT),
    ):  # fmt: skip
        await table.insert(name, base)
    possible: list[dict[str, Any]] = [RUNNING, ENDED, {"overlap": "skip", "scope": "s"}]
    for number, changes in enumerate(possible, 100):
        await table.insert("runs", RUN, id=UUID(int=number), occurrence_key=str(number), kind="manual", **changes)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("runs_held_while_running", RUNNING | {"holder": None}),
        ("runs_held_while_running", {"holder": HOLDER}),
        ("runs_held_while_running", ENDED | {"holder": HOLDER}),
        ("runs_finished_when_ended", ENDED | {"finished_at": None}),
        ("runs_finished_when_ended", {"finished_at": NOON}),
        ("runs_finished_when_ended", {"state": "skipped", "reason": "overlap"}),
        ("runs_skip_says_why", {"state": "skipped", "finished_at": NOON}),
        ("runs_attempts_bounded", RUNNING | {"attempt": 3, "fence": 3}),
        ("runs_attempts_bounded", {"attempt": -1}),
        ("runs_fence_counts_claims", RUNNING | {"fence": 0}),
        ("runs_fence_counts_claims", RUNNING | {"claimed_by": None}),
        ("runs_took_edges", RUNNING | {"seq": 3}),
        ("runs_took_edges", {"seq": 2}),
        ("runs_ended_by_somebody", {"ended_by": "x"}),
        ("runs_permit_while_running", {"permit": 0, "permit_scope": "agent"}),
        ("runs_permit_check", RUNNING | {"permit": -1, "permit_scope": "agent"}),
        ("runs_exclusive_has_scope", {"overlap": "skip"}),
        ("runs_exclusive_has_scope", {"scope": "s"}),
        ("runs_keyed_unless_scheduled", {"occurrence_key": "k"}),
        ("runs_keyed_unless_scheduled", {"kind": "manual"}),
        ("runs_state_check", {"state": "sleeping"}),
        ("runs_kind_check", {"kind": "accident", "occurrence_key": "k"}),
        ("runs_lane_check", {"lane": "fast"}),
        ("runs_overlap_check", {"overlap": "maybe", "scope": "s"}),
        ("runs_priority_check", {"priority": 10}),
        ("runs_max_attempts_check", {"max_attempts": 0}),
        *(("runs_within_calendar", {name: FOR_EVER}) for name in INSTANTS),
    ],
)
async def test_an_impossible_run_is_refused(table: Table, constraint: str, changes: dict[str, Any]) -> None:
    await table.refused("runs", RUN, constraint, **changes)


async def test_an_occurrence_is_taken_once_in_whatever_state(table: Table) -> None:
    await table.insert("occurrences", OCCURRENCE)
    await table.refused("occurrences", OCCURRENCE, "occurrences_instant", run_id=UUID(int=8))
    await table.insert("occurrences", OCCURRENCE, key="by hand, at the same instant")


async def test_a_key_by_hand_is_taken_once_whenever(table: Table) -> None:
    await table.insert("occurrences", OCCURRENCE, key="k")
    later = NOON.replace(hour=13)
    await table.refused("occurrences", OCCURRENCE, "occurrences_key", key="k", nominal_at=later)


async def test_of_one_scope_only_one_runs(table: Table) -> None:
    one, two = ({"kind": "manual", "occurrence_key": key, "overlap": "skip", "scope": "s"} for key in "ab")
    await table.insert("runs", RUN, **one, **RUNNING)
    await table.refused("runs", RUN, "runs_scope_held", id=UUID(int=8), **two, **RUNNING)
    await table.insert("runs", RUN, id=UUID(int=8), **two)


async def test_a_permit_is_held_by_one(table: Table) -> None:
    one, two = ({"kind": "manual", "occurrence_key": key, "permit": 0, "permit_scope": "agent"} for key in "ab")
    await table.insert("runs", RUN, **one, **RUNNING)
    await table.refused("runs", RUN, "runs_permit_held", id=UUID(int=8), **two, **RUNNING)
    await table.insert("runs", RUN, id=UUID(int=8), **(two | {"permit": 1}), **RUNNING)


@pytest.mark.parametrize(
    ("name", "base", "constraint", "changes"),
    [
        ("triggers", TRIGGER_ROW, "triggers_armed_has_next", {"status": "armed", "next_at": NOON}),
        ("triggers", TRIGGER_ROW, "triggers_armed_has_next", {"wake_at": NOON}),
        ("triggers", TRIGGER_ROW, "triggers_armed_has_cursor", {"status": "armed", "wake_at": NOON}),
        ("triggers", TRIGGER_ROW, "triggers_broken_says_why", {"status": "broken"}),
        ("triggers", TRIGGER_ROW, "triggers_broken_says_why", {"broken_reason": "x"}),
        ("triggers", TRIGGER_ROW, "triggers_paused_since", {"paused": ["user"]}),
        ("triggers", TRIGGER_ROW, "triggers_gap_whole", {"gap_reason": "missed"}),
        ("triggers", TRIGGER_ROW, "triggers_status_check", {"status": "asleep"}),
        ("triggers", TRIGGER_ROW, "triggers_version_check", {"version": 0}),
        ("triggers", TRIGGER_ROW, "triggers_agent_fkey", {"agent": "nobody"}),
        ("agents", AGENT, "agents_check", {"concurrency_key": "repo"}),
        ("agents", AGENT, "agents_concurrency_check", {"concurrency": 0}),
        ("agents", AGENT, "agents_max_attempts_check", {"max_attempts": 0}),
        ("agents", AGENT, "agents_on_lost_check", {"on_lost": "shrug"}),
        ("attempts", ATTEMPT, "attempts_fraction_check", {"fraction": 1.5}),
        ("attempts", ATTEMPT, "attempts_fence_check", {"fence": 0}),
        ("leases", LEASE, "leases_end_says_why", {"ended_at": NOON}),
        ("leases", LEASE, "leases_end_says_why", {"end_reason": "lost"}),
        ("skips", SKIP, "skips_reason_check", {"reason": "weather"}),
        ("skips", SKIP, "skips_count_check", {"count": 0}),
        ("skips", SKIP, "skips_in_order", {"last_at": NOON.replace(hour=11), "count": 2}),
        ("skips", SKIP, "skips_single", {"last_at": NOON.replace(hour=13)}),
        ("past_transitions", EDGE, "past_transitions_are_edges", {"seq": 3}),
        ("past_transitions", EDGE, "past_transitions_are_edges", {"seq": 0, "fence": 0}),
    ],
)
async def test_an_impossible_row_is_refused(
    table: Table, name: str, base: dict[str, Any], constraint: str, changes: dict[str, Any]
) -> None:
    await table.refused(name, base, constraint, **changes)


async def test_a_name_is_free_again_once_its_trigger_is_deleted(table: Table) -> None:
    await table.insert("triggers", TRIGGER_ROW)
    with pytest.raises(asyncpg.UniqueViolationError):
        await table.insert("triggers", TRIGGER_ROW, id=UUID(int=2))
    await table.insert("triggers", TRIGGER_ROW, id=UUID(int=2), status="deleted", name="u")
    await table.insert("triggers", TRIGGER_ROW, id=UUID(int=3), name="u")


async def test_a_row_takes_the_edges_of_the_graph_alone(table: Table) -> None:
    """An edge is one more of seq, and a claim one more of the fence; whoever writes otherwise is refused.

    That an ended run stays ended is for the statements, each of which names the state that it leaves: a row
    does not know what it was.
    """
    alive = [start for start in RunState if start not in TERMINAL]
    for number, (start, end) in enumerate(((start, end) for start in alive for end in RunState), 100):
        before = STANDING[start]
        await table.insert("runs", RUN, id=UUID(int=number), **before)
        fence = before.get("fence", 0) + (end is RunState.RUNNING)
        claimed = CLAIMED if fence else dict.fromkeys(CLAIMED)
        edge = {"fence": fence, "attempt": fence, "seq": before["seq"] + 1}
        left = {"holder": None, "finished_at": None, "reason": None}
        changed = table.update("runs", UUID(int=number), **(left | STANDING[end] | claimed | edge))
        if end in TRANSITIONS[start]:
            await changed
        else:
            with pytest.raises(asyncpg.CheckViolationError):
                await changed


async def test_the_older_trail_takes_claims_and_ways_back_only(table: Table) -> None:
    number = 100
    for start in RunState:
        for end in RunState:
            number += 1
            seq = 2 if end is RunState.RUNNING else 3
            edge = {"run_id": UUID(int=number), "from_state": start.value, "to_state": end.value, "seq": seq}
            if (start, end) in ((RunState.QUEUED, RunState.RUNNING), (RunState.RUNNING, RunState.QUEUED)):
                await table.insert("past_transitions", EDGE, **edge)
            else:
                await table.refused("past_transitions", EDGE, "past_transitions_are_edges", **edge)


def test_terminal_states_are_those_that_a_finished_run_may_have() -> None:
    text = " ".join(migration.text for migration in migrations())
    found = re.search(r"\(finished_at IS NOT NULL\) = \(state IN \(([^)]*)\)\)", text)
    assert found is not None
    assert {name.strip().strip("'") for name in found[1].split(",")} == {state.value for state in TERMINAL}


async def test_every_reason_to_skip_can_be_recorded(table: Table) -> None:
    for reason in SkipReason:
        await table.insert("skips", SKIP, reason=reason.value)


@pytest.mark.skipif(not STATES.exists(), reason="docs/states.md is not part of this tree")
def test_the_documented_graph_is_the_one_that_is_enforced() -> None:
    graph = "\n".join(re.findall(r"```mermaid\n(.*?)```", STATES.read_text(encoding="utf-8"), re.DOTALL))
    names = "|".join(state.value for state in RunState)
    told = set(re.findall(rf"^\s*({names})\s*-->\s*({names})", graph, re.MULTILINE))
    assert told == {(start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends}


EVENT: dict[str, Any] = {"source": "/shop", "id": "1", "type": "order.paid", "data": "{}", "received_at": NOON}


async def test_a_webhook_s_body_is_there_with_its_size_and_type_or_not_at_all(table: Table) -> None:
    await table.insert("events", EVENT)
    await table.insert("events", EVENT, id="2", body=b"", size=0, media="")
    for part in ({"body": b"x"}, {"size": 1}, {"media": "x"}, {"body": b"x", "size": 1}):
        await table.refused("events", EVENT, "events_body_whole", id="3", **part)
    await table.refused("events", EVENT, "events_extensions_check", id="3", extensions="[]")


async def test_what_was_signed_is_taken_once_from_its_source(table: Table) -> None:
    await table.insert("events", EVENT, digest=b"x")
    with pytest.raises(asyncpg.UniqueViolationError):
        await table.insert("events", EVENT, id="2", digest=b"x")
    await table.insert("events", EVENT, source="/other", digest=b"x")
    await table.insert("events", EVENT, id="3")
    await table.insert("events", EVENT, id="4")


async def test_an_event_came_to_a_run_or_to_a_reason(table: Table) -> None:
    call = {"event_seq": 1, "trigger_id": TRIGGER, "run_id": UUID(int=7), "reason": None}
    await table.insert("event_calls", call)
    await table.insert("event_calls", call, event_seq=2, run_id=None, reason="paused")
    await table.refused("event_calls", call, "event_calls_run_or_reason", event_seq=3, reason="paused")
    await table.refused("event_calls", call, "event_calls_run_or_reason", event_seq=3, run_id=None)
