"""What is promised of amounts and delays: I9 isolation, I10 recovery, I20 resources."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from statistics import median
from typing import Final

from tocsin.engine.shares import LATE_SHARE
from tocsin.testing.history import Row
from tocsin.testing.history.logs import Logs, read_policy
from tocsin.testing.violation import Violation

GROWN: Final = 1.3
"""How much more of something the last third of a run may take than the third before it."""

LISTENS: Final = 120
"""Times that a process may try to listen within a minute, even when its server is restarted every other second."""


def i9_not_delayed(logs: Logs) -> Iterator[Violation]:
    """Nothing but a fault that says so keeps a due trigger waiting: each instant is decided within the bound."""
    bounds = logs.bounds
    late = logs.faults("late")
    # Whoever resumes a trigger may ask for the last occurrence of its rest, which is late on purpose.
    asked_for = {
        str(row["run_id"])
        for row in logs.tables.get("transitions", [])
        if row["seq"] == 1 and not row["actor"].startswith("replica:")
    }
    for change in logs.changes("runs"):
        row = change.after
        if change.before is not None or row is None or row["kind"] != "schedule" or row["id"] in asked_for:
            continue
        lag = change.at - row["effective_at"]
        if lag <= bounds.late or any(window.holds(row["effective_at"], after=bounds.heal) for window in late):
            continue
        if any(window.since <= change.at and row["effective_at"] <= window.until for window in late):
            continue
        yield Violation("I9", f"{_name(logs, row)} was decided {lag} after it was due", [row], change.at)


def i10_bounded_recovery(logs: Logs) -> Iterator[Violation]:
    """One planning catches up no more than the policy keeps; late work never has more than its share of slots."""
    late = [change for change in logs.changes("runs") if change.before is None and _is_caught_up(change.row)]
    for (_, trigger_id), group in groupby(
        sorted(late, key=lambda change: (change.txid, change.row["trigger_id"])),
        key=lambda change: (change.txid, change.row["trigger_id"]),
    ):
        rows = [change.row for change in group]
        most = _most_caught_up(logs, trigger_id)
        if most is not None and len(rows) > most:
            message = f"{_name(logs, rows[0])}: {len(rows)} occurrences were caught up at once, at most {most} may be"
            yield Violation("I10", message, rows)
    yield from _late_share(logs)


def _is_caught_up(row: Row) -> bool:
    return bool(row["kind"] == "schedule" and row["lane"] == "late" and row["fence"] == 0)


def _most_caught_up(logs: Logs, trigger_id: str) -> int | None:
    for row in logs.tables.get("triggers", []):
        if str(row["id"]) == trigger_id:
            policy = read_policy(row)
            by_policy: dict[str, int] = {"skip": 0, "latest": 1, "all": policy.get("max_catch_up", 10)}
            # A resume may catch up the last one whatever the policy.
            return max(1, by_policy[policy.get("catch_up", "latest")])
    return None


def _late_share(logs: Logs) -> Iterator[Violation]:
    """An attempt has its slot from its claim until its agent has ended, settled or not."""
    most = max(1, int(logs.bounds.slots * LATE_SHARE))
    for (holder, _), attempts in _late_attempts(logs).items():
        ends: list[datetime] = []
        for since, until, row in sorted(attempts, key=lambda one: one[0]):
            ends = [end for end in ends if end > since]
            ends.append(until)
            if len(ends) > most:
                message = f"holder {holder} had {len(ends)} late runs in hand, at most {most} may be"
                yield Violation("I10", message, [row], since)


def _late_attempts(logs: Logs) -> dict[tuple[str, str], list[tuple[datetime, datetime, Row]]]:
    """(holder, kind of executor) → (from, until, run) of each attempt that was claimed in the late lane."""
    ended = {
        (entry["run"], entry["fence"]): entry["at"] - logs.bounds.noise
        for entry in logs.entries
        if entry["what"] == "END"
    }
    closed = {
        (change.before["id"], change.before["fence"]): change.at
        for change in logs.changes("runs")
        if change.before is not None and change.before["state"] == "running" and change.row["state"] != "running"
    }
    found: dict[tuple[str, str], list[tuple[datetime, datetime, Row]]] = {}
    for change in logs.changes("runs"):
        row = change.after
        if row is None or row["state"] != "running" or row["lane"] != "late" or not change.moved("state"):
            continue
        attempt = (row["id"], row["fence"])
        until = min(ended.get(attempt, logs.until), closed.get(attempt, logs.until))
        key = (str(row["holder"]), logs.bounds.executors.get(row["agent"], ""))
        found.setdefault(key, []).append((change.at, until, row))
    return found


def i20_resources(logs: Logs) -> Iterator[Violation]:
    """Sessions are no more than configured; files, tasks, memory and dead rows do not grow; listening is begun again
    only so often."""
    sessions: dict[int, tuple[int, datetime]] = {}
    for sample in logs.samples:
        living = sum(life.holds(sample["at"]) for pid, life in logs.lives.items() if pid not in logs.elsewhere)
        allowed = logs.bounds.connections * max(1, living)
        settled = not logs.excused("late", sample["at"], after=logs.bounds.heal)
        if settled and sample["connections"] > allowed:
            sessions[sample["connections"]] = (allowed, sample["at"])
    for count, (allowed, at) in sorted(sessions.items())[-1:]:
        yield Violation("I20", f"{count} sessions of the hub were open, at most {allowed} may be", [], at)
    for pid, life in logs.lives.items():
        mine = [sample["processes"][str(pid)] for sample in logs.samples if str(pid) in sample["processes"]]
        if len(mine) >= 30 and life.holds(logs.until):
            yield from _flat(pid, mine)
        yield from _listens(logs, pid)
    for table, rows in _dead_rows(logs).items():
        live, dead = rows
        if dead > max(20_000, 5 * live):
            yield Violation("I20", f"{table} has {dead} dead rows beside {live} live ones", [])


def _flat(pid: int, mine: list[Mapping[str, float]]) -> Iterator[Violation]:
    third = len(mine) // 3
    for what, slack in (("fds", 15), ("rss", 30 << 20), ("tasks", 60)):
        before = median(one.get(what, 0) for one in mine[third : 2 * third])
        after = median(one.get(what, 0) for one in mine[2 * third :])
        if after > before * GROWN + slack:
            yield Violation("I20", f"process {pid}: {what} grew from {before:.0f} to {after:.0f}", [])


def _listens(logs: Logs, pid: int) -> Iterator[Violation]:
    """The count that a process gives of how often it began to listen, over each minute."""
    told = [
        (sample["at"], sample["processes"][str(pid)]["listens"])
        for sample in logs.samples
        if "listens" in sample["processes"].get(str(pid), {})
    ]
    first = 0
    for at, listens in told:
        while at - told[first][0] > timedelta(minutes=1):
            first += 1
        if listens - told[first][1] > LISTENS:
            yield Violation(
                "I20", f"process {pid} began to listen {listens - told[first][1]:.0f} times within 1 min", [], at
            )
            return


def _dead_rows(logs: Logs) -> dict[str, tuple[int, int]]:
    """Table → (live, dead) rows, the most of any sample that no pinned snapshot explains."""
    most: dict[str, tuple[int, int]] = {}
    for sample in logs.samples:
        for table, (live, dead) in sample.get("rows", {}).items():
            if dead > most.get(table, (0, -1))[1]:
                most[table] = (live, dead)
    return most


def start_lags(logs: Logs) -> list[timedelta]:
    """From each scheduled live run's effective instant to its agent's beginning: for a report, not a verdict."""
    effective: dict[str, datetime] = {
        str(row["id"]): row["effective_at"]
        for row in logs.tables.get("runs", [])
        if row["kind"] == "schedule" and row["lane"] == "live"
    }
    first = [entry for entry in logs.entries if entry["what"] == "START" and entry["fence"] == 1]
    return sorted(entry["at"] - effective[entry["run"]] for entry in first if entry["run"] in effective)


def fenced_work(logs: Logs) -> list[timedelta]:
    """How long attempts that were fenced went on doing something beside their successor: no verdict either.

    Nobody can stop a process that stands still and wakes; ``idempotency_key`` is for its effects.
    """
    begun: dict[str, dict[int, datetime]] = {}
    last: dict[tuple[str, int], datetime] = {}
    for entry in logs.entries:
        if entry["what"] == "START":
            begun.setdefault(entry["run"], {})[entry["fence"]] = entry["at"]
        elif entry["what"] == "EFFECT":
            last[entry["run"], entry["fence"]] = entry["at"]
    found = []
    for (run_id, fence), at in last.items():
        successors = [since for later, since in begun.get(run_id, {}).items() if later > fence]
        found += [at - min(successors)] if successors and at > min(successors) else []
    return sorted(found)


def _name(logs: Logs, row: Row) -> str:
    return logs.names().get(str(row["trigger_id"]), str(row["trigger_id"]))
