"""The accounting of occurrences: what was due by the second opinion, against what was decided."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from tocsin.domain.schedule import Schedule
from tocsin.testing.history import Declared, History, Row
from tocsin.testing.occurrences import enumerate_schedule
from tocsin.testing.violation import Violation

_MICROSECOND: Final = timedelta(microseconds=1)


def i0_one_enumeration(history: History) -> Iterator[Violation]:
    """The schedule's own ``next_after`` walks exactly the instants of the second opinion."""
    for declared in history.declared:
        if _counts_from_end(declared.form):
            continue
        schedule = Schedule.from_json(declared.form)
        due = enumerate_schedule(declared.form, declared.since, declared.until or history.until)
        for at, following in pairwise([declared.since, *due]):
            between = at + (following - at) / 2
            found = {schedule.next_after(at), schedule.next_after(between)}
            if found != {following}:
                yield Violation("I0", f"after {at} comes {following}, not {found}, in {dict(declared.form)}", [])
                break


def i3_no_silent_loss(history: History) -> Iterator[Violation]:
    """Runs and skips account for every occurrence up to the cursor, each once, and for nothing else."""
    runs: dict[UUID, list[Row]] = {}
    for run in history.runs:
        if run["kind"] == "schedule":
            runs.setdefault(run["trigger_id"], []).append(run)
    skips: dict[UUID, list[Row]] = {}
    for skip in history.skips:
        skips.setdefault(skip["trigger_id"], []).append(skip)
    declared: dict[UUID, list[Declared]] = {}
    for one in history.declared:
        declared.setdefault(one.trigger_id, []).append(one)
    for trigger in history.triggers:
        versions = declared.get(trigger["id"])
        if versions and trigger["id"] not in history.poisoned:
            yield from _account(
                trigger, versions, runs.get(trigger["id"], []), skips.get(trigger["id"], []), history.until
            )
    yield from _cursor_never_back(history)


def _account(
    trigger: Row, versions: Sequence[Declared], runs: Sequence[Row], skips: Sequence[Row], until: datetime
) -> Iterator[Violation]:
    if any(_counts_from_end(one.form) for one in versions):
        yield from _chain(trigger, versions[0], runs, skips)
        return
    due: set[datetime] = set()
    for version in versions:
        end = version.until
        if end is None:
            # What the cursor stands on, and all after it, is not decided yet.
            end = trigger["next_at"] - _MICROSECOND if trigger["next_at"] is not None else until
        due.update(enumerate_schedule(version.form, version.since, end))
    ran = {run["nominal_at"] for run in runs}
    name = trigger["name"]
    for at in sorted(ran - due):
        yield Violation("I3", f"{name} ran at {at}, when it was not due", [r for r in runs if r["nominal_at"] == at])
    silent = [at for at in sorted(due - ran) if not any(s["first_at"] <= at <= s["last_at"] for s in skips)]
    for at in silent:
        yield Violation("I3", f"{name} was due at {at}, which became neither a run nor a skip", [trigger], at)
    counted = sum(skip["count"] for skip in skips)
    if not silent and ran <= due and len(runs) + counted != len(due):
        message = f"{name}: {len(runs)} runs and {counted} skipped are not {len(due)} occurrences"
        yield Violation("I3", message, [trigger, *skips])


def _chain(trigger: Row, declared: Declared, runs: Sequence[Row], skips: Sequence[Row]) -> Iterator[Violation]:
    """A schedule that counts from the end: each run is due one period after the one before it ended.

    Where an instant was skipped there was no end to count from, and it counts from the decision.
    """
    period = timedelta(seconds=declared.form["rules"][0]["every_seconds"])
    expected: datetime | None = declared.since + period
    for run in sorted(runs, key=lambda run: run["nominal_at"]):
        for skip in sorted(skips, key=lambda skip: skip["first_at"]):
            if expected is not None and skip["first_at"] <= expected <= skip["last_at"]:
                expected = skip["decided_at"] + period
        if run["nominal_at"] != expected:
            yield Violation("I3", f"{trigger['name']} was due at {expected}, not at {run['nominal_at']}", [run])
            return
        expected = run["finished_at"] + period if run["finished_at"] is not None else None


def _cursor_never_back(history: History) -> Iterator[Violation]:
    names = history.names()
    last: dict[tuple[UUID, int], datetime] = {}
    for seen in history.cursors:
        key = (seen.trigger_id, seen.version)
        if seen.next_at < last.get(key, seen.next_at):
            name = names.get(seen.trigger_id, seen.trigger_id)
            message = f"the cursor of {name} went back from {last[key]} to {seen.next_at} at {seen.at}"
            yield Violation("I3", message, [{"id": seen.trigger_id}], seen.at)
        last[key] = seen.next_at


def _counts_from_end(form: Mapping[str, Any]) -> bool:
    return bool(form["rules"][0].get("after_completion"))
