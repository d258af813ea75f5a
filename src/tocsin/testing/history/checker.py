"""Every promise that a history of real processes can decide, and the window of it that shows a violation.

Pure: ``check(logs)`` reads nothing but its argument. What the simulation's invariants decide from rows alone
is decided by them here too; the rest needs the order of changes, the processes' lives, or the ledgers.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from tocsin.testing import accounts, invariants
from tocsin.testing.history import History
from tocsin.testing.history.holding import i2_one_answer, i4_begun_once, i5_drain, i7_detection
from tocsin.testing.history.instances import CHECKS as OF_INSTANCES
from tocsin.testing.history.limits import i9_not_delayed, i10_bounded_recovery, i20_resources
from tocsin.testing.history.logs import Change, Logs
from tocsin.testing.history.standing import (
    i0_cursors,
    i3_nothing_missed_in_time,
    i15_non_retroactive,
    i16_trail_matches,
    i17_durable,
    i18_convergence,
)
from tocsin.testing.history.tables import history_of
from tocsin.testing.violation import Violation

Check = Callable[[Logs], Iterator[Violation]]

OF_ROWS: Final[Mapping[str, Callable[[History], Iterator[Violation]]]] = {
    "I0": accounts.i0_one_enumeration,
    "I1": invariants.i1_exactly_one,
    "I2": invariants.i2_single_commit,
    "I3": accounts.i3_no_silent_loss,
    "I4": invariants.i4_fenced,
    "I6": invariants.i6_overlap,
    "I8": invariants.i8_bounded_attempts,
    "I9": invariants.i9_isolation,
    "I14": invariants.i14_not_before,
    "I16": invariants.i16_legal,
}
OF_LOGS: Final[Mapping[str, Check]] = {
    "I0": i0_cursors,
    "I2": i2_one_answer,
    "I3": i3_nothing_missed_in_time,
    "I4": i4_begun_once,
    "I5": i5_drain,
    "I7": i7_detection,
    "I9": i9_not_delayed,
    "I10": i10_bounded_recovery,
    "I15": i15_non_retroactive,
    "I16": i16_trail_matches,
    "I17": i17_durable,
    "I18": i18_convergence,
    "I20": i20_resources,
}
DECIDED: Final = sorted(OF_ROWS.keys() | OF_LOGS.keys() | OF_INSTANCES.keys(), key=lambda name: int(name[1:]))
"""The ids of all invariants that are decided here."""

SHOWN: Final = 3
LINES: Final = 40
AROUND: Final = timedelta(seconds=2)
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def check(logs: Logs) -> list[Violation]:
    """Every violation, by invariant."""
    history = history_of(logs)
    found = [violation for of_rows in OF_ROWS.values() for violation in of_rows(history)]
    for checks in (OF_LOGS, OF_INSTANCES):
        found += [violation for of_logs in checks.values() for violation in of_logs(logs)]
    return sorted(found, key=lambda violation: int(violation.invariant[1:]))


def report(logs: Logs, violations: Sequence[Violation]) -> str:
    """The first violations of each invariant, each with the smallest window of the history around it."""
    lines: list[str] = []
    told: dict[str, int] = {}
    for violation in violations:
        told[violation.invariant] = told.get(violation.invariant, 0) + 1
        if told[violation.invariant] <= SHOWN:
            lines += [str(violation), *(f"      {line}" for line in window(logs, violation))]
    lines += [f"{name}: {count} in all" for name, count in told.items() if count > SHOWN]
    return "\n".join(lines)


def window(logs: Logs, violation: Violation) -> list[str]:
    """All four logs, in order: what bears on the offending rows from the first instant that the violation names
    to the last, or from end to end if it names none; and what was done to whom meanwhile."""
    ids = set(_UUID.findall(violation.message))
    for row in violation.rows:
        ids |= {str(row[key]) for key in ("run_id", "holder", "run") if row.get(key) is not None}
        # A trigger's whole life would be shown for each of its runs; its own rows say enough.
        ids |= {str(row["id"])} if row.get("id") is not None else set()
    about = [(change.at, _told("run", change.row)) for change in logs.changes("runs") if change.row["id"] in ids]
    about += [(entry["at"], _told(entry["what"], entry)) for entry in logs.entries if entry.get("run") in ids]
    about += [(call["at"], _told("call", call)) for call in logs.calls if call.get("run") in ids]
    if not about:
        names = {row.get("name", row.get("trigger")) for row in violation.rows}
        about = [(change.at, _told(change.table, change.row)) for change in logs.audit if _is_of(change, ids)]
        about += [(call["at"], _told("call", call)) for call in logs.calls if call["trigger"] in names]
    instants = violation.instants or [at for at, _ in about]
    if not instants:
        return []
    about += [
        (change.at, _told("lease", change.row)) for change in logs.changes("leases") if change.row["holder"] in ids
    ]
    about += [(event["at"], _told(event["what"], event)) for event in logs.events]
    since, until = min(instants) - AROUND, max(instants) + AROUND
    inside = [(at, text) for at, text in about if since <= at <= until]
    # Of too many lines those are told that are nearest to what happened.
    inside.sort(key=lambda line: min(abs(line[0] - at) for at in instants))
    lines = [f"{at:%H:%M:%S.%f} {text}" for at, text in sorted(inside[:LINES])]
    return lines if len(inside) <= LINES else [*lines, f"… {len(inside) - LINES} more …"]


def _is_of(change: Change, ids: set[str]) -> bool:
    return str(change.row.get("id")) in ids or str(change.row.get("trigger_id")) in ids


_FIELDS: Final = (
    *("op", "name", "trigger", "fault", "replica", "pid", "signal", "code", "run", "id", "state", "status", "reason"),
    *("fence", "attempt", "holder", "nominal_at", "next_at", "paused", "version", "expires_at", "ended_at", "end"),
    *("accepted", "ok"),
)


def _told(what: str, row: Mapping[str, Any]) -> str:
    return " ".join([what, *(f"{key}={row[key]}" for key in _FIELDS if row.get(key) not in (None, []))])
