"""What is promised of holders: I2 ends, I4 fences, I5 drains, I7 verdicts; from leases, processes and ledgers."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from tocsin.testing.history import Row
from tocsin.testing.history.logs import Change, Logs, Window
from tocsin.testing.violation import Violation

_LOST: Final = ("lost", "poisoned")
_GRACEFUL: Final = (0, 4)


def i2_one_answer(logs: Logs) -> Iterator[Violation]:
    """However often an end is sent, one is accepted: what was answered with yes is the same each time."""
    accepted: dict[str, Row] = {}
    for entry in logs.entries:
        if entry["what"] == "ANSWER" and entry["accepted"] and entry["state"] != "queued":
            first = accepted.setdefault(entry["run"], entry)
            if (first["fence"], first["state"]) != (entry["fence"], entry["state"]):
                yield Violation("I2", f"two ends of run {entry['run']} were accepted", [first, entry])


def i4_begun_once(logs: Logs) -> Iterator[Violation]:
    """Under one fence an attempt begins once; a claim raises the fence by one, and nothing else moves it."""
    begun: dict[tuple[str, int], Row] = {}
    for entry in logs.entries:
        if entry["what"] == "START":
            first = begun.setdefault((entry["run"], entry["fence"]), entry)
            if first is not entry:
                yield Violation("I4", f"run {entry['run']} began twice under fence {entry['fence']}", [first, entry])
    for change in logs.changes("runs"):
        if change.before is None or change.after is None:
            continue
        raised = change.after["fence"] - change.before["fence"]
        claimed = change.after["state"] == "running" and change.before["state"] == "queued"
        if raised != int(claimed):
            message = f"run {change.row['id']}: its fence went from {change.before['fence']} by {raised}"
            yield Violation("I4", message, [change.before, change.after], change.at)


def i5_drain(logs: Logs) -> Iterator[Violation]:
    """After SIGTERM nothing is claimed, the exit comes in time, and what ended meanwhile is the holder's own end."""
    marks: dict[int, datetime] = {}
    for event in logs.signals("SIGTERM"):
        marks.setdefault(event["pid"], event["at"])
    for pid, mark in marks.items():
        life = logs.lives.get(pid)
        troubled = life is None or any(
            window.since <= life.until and window.until + logs.bounds.lease >= mark
            for window in [*logs.freezes.get(pid, []), *logs.faults("blind"), *logs.faults("silent")]
        )
        if life is None or troubled:
            continue
        yield from _late_claims(logs, pid, mark)
        # Agents that will not stop get five seconds, the last ends ten, the keeper and the doors one each.
        if life.until - mark > logs.bounds.drain + timedelta(seconds=18):
            yield Violation("I5", f"process {pid} took {life.until - mark} to drain", [], life.until)
        if logs.codes.get(pid) in _GRACEFUL:
            yield from _taken_while_draining(logs, pid, mark)


def _late_claims(logs: Logs, pid: int, mark: datetime) -> Iterator[Violation]:
    for change in logs.changes("runs"):
        after = change.after
        if after is None or after["state"] != "running" or not change.moved("state"):
            continue
        if logs.pids.get(after["holder"]) == pid and change.began > mark + logs.bounds.busy:
            message = f"process {pid} claimed {change.began - mark} after it was asked to leave"
            yield Violation("I5", message, [after], change.at)


def _taken_while_draining(logs: Logs, pid: int, mark: datetime) -> Iterator[Violation]:
    for change in logs.changes("runs"):
        before, after = change.before, change.after
        if before is None or after is None or before["state"] != "running" or after["state"] == "running":
            continue
        if logs.pids.get(before["holder"]) == pid and after["reason"] in _LOST and change.at > mark:
            message = f"run {after['id']} was taken from process {pid}, which was draining and left in order"
            yield Violation("I5", message, [before, after], change.at)


def i7_detection(logs: Logs) -> Iterator[Violation]:
    """Whoever renews is never reaped, the blind judge nobody, and whoever was killed is noticed in time."""
    taken: set[tuple[str, int]] = set()
    for change in logs.changes("runs"):
        before, after = change.before, change.after
        if before is None or after is None or before["state"] != "running" or after["state"] == "running":
            continue
        taken.add((before["id"], before["fence"]))
        if after["reason"] in _LOST and not _is_own_end(logs, change):
            yield from _verdict(logs, change, str(before["holder"]))
    yield from _noticed(logs)


def _is_own_end(logs: Logs, change: Change) -> bool:
    """An agent that is run at most once is closed as lost by its holder itself, when that loses its lease."""
    row = change.row
    trail = _trail(logs).get(row["id"], {}).get(row["seq"])
    assert change.before is not None  # the caller has looked
    return trail is not None and trail["actor"] == logs.actor(str(change.before["holder"]))


def _trail(logs: Logs) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] | None = logs.__dict__.get("_trail")
    if found is None:
        found = logs.__dict__["_trail"] = {}
        for row in logs.tables.get("transitions", []):
            found.setdefault(str(row["run_id"]), {})[row["seq"]] = row
    return found


def _verdict(logs: Logs, change: Change, holder: str) -> Iterator[Violation]:
    noise = logs.bounds.noise
    pid = logs.pids.get(holder)
    life = logs.lives.get(pid) if pid is not None else None
    if life is None or life.until < change.at + noise:
        return
    run = f"run {change.row['id']}"
    lease = logs.lease_before(holder, change)
    if lease is not None and lease.row["ended_at"] is not None:
        return  # the verdict was spoken before; this is the rest of its runs
    if lease is not None and lease.row["expires_at"] > change.began + noise:
        message = f"{run} was taken from a living holder whose lease had not run out"
        yield Violation("I7", message, [lease.row], change.at)
        return
    blind = _blind_until(logs, change)
    if blind is not None and change.at < blind + logs.bounds.lease - logs.bounds.busy:
        message = f"{run} was taken from a living holder {change.at - blind} after the judge itself could not see"
        yield Violation("I7", message, [change.row], change.at)


def _blind_until(logs: Logs, change: Change) -> datetime | None:
    """Until when the judge could not know better: it had just started, stood still, or had no database."""
    trail = _trail(logs).get(change.row["id"], {}).get(change.row["seq"])
    judge = str(trail["actor"]).removeprefix("replica:") if trail is not None else ""
    pid = logs.pids.get(judge)
    if pid is None:
        return None
    long = logs.bounds.lease
    blind = [window.until for window in logs.faults("blind") if window.until - window.since > long]
    blind += [window.until for window in logs.freezes.get(pid, []) if window.until - window.since > long]
    blind += [row["started_at"] for row in logs.tables.get("replicas", []) if str(row["id"]) == judge]
    before = [at for at in blind if at <= change.at]
    return max(before, default=None)


def _noticed(logs: Logs) -> Iterator[Violation]:
    """What a killed process had in hand is somebody else's, or closed, within its bound."""
    held: dict[str, tuple[int, Row]] = {}
    for change in logs.changes("runs"):
        after = change.after
        known = held.pop(change.row["id"], None)
        if known is not None:
            yield from _too_late(logs, known, change.at)
        if after is not None and after["state"] == "running":
            held[after["id"]] = (logs.pids.get(after["holder"], 0), after)
    for known in held.values():
        yield from _too_late(logs, known, logs.until)


def _too_late(logs: Logs, known: tuple[int, Row], at: datetime) -> Iterator[Violation]:
    pid, row = known
    bounds = logs.bounds
    bound = 2 * logs.patience(str(row["holder"])) + bounds.sweep + bounds.late + bounds.busy
    life = logs.lives.get(pid)
    if life is None or at - life.until <= bound:
        return
    # Nobody can notice anything while everybody is away, or blind.
    away = [window for window in _away(logs) if window.until >= life.until and window.since <= life.until + bound]
    counted_from = max([life.until, *(min(window.until, at) for window in away)])
    if at - counted_from > bound:
        yield Violation("I7", f"run {row['id']} was left with process {pid} for {at - life.until} after its end", [row])


def _away(logs: Logs) -> list[Window]:
    return [*logs.faults("blind"), *logs.faults("silent"), *logs.faults("late")]
