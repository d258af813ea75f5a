"""Three guards over the SQL: every block is used, every block prepares, and every hot block keeps to its indexes."""

import ast
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

import tocsin
from tests.conftest import Server
from tocsin.store.database import session_settings
from tocsin.store.statements import bind, load, parse

SOURCE: Final = Path(tocsin.__file__).parent
RUNS: Final = 200_000
TRIGGERS: Final = 50_000
EVENTS: Final = 50_000
GUARDED: Final = {"runs", "triggers", "past_transitions", "occurrences", "events", "event_calls", "feed", "audit"}

#: Hot block → the indexes by which it reaches the large tables.
HOT: Final[dict[str, set[str]]] = {
    "claim": {"runs_ready", "runs_scope_held", "runs_pkey"},
    "claim_plain": {"runs_ready", "runs_pkey"},
    "settle": {"runs_pkey", "past_transitions_pkey", "triggers_hearing"},
    "settle_plain": {"runs_pkey", "triggers_hearing"},
    "report": {"runs_pkey", "attempts_pkey"},
    "materialise": {"triggers_pkey"},
    "lock_due": {"triggers_wake"},
    "next_wake": {"triggers_wake"},
    "read_gauges": {"runs_ready", "runs_running", "triggers_wake", "events_unmatched"},
    "look": {"triggers_wake", "runs_ready", "runs_running", "runs_cancelling", "triggers_waiting", "events_unmatched"},
    "renew": {"runs_pkey", "leases_pkey"},
    "sweep": {"runs_running"},
    "strays": {"runs_running"},
    "fence_uncancelled": {"runs_cancelling"},
    "free_locks": {"runs_running", "leases_pkey"},
    "lock_waiting": {"triggers_waiting", "occurrences_instant", "runs_pkey"},
    "rearm": set(),
    "enqueue": {"occurrences_key", "triggers_pkey"},
    "insert_events": set(),
    "take_events": {"events_unmatched"},
    "mark_events": {"events_pkey"},
    "list_listening": {"triggers_listening"},
    "hold_listening": {"triggers_listening"},
    "hold_window_runs": {"runs_pkey"},
    "fire_events": {"triggers_listening", "runs_pkey", "occurrences_key"},
    "note_events": set(),
    "get_event": {"events_seq_key"},
    "list_events": {"events_seq_key", "event_calls_pkey"},
    "list_hooks": {"triggers_hooked"},
    "prune_events": {"events_received", "events_pkey"},
    "read_feed": {"feed_unseen", "feed_pkey", "runs_pkey", "triggers_pkey"},
    "page_feed": {"feed_pkey", "runs_pkey", "triggers_pkey"},
    "cut_of_feed": {"feed_unseen"},
    "is_feed_foreign": {"feed_unseen"},
    "prune_feed": {"feed_unseen", "feed_pkey"},
    "prune_runs": {"runs_pkey", "past_transitions_pkey", "occurrences_instant", "occurrences_key"},
    "get_trigger": {"triggers_name"},
    "lock_named": {"triggers_name"},
    "withdraw": {"runs_queued"},
    "list_runs": {"runs_pkey"},
    "why": {"occurrences_instant", "occurrences_key", "runs_pkey"},
    "list_changes": {"audit_target"},
    "change_triggers": {"triggers_pkey"},
    "set_paused": {"triggers_pkey"},
}

#: Index → the columns without which it would be walked from end to end.
REACHED_BY: Final = {
    "runs_pkey": ["id"],
    "runs_queued": ["trigger_id"],
    "runs_unsuccessful": ["state"],
    "occurrences_instant": ["trigger_id"],
    "occurrences_key": ["trigger_id"],
    "runs_ready": ["agent", "lane"],
    "runs_scope_held": ["scope"],
    "runs_scope_waiting": ["scope"],
    "triggers_pkey": ["id"],
    "events_pkey": ["source", "id"],
    "events_seq_key": ["seq"],
    "event_calls_pkey": ["event_seq"],
    "past_transitions_pkey": ["run_id"],
}

FILL: Final = f"""
INSERT INTO tocsin.agents (name, spec, max_attempts, on_lost, source, declared_at)
SELECT 'agent-' || n, '{{"cancel_within": "30 seconds"}}', 1, 'retry', 'x', now() FROM generate_series(0, 19) n;
INSERT INTO tocsin.triggers (id, name, agent, policy, input, source, status, next_at, wake_at, created_at, changed_at)
SELECT gen_random_uuid(), 't-' || n, 'agent-' || n % 20, '{{}}', 'null', 'x', 'armed', now() + n * interval '1 second',
       now() + n * interval '1 second', now(), now()
  FROM generate_series(1, {TRIGGERS}) n;
WITH t AS MATERIALIZED (SELECT array_agg(id) AS ids FROM tocsin.triggers)
INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, lane, priority,
                         overlap, scope, state, available_at, max_attempts, attempt, fence, seq, holder, claimed_by,
                         started_at, input, queued_at, asked_by, finished_at)
SELECT gen_random_uuid(), t.ids[1 + n % {TRIGGERS}], 1, 'agent-' || n % 20, 'schedule', now() - n * interval '1 second',
       now() - n * interval '1 second', 'live', 5, 'skip', n::text,
       CASE WHEN n <= 50 THEN 'running' WHEN n <= 3000 THEN 'queued' ELSE 'succeeded' END,
       now() - n * interval '1 second', 1, (n <= 50 OR n > 3000)::integer, (n <= 50 OR n > 3000)::integer,
       CASE WHEN n <= 50 THEN 2 WHEN n <= 3000 THEN 1 ELSE 3 END,
       CASE WHEN n <= 50 THEN ('00000000-0000-0000-0000-00000000000' || n % 5)::uuid END,
       CASE WHEN n <= 50 OR n > 3000 THEN '00000000-0000-0000-0000-000000000000'::uuid END,
       CASE WHEN n <= 50 OR n > 3000 THEN now() END, 'null', now(), 'x', CASE WHEN n > 3000 THEN now() END
  FROM t, generate_series(1, {RUNS}) n;
INSERT INTO tocsin.past_transitions (run_id, seq, from_state, to_state, attempt, fence, actor, at)
SELECT id, 2, 'queued', 'running', 1, 1, 'x', now() FROM tocsin.runs;
INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
SELECT trigger_id, nominal_at, k.key, id FROM tocsin.runs CROSS JOIN LATERAL (VALUES (NULL), (id::text)) AS k (key);
INSERT INTO tocsin.events (source, id, type, data, received_at, matched_at)
SELECT 'https://shop/' || n % 10, n::text, 'order.paid', '{{}}', now(), now() FROM generate_series(1, {EVENTS}) n;
INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, at)
SELECT id, 1, 'queued', 0, 0, 'x', now() FROM tocsin.runs;
INSERT INTO tocsin.event_calls (event_seq, trigger_id, run_id)
SELECT e.seq, t.id, gen_random_uuid() FROM tocsin.events e, (SELECT id FROM tocsin.triggers LIMIT 2) t
"""


def names_used() -> dict[str, set[str]]:
    """Block → modules that name it: as the first argument of fetch and fetchrow, or as a value in the store."""
    used: dict[str, set[str]] = {}
    for module in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            for name in _named(node):
                used.setdefault(name, set()).add(module.relative_to(SOURCE).as_posix())
    return used


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        first = node.args[0]
        # A text with a space in it is SQL of its own, which only migrations have.
        if node.func.attr in ("fetch", "fetchrow") and isinstance(first, ast.Constant) and " " not in str(first.value):
            yield str(first.value)
    elif (
        isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "blocks"
        and isinstance(node.value, ast.Dict)
    ):
        yield from (str(value.value) for value in node.value.values if isinstance(value, ast.Constant))


def test_every_used_name_exists() -> None:
    missing = {name: modules for name, modules in names_used().items() if name not in load()}
    assert not missing


def test_every_block_is_used() -> None:
    assert set(load()) - set(names_used()) == set()


def test_a_name_keeps_one_position_and_casts_and_texts_are_left_alone() -> None:
    statement = bind("x", "SELECT :a::text, ':not', 'it''s :neither', :b, :a -- :nor\nFROM t")
    assert statement.text == "SELECT $1::text, ':not', 'it''s :neither', $2, $1\nFROM t"
    assert statement.parameters == ("a", "b")


@pytest.mark.parametrize("text", ["SELECT 1\n-- name: a\nSELECT 2", "-- name: a\nSELECT 1\n-- name: a\nSELECT 2"])
def test_sql_without_a_name_or_with_a_name_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"before the first block|stands twice"):
        parse(text)


def test_a_guard_can_be_broken_on_purpose_only_where_it_stands() -> None:
    assert "fence" not in load().altered("mark_draining", "draining = true", "draining = false")["mark_draining"].text
    with pytest.raises(ValueError, match="has no 'nonsense'"):
        load().altered("settle", "nonsense", "")


async def test_every_block_prepares_against_the_migrated_schema(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, server_settings=session_settings("test", pooler=False))
    try:
        for name, statement in load().items():
            prepared = await connection.prepare(statement.text)
            assert len(prepared.get_parameters()) == len(statement.parameters), name
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def full(server: Server, template: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session as the engine has it, on a database with 200,000 runs that was never analysed."""
    async with server.database(template) as dsn:
        connection = await asyncpg.connect(dsn, server_settings=session_settings("test", pooler=False))
        try:
            for table in ("agents", "triggers", "runs", "past_transitions", "events", "feed"):
                await connection.execute(f"ALTER TABLE tocsin.{table} SET (autovacuum_enabled = off)")
            await connection.execute(FILL)
            yield connection
        finally:
            await connection.close()


async def plan_of(connection: "asyncpg.Connection[asyncpg.Record]", name: str) -> list[dict[str, Any]]:
    """Every node of the generic plan, which is the one the engine's sessions keep."""
    statement = load()[name]
    nulls = ", ".join(["NULL"] * len(statement.parameters))
    await connection.execute(f"PREPARE guarded AS {statement.text}")
    try:
        told = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE guarded {f'({nulls})' if nulls else ''}")
    finally:
        await connection.execute("DEALLOCATE guarded")
    nodes, stack = [], [json.loads(told)[0]["Plan"]]
    while stack:
        node = stack.pop()
        nodes.append(node)
        stack.extend(node.get("Plans", ()))
    return nodes


async def check_hot_blocks(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for name, expected in HOT.items():
        nodes = await plan_of(connection, name)
        scanned = {n["Relation Name"] for n in nodes if n["Node Type"] == "Seq Scan"}
        assert not scanned & GUARDED, f"{name} scans {scanned}"
        indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
        assert expected <= indexes, f"{name} goes by {indexes}"
        unbounded = [
            node["Index Name"]
            for node in nodes
            if node["Node Type"] in ("Index Scan", "Index Only Scan")
            and not set(REACHED_BY.get(node["Index Name"], ()))
            <= set(node.get("Index Cond", "").replace("(", " ").split())
        ]
        assert not unbounded, f"{name} walks all of {unbounded}"


async def test_hot_blocks_keep_to_their_indexes_before_anything_was_analysed(
    full: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await check_hot_blocks(full)


async def test_hot_blocks_keep_to_their_indexes_once_all_is_analysed(
    full: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await full.execute("ANALYZE")
    await check_hot_blocks(full)


@pytest.mark.parametrize("is_analysed", [False, True])
async def test_a_look_at_the_feed_reaches_only_what_was_not_seen(
    full: "asyncpg.Connection[asyncpg.Record]", is_analysed: bool
) -> None:
    if is_analysed:
        await full.execute("ANALYZE")
    looked = [node for node in await plan_of(full, "read_feed") if node.get("Index Name") == "feed_unseen"]
    assert len(looked) == 2
    assert all("xid" in node["Index Cond"] for node in looked)


@pytest.mark.parametrize("name", ["list_runs", "list_triggers", "list_audit", "list_audit_of", "list_events"])
@pytest.mark.parametrize("is_analysed", [False, True])
async def test_a_page_is_walked_in_order_and_not_collected(
    full: "asyncpg.Connection[asyncpg.Record]", name: str, is_analysed: bool
) -> None:
    if is_analysed:
        await full.execute("ANALYZE")
    nodes = await plan_of(full, name)
    # What belongs to one row of the page may be collected.
    nodes = [node for node in nodes if node.get("Relation Name") != "event_calls"]
    assert not {node["Node Type"] for node in nodes} & {"Sort", "Incremental Sort", "Bitmap Heap Scan", "Seq Scan"}


@pytest.mark.parametrize("is_analysed", [False, True])
async def test_runs_that_did_not_succeed_are_found_by_how_they_ended(
    full: "asyncpg.Connection[asyncpg.Record]", is_analysed: bool
) -> None:
    if is_analysed:
        await full.execute("ANALYZE")
    nodes = await plan_of(full, "list_unsuccessful_runs")
    found = {node["Index Name"]: node.get("Index Cond", "") for node in nodes if "Index Name" in node}
    assert {"runs_unsuccessful", "runs_running", "runs_queued", "runs_pkey"} <= set(found)
    assert "state" in found["runs_unsuccessful"]
    assert "id <" in found["runs_unsuccessful"]
    assert "Seq Scan" not in {node["Node Type"] for node in nodes if node.get("Relation Name") in GUARDED}


@pytest.mark.parametrize("name", ["settle", "settle_plain", "report"])
async def test_writes_for_many_attempts_find_each_run_by_its_id(
    full: "asyncpg.Connection[asyncpg.Record]", name: str
) -> None:
    """By its holder's runs instead, ten thousand in hand would cost each batch ten thousand times its size."""
    nodes = await plan_of(full, name)
    assert not [node for node in nodes if node.get("Index Name") == "runs_running"]


async def test_hot_blocks_keep_to_their_indexes_where_all_had_ended_when_it_was_analysed(
    full: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    """Then nothing is queued and nothing runs, as far as the statistics know: any small index would look right."""
    await full.execute("DELETE FROM tocsin.runs WHERE finished_at IS NULL")
    await full.execute("VACUUM ANALYZE tocsin.runs")
    await check_hot_blocks(full)
