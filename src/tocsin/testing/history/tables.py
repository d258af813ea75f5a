"""The logs as the simulation's invariants read them: a History of rows, declarations, cursors and a ledger."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from tocsin.testing.history import CursorSeen, Declared, History, Row
from tocsin.testing.history.logs import Change, Logs
from tocsin.testing.scripted import Answered, Begun, Ledger


def history_of(logs: Logs) -> History:
    """The same run, for checks that want no more than its rows."""
    tables = logs.tables
    return History(
        runs=tables.get("runs", []),
        transitions=tables.get("transitions", []),
        ends=list(_ends(logs)),
        skips=tables.get("skips", []),
        triggers=tables.get("triggers", []),
        leases=tables.get("leases", []),
        agents=tables.get("agents", []),
        declared=list(declared(logs)),
        cursors=list(_cursors(logs)),
        ledger=_ledger(logs),
        poisoned={UUID(one) for one in logs.poisoned},
        until=logs.until,
    )


def _ends(logs: Logs) -> Iterator[Row]:
    """Every write that left a run ended: its row keeps the latest alone."""
    for change in logs.changes("runs"):
        before, after = change.before, change.after
        if (
            before is not None
            and after is not None
            and after["finished_at"] is not None
            and change.moved("finished_at")
        ):
            yield {"run_id": after["id"], "was": before["state"], "state": after["state"], "at": change.at}


def declared(logs: Logs) -> Iterator[Declared]:
    """Each schedule that a trigger has had, and from when to when it was in service."""
    by_trigger: dict[str, list[Change]] = {}
    for change in logs.changes("triggers"):
        by_trigger.setdefault(str(change.row["id"]), []).append(change)
    for trigger_id, changes in by_trigger.items():
        if trigger_id not in logs.poisoned:
            yield from _versions(UUID(trigger_id), changes)


def _versions(trigger_id: UUID, changes: list[Change]) -> Iterator[Declared]:
    form: Mapping[str, Any] | None = None
    # A harness may date a trigger back while no replica lives: its last word counts.
    since = changes[-1].row["created_at"]
    for change in changes:
        gone = change.after is None or change.after["status"] == "deleted"
        new = None if gone else _form(change.row["schedule"])
        if new == form and not gone:
            continue
        if form is not None:
            yield Declared(trigger_id, form, since, change.row["changed_at"])
            since = change.row["changed_at"]
        form = new
        if gone:
            break
    if form is not None:
        yield Declared(trigger_id, form, since)


def _form(schedule: Any) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = json.loads(schedule) if isinstance(schedule, str) else schedule
    return found


def _cursors(logs: Logs) -> Iterator[CursorSeen]:
    for change in logs.changes("triggers"):
        row = change.after
        if row is not None and row["next_at"] is not None and str(row["id"]) not in logs.poisoned:
            yield CursorSeen(UUID(row["id"]), row["version"], row["next_at"], change.at)


def _ledger(logs: Logs) -> Ledger:
    ledger = Ledger()
    for entry in logs.entries:
        if entry["what"] == "START":
            effective_at = entry["effective"] - logs.bounds.noise
            ledger.begun.append(Begun(UUID(entry["run"]), entry["fence"], "", entry["at"], effective_at))
        elif entry["what"] == "ANSWER":
            actor = logs.actor(str(entry["holder"]))
            answered = Answered(
                UUID(entry["run"]), entry["fence"], actor, entry["state"], entry["accepted"], entry["at"]
            )
            ledger.answered.append(answered)
    return ledger
