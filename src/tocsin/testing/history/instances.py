"""What is promised of agent processes: I4 answers, I6 one body, I7 verdicts, I12 keys; from beats, leases, ledgers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from tocsin.store.leases import FEW_SILENT, MASS
from tocsin.testing.history import Row
from tocsin.testing.history.logs import Change, Logs
from tocsin.testing.violation import Violation


@dataclass(frozen=True, slots=True)
class Silence:
    """A process's lease had run out, and was not ended, from one instant to another. end: what ended that."""

    holder: str
    since: datetime
    until: datetime
    patience: timedelta
    end: Change | None

    @property
    def is_lost(self) -> bool:
        """Whether a verdict has ended it, and no beat."""
        return self.end is not None and self.end.row["end_reason"] == "lost"


def i4_told(logs: Logs) -> Iterator[Violation]:
    """An end that a process was told to be accepted is its own, under that fence, for good."""
    ends = {
        (str(row["run_id"]), row["fence"], row["actor"])
        for row in logs.tables.get("transitions", [])
        if row["from_state"] == "running"
    }
    for entry in logs.entries:
        if entry["what"] == "TOLD" and entry["accepted"]:
            run_id, fence, holder = entry["run"], entry["fence"], entry["holder"]
            if (run_id, fence, f"instance:{holder}") not in ends:
                message = f"the end of run {run_id} under fence {fence} was accepted from {holder}, and is nowhere"
                yield Violation("I4", message, [entry])


def i6_apart(logs: Logs) -> Iterator[Violation]:
    """An attempt in a process elsewhere has stopped by itself before its successor begins, wherever that is.

    No process can while it stands still; nobody can stop an agent that does not listen.
    """
    ends = {(entry["run"], entry["fence"]): entry["at"] for entry in logs.entries if entry["what"] == "END"}
    attempts: dict[str, list[Row]] = {}
    for entry in logs.entries:
        if entry["what"] == "START":
            attempts.setdefault(entry["run"], []).append(entry)
    for run_id, begun in attempts.items():
        begun.sort(key=lambda entry: int(entry["fence"]))
        for former, later in pairwise(begun):
            pid, at = former["pid"], later["at"]
            if pid not in logs.elsewhere or former.get("does") == "deaf":
                continue
            stopped = min(ends.get((run_id, former["fence"]), logs.until), logs.lives[pid].until)
            stood = any(window.since < at and window.until > former["at"] for window in logs.freezes.get(pid, []))
            if stopped > at + logs.bounds.noise and not stood:
                message = f"run {run_id} went on in process {pid} for {stopped - at} beside its successor"
                yield Violation("I6", message, [former, later])


def i7_instances(logs: Logs) -> Iterator[Violation]:
    """A process is lost once, not before its lease has run out and not long after; never while its beats arrive,
    and not among many that fell silent at once.
    """
    silences = list(_silences(logs))
    for holder in sorted(logs.instances):
        for change in logs.renewals.get(holder, []):
            if change.row["end_reason"] == "lost" and change.moved("ended_at"):
                yield from _spoken(logs, holder, change)
    for silence in silences:
        yield from _too_long(logs, silence, silences)
        yield from _among_many(logs, silence, silences)


def i12_keys(logs: Logs) -> Iterator[Violation]:
    """Work is held by no process whose key is not for its agent."""
    allowed = {row["name"]: row["agents"] for row in logs.tables.get("keys", [])}
    for change in logs.changes("runs"):
        row = change.after
        instance = logs.instances.get(str(row["holder"])) if row is not None else None
        if row is None or instance is None or not allowed or not change.moved("holder"):
            continue
        agents = allowed.get(instance["key"], ())
        if row["agent"] not in agents and "*" not in agents:
            message = f"run {row['id']} of {row['agent']} was given to a process with the key {instance['key']}"
            yield Violation("I12", message, [row, instance], change.at)


def _spoken(logs: Logs, holder: str, change: Change) -> Iterator[Violation]:
    before, noise = change.before, logs.bounds.noise
    if before is None:
        return
    if before["ended_at"] is not None:
        yield Violation("I7", f"process {holder} was declared lost a second time", [before, change.row], change.at)
    elif before["expires_at"] > change.began + noise:
        yield Violation("I7", f"process {holder} was declared lost before its lease had run out", [before], change.at)
    patience = before["expires_at"] - before["renewed_at"]
    beats = [entry for entry in _beats(logs).get(holder, []) if entry["at"] < change.at]
    if beats and beats[-1]["sent"] + patience > change.began + noise:
        message = f"process {holder} was declared lost {change.at - beats[-1]['sent']} after a beat that was taken"
        yield Violation("I7", message, [before], change.at)


def _beats(logs: Logs) -> dict[str, list[Row]]:
    """Holder → its beats that a hub has taken, by its own account, in the order in which they were sent."""
    found: dict[str, list[Row]] = {}
    for entry in logs.entries:
        if entry["what"] == "BEAT":
            found.setdefault(entry["holder"], []).append(entry)
    for beats in found.values():
        beats.sort(key=lambda entry: entry["sent"])
    return found


def _silences(logs: Logs) -> Iterator[Silence]:
    for holder in sorted(logs.instances):
        changes = logs.renewals.get(holder, [])
        following: Sequence[Change | None] = [*changes[1:], None]
        for change, end in zip(changes, following, strict=True):
            row = change.after
            until = end.at if end is not None else logs.until
            if row is not None and row["ended_at"] is None and row["expires_at"] < until:
                yield Silence(holder, row["expires_at"], until, row["expires_at"] - row["renewed_at"], end)


def _too_long(logs: Logs, silence: Silence, silences: Sequence[Silence]) -> Iterator[Violation]:
    bounds = logs.bounds
    bound = bounds.sweep + bounds.late + bounds.busy
    if _is_crowd(logs, _beside(silence, silences), silence.until):
        bound += silence.patience
    # Whoever judges waits a lease after it could not see.
    blind = [window for name in ("blind", "silent", "late") for window in logs.faults(name)]
    met = [window for window in blind if window.until + bounds.lease >= silence.since and window.since < silence.until]
    counted_from = max([silence.since, *(min(window.until + bounds.lease, silence.until) for window in met)])
    if silence.until - counted_from > bound:
        length = silence.until - silence.since
        message = f"process {silence.holder} was silent for {length} beyond its lease, and nobody minded"
        yield Violation("I7", message, [], silence.until)


def _among_many(logs: Logs, silence: Silence, silences: Sequence[Silence]) -> Iterator[Violation]:
    """Many silent at once are rather deafness of ours: each has as long again."""
    end = silence.end
    if end is None or not silence.is_lost or end.began > silence.since + silence.patience - logs.bounds.noise:
        return
    beside = [
        other
        for other in _beside(silence, silences)
        if other.since + logs.bounds.noise < end.began
        and (other.until > end.at or (other.end is not None and other.end.txid == end.txid))
        and end.began < other.since + other.patience
    ]
    if _is_crowd(logs, beside, end.began):
        message = f"process {silence.holder} was declared lost while {len(beside)} processes were silent at once"
        yield Violation("I7", message, [], end.at)


def _beside(silence: Silence, silences: Sequence[Silence]) -> list[Silence]:
    """Those that overlap with it, itself included."""
    return [other for other in silences if other.since <= silence.until and other.until >= silence.since]


def _is_crowd(logs: Logs, silent: Sequence[Silence], at: datetime) -> bool:
    holders = {silence.holder for silence in silent}
    return len(holders) >= FEW_SILENT and len(holders) > _known(logs, at) * MASS


def _known(logs: Logs, at: datetime) -> int:
    """Processes that nobody has given up at an instant."""
    latest: dict[str, Any] = {}
    for holder in logs.instances:
        for change in logs.renewals.get(holder, []):
            if change.at < at:
                latest[holder] = change.after
    return sum(row is not None and row["ended_at"] is None for row in latest.values())


CHECKS: Final = {"I4": i4_told, "I6": i6_apart, "I7": i7_instances, "I12": i12_keys}
