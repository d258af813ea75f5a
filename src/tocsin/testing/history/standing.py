"""What is promised of what stands: I0 instants, I3 windows, I15 edits, I16 trails, I17 durability, I18 convergence."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tocsin.testing.history import Declared, Row
from tocsin.testing.history.logs import Change, Logs, read_policy
from tocsin.testing.history.tables import declared
from tocsin.testing.invariants import limit_key
from tocsin.testing.occurrences import enumerate_schedule
from tocsin.testing.violation import Violation

_REACH = timedelta(minutes=10)
"""How far behind the end of a history a cursor is looked up."""

_LEAST_WINDOW = timedelta(seconds=60)
"""What a trigger of at most two minutes has that does not say."""

_MARGIN = timedelta(seconds=3)
"""Jitter moves the window's edge."""

_STANDING: Final[Mapping[str, Callable[[Row], bool]]] = {
    "pause": lambda trigger: "user" in trigger["paused"],
    "resume": lambda trigger: not trigger["paused"],
    "delete": lambda trigger: trigger["status"] == "deleted",
}
"""What a call leaves a trigger as, until the next."""


def i0_cursors(logs: Logs) -> Iterator[Violation]:
    """Whichever replica moved it, a cursor stands on an instant that the second opinion has too."""
    versions: dict[UUID, list[tuple[Declared, set[datetime]]]] = {}
    for one in declared(logs):
        if not one.form["rules"][0].get("after_completion"):
            due = set(enumerate_schedule(one.form, one.since, (one.until or logs.until) + _REACH))
            versions.setdefault(one.trigger_id, []).append((one, due))
    for change in logs.changes("triggers"):
        row = change.after
        if row is None or row["status"] != "armed" or not change.moved("next_at"):
            continue
        known = versions.get(UUID(row["id"]))
        if known is None or row["next_at"] > logs.until + _REACH:
            continue
        if not any(row["next_at"] in due for _, due in known):
            message = f"{row['name']} is to fire at {row['next_at']}, which no reading of it says"
            yield Violation("I0", message, [row], change.at)


def i3_nothing_missed_in_time(logs: Logs) -> Iterator[Violation]:
    """Within its window an occurrence is missed only where the policy keeps a younger one, or none."""
    triggers = {str(row["id"]): row for row in logs.tables.get("triggers", [])}
    ran: dict[tuple[int, str], datetime] = {}
    for change in logs.changes("runs"):
        if change.before is None and change.row["kind"] == "schedule":
            key = (change.txid, str(change.row["trigger_id"]))
            ran[key] = max(change.row["nominal_at"], ran.get(key, change.row["nominal_at"]))
    for change in logs.changes("skips"):
        row = change.after
        trigger = triggers.get(row["trigger_id"]) if row is not None and row["reason"] == "missed" else None
        if row is None or trigger is None:
            continue
        policy = read_policy(trigger)
        window = timedelta(seconds=policy.get("catch_up_window") or 0) or _LEAST_WINDOW
        if policy.get("catch_up_window") == 0 or row["last_at"] < change.began - window + _MARGIN:
            continue
        younger = ran.get((change.txid, row["trigger_id"]))
        kept = younger is not None and younger > row["last_at"]
        if policy["catch_up"] == "all" or (policy["catch_up"] == "latest" and not kept):
            message = f"{trigger['name']} missed {row['last_at']} at {change.began}, within its window of {window}"
            yield Violation("I3", message, [row, trigger], change.at)


def i15_non_retroactive(logs: Logs) -> Iterator[Violation]:
    """A paused, deleted or former version of a trigger begets no run; nothing that was decided is undone."""
    stands: dict[str, Change] = {}
    for change in logs.audit:
        row = change.row
        if change.table == "triggers":
            stands[row["id"]] = change
        elif change.table == "runs" and change.before is None and row["kind"] == "schedule":
            yield from _begotten(stands.get(row["trigger_id"]), change)
        elif change.table == "runs" and change.after is None:
            yield Violation("I15", f"run {row['id']} was decided, and is gone", [row], change.at)
        elif change.table == "skips" and change.before is not None:
            yield from _taken_back(change)


def _begotten(trigger: Change | None, run: Change) -> Iterator[Violation]:
    if trigger is None or trigger.txid == run.txid:
        return  # in one transaction: the order of its rows says nothing
    state, row = trigger.row, run.row
    if state["status"] == "deleted":
        yield Violation(
            "I15", f"{state['name']} was deleted, and had a run at {row['nominal_at']}", [state, row], run.at
        )
    elif state["paused"]:
        yield Violation(
            "I15", f"{state['name']} was paused, and had a run at {row['nominal_at']}", [state, row], run.at
        )
    elif row["trigger_version"] != state["version"]:
        message = f"{state['name']} is at version {state['version']}, and had a run of {row['trigger_version']}"
        yield Violation("I15", message, [state, row], run.at)


def _taken_back(change: Change) -> Iterator[Violation]:
    """An account is only taken back by a resume, which runs that occurrence instead: one at a time."""
    before = change.before
    assert before is not None  # the caller has looked
    left = change.after["count"] if change.after is not None else 0
    if left < before["count"] - 1 or (left < before["count"] and before["reason"] != "paused"):
        yield Violation("I15", f"{before['count'] - left} skips that were decided are gone", [before], change.at)


def i16_trail_matches(logs: Logs) -> Iterator[Violation]:
    """Each change of a run's state is in its trail, under its number, with the fence it was made under."""
    trail = {(str(row["run_id"]), row["seq"]): row for row in logs.tables.get("transitions", [])}
    alive = {str(row["id"]) for row in logs.tables.get("runs", [])}
    for change in logs.changes("runs"):
        row = change.after
        if row is None or row["id"] not in alive or not (change.before is None or change.moved("state")):
            continue
        noted = trail.get((row["id"], row["seq"]))
        if noted is None or noted["to_state"] != row["state"] or noted["fence"] != row["fence"]:
            message = f"run {row['id']} became {row['state']} under {row['fence']}, and its trail does not say so"
            yield Violation("I16", message, [row, *([noted] if noted else [])], change.at)


def i17_durable(logs: Logs) -> Iterator[Violation]:
    """What was answered is there at the end, and what anybody has seen committed too."""
    there = {(str(row["run_id"]), row["seq"], row["to_state"]) for row in logs.tables.get("transitions", [])}
    for run_id, seq, state in sorted(logs.seen - there):
        yield Violation("I17", f"run {run_id} was seen to become {state} (transition {seq}), and that is lost", [])
    runs = {str(row["id"]): row for row in logs.tables.get("runs", [])}
    triggers = {row["name"]: row for row in logs.tables.get("triggers", [])}
    keys: dict[tuple[str, str], Row] = {}
    for call in logs.calls:
        if not call["ok"]:
            continue
        if call["op"] == "fire":
            yield from _fired(call, runs, keys)
        elif (trigger := triggers.get(call["trigger"])) is None or trigger["version"] < call.get("version", 0):
            yield Violation(
                "I17", f"{call['op']} of {call['trigger']} was answered at {call['at']}, and is lost", [call]
            )
    yield from _left_as_answered(logs, triggers)
    for entry in logs.entries:
        if entry["what"] == "ANSWER" and entry["accepted"] and entry["run"] not in runs:
            yield Violation("I17", f"the end of run {entry['run']} was accepted, and the run is lost", [entry])


def _left_as_answered(logs: Logs, triggers: dict[str, Row]) -> Iterator[Violation]:
    """A trigger is deleted, paused or not, as its last call was answered. One without an answer may be either."""
    last: dict[str, Row] = {}
    for call in logs.calls:
        if call["op"] in _STANDING and not call.get("refused"):
            last[call["trigger"]] = call
    for name, call in last.items():
        trigger = triggers.get(name)
        if call["ok"] and trigger is not None and not _STANDING[call["op"]](trigger):
            message = f"{call['op']} of {name} was answered at {call['at']}, and {name} does not stand so"
            yield Violation("I17", message, [call, trigger])


def _fired(call: Row, runs: dict[str, Row], keys: dict[tuple[str, str], Row]) -> Iterator[Violation]:
    if call["run"] not in runs:
        yield Violation("I17", f"a fire of {call['trigger']} was answered with run {call['run']}, which is lost", [])
    first = keys.setdefault((call["trigger"], call["key"]), call)
    if first["run"] != call["run"]:
        yield Violation("I17", f"the key {call['key']} was answered with {first['run']} and {call['run']}", [])


def i18_convergence(logs: Logs) -> Iterator[Violation]:
    """When faults have been off for long enough, nothing overdue is left undone, and nobody holds anything up."""
    heal = logs.bounds.heal
    leases = {str(row["holder"]): row for row in logs.tables.get("leases", [])}
    for run in logs.tables.get("runs", []):
        if run["state"] == "running":
            lease = leases.get(str(run["holder"]))
            if lease is None or lease["ended_at"] is not None or lease["expires_at"] < logs.until:
                yield Violation("I18", f"run {run['id']} is left in the name of a holder that is gone", [run])
    yield from _left_waiting(logs, heal)
    for trigger in logs.tables.get("triggers", []):
        if trigger["wake_at"] is not None and logs.until - trigger["wake_at"] > logs.bounds.late:
            yield Violation("I18", f"trigger {trigger['name']} is due since {trigger['wake_at']}", [trigger])
    for session in logs.tables.get("sessions", []):
        begun = session["xact_start"]
        idle = str(session["state"]).startswith("idle in transaction")
        if idle and begun is not None and session["now"] - begun > logs.bounds.late:
            yield Violation("I18", f"a session of {session['application_name']} idles in transaction since {begun}", [])


def _left_waiting(logs: Logs, heal: timedelta) -> Iterator[Violation]:
    """A queued run that is ready waits for nothing but others of its scope, or of its agent's limit."""
    runs = logs.tables.get("runs", [])
    busy = {run["scope"] for run in runs if run["state"] == "running" and run["scope"] is not None}
    full = _full(logs)
    for run in runs:
        overdue = run["state"] == "queued" and logs.until - run["available_at"] > heal
        if overdue and run["scope"] not in busy and _limit_of(logs, run) not in full:
            yield Violation("I18", f"run {run['id']} waits since {run['available_at']} and for nothing", [run])


def _full(logs: Logs) -> set[tuple[str, str]]:
    """The limits that are reached, or were moments ago: the next claim may be under way."""
    limits = {row["name"]: row["concurrency"] for row in logs.tables.get("agents", [])}
    runs = {str(run["id"]): run for run in logs.tables.get("runs", []) if limits.get(run["agent"]) is not None}
    held = Counter(_limit_of(logs, run) for run in runs.values() if run["state"] == "running")
    full = {limit for limit, count in held.items() if count >= limits[limit[0]]}
    for change in logs.changes("runs"):
        given_back = change.before is not None and change.before["state"] == "running" and change.moved("state")
        if given_back and logs.until - change.at < logs.bounds.busy and change.row["id"] in runs:
            full.add(_limit_of(logs, runs[change.row["id"]]))
    return full


def _limit_of(logs: Logs, run: Row) -> tuple[str, str]:
    key = next((row["concurrency_key"] for row in logs.tables.get("agents", []) if row["name"] == run["agent"]), None)
    return run["agent"], limit_key(run, key)
