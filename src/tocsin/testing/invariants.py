"""What must hold, decided from a history alone. Pure, so that each check is itself checked on bad histories.

I0  a schedule's instants are a function of its words: the product's and the slow second opinion agree
I1  an occurrence is one automatic run at most
I2  a run is settled at most once; a terminal state has no way out
I3  every occurrence is a run or is counted in a skip, none is both or neither; the cursor never goes back
I4  a write under an old fence is never accepted
I5  nothing runs in the name of a holder that has left
I6  within a scope at most one unfenced attempt at a time; within a limit at most so many
I8  attempts, counted and lost, are bounded
I9  a trigger that cannot be read is quarantined, and nobody waits for it
I14 nothing begins before its effective instant
I16 every transition is an edge, in a sequence without a gap, with an actor
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from tocsin.domain.run import POISONED_AFTER, TERMINAL, TRANSITIONS, RunState
from tocsin.testing.accounts import i0_one_enumeration, i3_no_silent_loss
from tocsin.testing.history import History, Row
from tocsin.testing.violation import Violation

_TERMINAL: Final = {state.value for state in TERMINAL}
_TAKEN_AWAY: Final = {"lost", "poisoned", "deadline", "cancelled", "superseded"}
"""Reasons for which somebody else than its holder may close a running run."""

LATEST_DECISION: Final = timedelta(seconds=90)
"""How long after its wake-up a healthy trigger may still be undecided when the history ends."""


def i1_exactly_one(history: History) -> Iterator[Violation]:
    names = history.names()
    found: dict[tuple[UUID, Any], list[Row]] = {}
    for run in history.runs:
        if run["kind"] == "schedule":
            found.setdefault((run["trigger_id"], run["nominal_at"]), []).append(run)
    for (trigger_id, nominal_at), runs in found.items():
        if len(runs) > 1:
            yield Violation("I1", f"{len(runs)} runs of {names.get(trigger_id, trigger_id)} at {nominal_at}", runs)


def i2_single_commit(history: History) -> Iterator[Violation]:
    for run_id, trail in history.trail().items():
        ends = [row for row in trail if row["to_state"] in _TERMINAL]
        if len(ends) > 1:
            yield Violation("I2", f"run {run_id} was closed {len(ends)} times", ends)
        out = [row for row in trail if row["from_state"] in _TERMINAL]
        if out:
            yield Violation("I2", f"run {run_id} left a terminal state", out)
    for row in history.ends:
        if row["was"] in _TERMINAL:
            yield Violation("I2", f"run {row['run_id']} had ended as {row['was']}, and was closed again", [row])


def i4_fenced(history: History) -> Iterator[Violation]:
    closed: dict[tuple[UUID, int], Row] = {}
    for run_id, trail in history.trail().items():
        claim: Row | None = None
        for row in trail:
            if row["to_state"] == "running":
                if claim is not None and row["fence"] <= claim["fence"]:
                    yield Violation("I4", f"run {run_id} was claimed without a higher fence", [claim, row])
                claim = row
            elif row["from_state"] == "running":
                closed[run_id, row["fence"]] = row
                yield from _closed_by_its_holder(run_id, claim, row)
    for answer in history.ledger.answered:
        row = closed.get((answer.run_id, answer.fence), {})
        if answer.accepted and row.get("actor") != answer.actor:
            message = f"run {answer.run_id}: {answer.actor} settled under fence {answer.fence}, which was not its own"
            yield Violation("I4", message, [row] if row else [])
    if history.ledger.sent:
        yield from _ended_by_nobody(history, closed.values())


def _closed_by_its_holder(run_id: UUID, claim: Row | None, end: Row) -> Iterator[Violation]:
    if claim is None or end["fence"] != claim["fence"]:
        yield Violation("I4", f"run {run_id} was closed under another fence than its claim's", _rows(claim, end))
    elif end["actor"] != claim["actor"] and end["reason"] not in _TAKEN_AWAY:
        yield Violation("I4", f"run {run_id} was settled by somebody who did not hold it", [claim, end])


def _ended_by_nobody(history: History, closed: Iterable[Row]) -> Iterator[Violation]:
    """What closes a claim was sent for that claim: an older one's end, taken for its own, was not."""
    sent: dict[tuple[UUID, int, str, str], datetime] = {}
    for one in history.ledger.sent:
        sent.setdefault((one.run_id, one.fence, one.actor, one.state), one.at)
    for row in closed:
        sent_at = sent.get((row["run_id"], row["fence"], row["actor"], row["to_state"]))
        if row["reason"] not in _TAKEN_AWAY and (sent_at is None or sent_at > row["at"]):
            message = f"run {row['run_id']} was closed under fence {row['fence']} before anybody had ended that claim"
            yield Violation("I4", message, [row])


def i5_drained(history: History) -> Iterator[Violation]:
    gone = {
        row["holder"]: row for row in history.leases if row["ended_at"] is not None or row["expires_at"] < history.until
    }
    left = [run for run in history.runs if run["state"] == "running" and run["holder"] in gone]
    for run in left:
        yield Violation("I5", f"run {run['id']} runs in the name of a holder that is gone", [run, gone[run["holder"]]])


def i6_overlap(history: History) -> Iterator[Violation]:
    trails = history.trail()
    limits = {row["name"]: (row["concurrency"], row["concurrency_key"]) for row in history.agents}
    scopes: dict[str, list[_Held]] = {}
    permits: dict[tuple[str, str], list[_Held]] = {}
    begun = {(one.run_id, one.fence): one.at for one in history.ledger.begun}
    for run in history.runs:
        held = list(_held(run, trails.get(run["id"], []), history, begun))
        if run["scope"] is not None:
            scopes.setdefault(run["scope"], []).extend(held)
        limit, key = limits.get(run["agent"], (None, None))
        if limit is not None:
            permits.setdefault((run["agent"], limit_key(run, key)), []).extend(held)
    for scope, held in scopes.items():
        yield from _at_most(1, f"scope {scope}", held)
    for (agent, value), held in permits.items():
        yield from _at_most(limits[agent][0], f"agent {agent} {value}".rstrip(), held)


def limit_key(run: Row, path: str | None) -> str:
    """By what of its input a run counts towards its agent's limit; "" where all runs count together."""
    found = run.get("input") if path is not None else None
    found = json.loads(found) if isinstance(found, str) else found
    for name in (path or "").split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return "" if found is None else str(found)


@dataclass(frozen=True, slots=True)
class _Held:
    """An attempt was active, unfenced, from one instant to another."""

    since: datetime
    until: datetime
    claim: Row


def _held(run: Row, trail: list[Row], history: History, begun: Mapping[tuple[UUID, int], datetime]) -> Iterator[_Held]:
    """From when the attempt began until it was closed. One whose claim's answer was lost never began.

    A claim says when its transaction began, which is earlier by as long as that was held up.
    """
    for row, following in pairwise([*trail, None]):
        if row is not None and row["to_state"] == "running":
            since = begun.get((run["id"], row["fence"])) if begun else row["at"]
            until = following["at"] if following is not None else history.until + timedelta(days=1)
            if since is not None and since < until:
                yield _Held(since, until, row)


def _at_most(limit: int, what: str, held: Iterable[_Held]) -> Iterator[Violation]:
    active: list[_Held] = []
    for one in sorted(held, key=lambda one: (one.since, one.until)):
        active = [other for other in active if other.until > one.since]
        active.append(one)
        if len(active) > limit:
            rows = [other.claim for other in active]
            yield Violation("I6", f"{what}: {len(active)} attempts at {one.since}, at most {limit} may be", rows)


def i8_bounded_attempts(history: History) -> Iterator[Violation]:
    trails = history.trail()
    for run in history.runs:
        trail = trails.get(run["id"], [])
        counted = sum(row["reason"] == "retry" for row in trail if row["from_state"] == "running")
        lost = sum(row["reason"] in ("lost", "poisoned") for row in trail)
        if run["attempt"] > run["max_attempts"] or counted >= run["max_attempts"]:
            yield Violation("I8", f"run {run['id']} had more than {run['max_attempts']} attempts", [run, *trail])
        if lost > POISONED_AFTER:
            yield Violation("I8", f"run {run['id']} was lost {lost} times and begun again", [run, *trail])
        if lost == POISONED_AFTER and (run["state"], run["reason"]) != ("failed", "poisoned"):
            message = f"run {run['id']} was lost {lost} times and is {run['state']} ({run['reason']}), not poisoned"
            yield Violation("I8", message, [run, *trail])


def i9_isolation(history: History) -> Iterator[Violation]:
    for row in history.triggers:
        if row["id"] in history.poisoned:
            if row["status"] != "broken" or not row["broken_reason"]:
                yield Violation("I9", f"poisoned trigger {row['name']} is {row['status']}, not quarantined", [row])
        elif row["status"] == "broken":
            yield Violation("I9", f"healthy trigger {row['name']} was quarantined", [row])
        elif row["wake_at"] is not None and history.until - row["wake_at"] > LATEST_DECISION:
            yield Violation("I9", f"trigger {row['name']} has been due since {row['wake_at']}", [row])


def i14_not_before(history: History) -> Iterator[Violation]:
    effective = {run["id"]: run["effective_at"] for run in history.runs}
    for row in history.transitions:
        if row["to_state"] == "running" and row["at"] < effective.get(row["run_id"], row["at"]):
            yield Violation("I14", f"run {row['run_id']} began before {effective[row['run_id']]}", [row])
    for begun in history.ledger.begun:
        if begun.at < begun.effective_at:
            yield Violation("I14", f"run {begun.run_id} was begun at {begun.at}, before {begun.effective_at}", [])


def i16_legal(history: History) -> Iterator[Violation]:
    trails = history.trail()
    for run in history.runs:
        trail = trails.get(run["id"], [])
        last = trail[-1] if trail else None
        if last is None or (last["to_state"], last["seq"]) != (run["state"], run["seq"]):
            yield Violation("I16", f"the trail of run {run['id']} does not end where the run is", _rows(run, last))
    for run_id, trail in trails.items():
        before: Row | None = None
        for number, row in enumerate(trail, 1):
            fault = _illegal(row, before, number)
            if fault is not None:
                yield Violation("I16", f"run {run_id}: {fault}", _rows(before, row))
            before = row


def _illegal(row: Row, before: Row | None, number: int) -> str | None:
    if row["seq"] != number:
        return f"transition {row['seq']} stands at place {number}"
    if not row["actor"]:
        return "a transition without an actor"
    if row["from_state"] != (before["to_state"] if before is not None else None):
        return "a transition does not begin where the one before it ended"
    if before is None:
        return None if row["to_state"] == RunState.QUEUED else "the first transition is not into the queue"
    if RunState(row["to_state"]) not in TRANSITIONS[RunState(row["from_state"])]:
        return f"{row['from_state']} → {row['to_state']} is no edge"
    return None


CHECKS: Final[dict[str, Callable[[History], Iterator[Violation]]]] = {
    "I0": i0_one_enumeration,
    "I1": i1_exactly_one,
    "I2": i2_single_commit,
    "I3": i3_no_silent_loss,
    "I4": i4_fenced,
    "I5": i5_drained,
    "I6": i6_overlap,
    "I8": i8_bounded_attempts,
    "I9": i9_isolation,
    "I14": i14_not_before,
    "I16": i16_legal,
}


def check(history: History) -> list[Violation]:
    """Every violation of every invariant."""
    return [violation for invariant in CHECKS.values() for violation in invariant(history)]


def caught(violations: Iterable[Violation]) -> Counter[str]:
    """How many violations each invariant found."""
    return Counter(violation.invariant for violation in violations)


def _rows(*rows: Row | None) -> list[Row]:
    return [row for row in rows if row is not None]
