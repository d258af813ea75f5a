"""The four logs of a run on real processes, on one axis of time: the database's clock.

(d) ``audit``: every change of a row of runs, triggers, leases and skips, in the order in which they were made;
(w) ``entries``: what agents wrote into ledgers outside the database: START, EFFECT, END, and ANSWER, which is
    what the database answered to their settlement; in agent processes also TOLD, what a hub answered to it, and
    BEAT, a beat that a hub has taken and when it was ``sent``;
(c) ``calls``: what a client asked for and was answered;
(n) ``events``: what was done to whom: spawn, exit, signal, and each fault's "on" and "off".

Besides, what an onlooker saw meanwhile (``seen``, ``samples``), and the tables at the end.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from tocsin.testing.history import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the hub was configured to, and how much time a busy machine is given beyond it.

    heal: from the end of the last fault to calm. late: the most that a start may lag. noise: what two clocks'
    readings may be apart. executors: agent → the kind of executor that runs it.
    """

    lease: timedelta = timedelta(seconds=3)
    sweep: timedelta = timedelta(seconds=0.5)
    drain: timedelta = timedelta(seconds=4)
    heal: timedelta = timedelta(seconds=10)
    late: timedelta = timedelta(seconds=2)
    busy: timedelta = timedelta(seconds=1)
    noise: timedelta = timedelta(milliseconds=20)
    slots: int = 40
    connections: int = 16
    executors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """One row of one table was inserted (before None), updated or deleted (after None).

    at: when; began: when its transaction did. Instants in the rows are datetimes, ids are texts.
    """

    id: int
    txid: int
    at: datetime
    began: datetime
    table: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def row(self) -> Mapping[str, Any]:
        found = self.after if self.after is not None else self.before
        assert found is not None  # a change is of something
        return found

    def moved(self, column: str) -> bool:
        """Whether the column has another value than before."""
        before = self.before[column] if self.before is not None else None
        return bool((self.after[column] if self.after is not None else None) != before)


@dataclass(frozen=True, slots=True)
class Window:
    since: datetime
    until: datetime

    def holds(self, at: datetime, *, after: timedelta = timedelta()) -> bool:
        """Whether an instant lies in it, or so long after it."""
        return self.since <= at <= self.until + after


def read_policy(trigger: Row) -> dict[str, Any]:
    """A trigger row's policy, which a driver may hand over as text."""
    policy = trigger["policy"]
    found: dict[str, Any] = json.loads(policy) if isinstance(policy, str) else dict(policy)
    return found


@dataclass(kw_only=True)
class Logs:
    """See the module. Rows of every log are in order and have ``at``; tables: by name, as they were at the end."""

    audit: Sequence[Change] = ()
    entries: Sequence[Row] = ()
    calls: Sequence[Row] = ()
    events: Sequence[Row] = ()
    seen: frozenset[tuple[str, int, str]] = frozenset()
    samples: Sequence[Row] = ()
    tables: Mapping[str, list[Row]] = field(default_factory=dict)
    poisoned: frozenset[str] = frozenset()
    bounds: Bounds = field(default_factory=Bounds)
    until: datetime

    def changes(self, table: str) -> Iterator[Change]:
        return (change for change in self.audit if change.table == table)

    @cached_property
    def pids(self) -> dict[str, int]:
        """Holder → the process that it was an incarnation of."""
        rows = [row for name in ("replicas", "instances") for row in self.tables.get(name, [])]
        return {str(row["id"]): int(row["name"].rpartition(":")[2]) for row in rows}

    @cached_property
    def instances(self) -> dict[str, Row]:
        """Holder → its row, of agent processes."""
        return {str(row["id"]): row for row in self.tables.get("instances", [])}

    @cached_property
    def elsewhere(self) -> frozenset[int]:
        """Agent processes."""
        return frozenset(
            event["pid"] for event in self.events if event["what"] == "spawn" and event.get("role") == "instance"
        )

    def actor(self, holder: str) -> str:
        """As whom a holder stands in trails."""
        return f"{'instance' if holder in self.instances else 'replica'}:{holder}"

    def patience(self, holder: str) -> timedelta:
        """How long a holder may be silent: a lease."""
        last = next((one.after for one in reversed(self.renewals.get(holder, [])) if one.after is not None), None)
        return last["expires_at"] - last["renewed_at"] if last is not None else self.bounds.lease

    @cached_property
    def lives(self) -> dict[int, Window]:
        """Process → from its start to its end."""
        lives: dict[int, Window] = {}
        for event in self.events:
            if event["what"] == "spawn":
                lives[event["pid"]] = Window(event["at"], self.until + timedelta(days=1))
            elif event["what"] == "exit":
                lives[event["pid"]] = Window(lives[event["pid"]].since, event["at"])
        return lives

    @cached_property
    def codes(self) -> dict[int, int]:
        """Process → its exit code."""
        return {event["pid"]: event["code"] for event in self.events if event["what"] == "exit"}

    def signals(self, *names: str) -> list[Row]:
        return [event for event in self.events if event["what"] == "signal" and event["signal"] in names]

    @cached_property
    def freezes(self) -> dict[int, list[Window]]:
        """Process → when it stood still."""
        frozen: dict[int, list[Window]] = {}
        for event in self.signals("SIGSTOP", "SIGCONT"):
            windows = frozen.setdefault(event["pid"], [])
            if event["signal"] == "SIGSTOP":
                windows.append(Window(event["at"], self.until))
            elif windows:
                windows[-1] = Window(windows[-1].since, event["at"])
        return frozen

    def faults(self, excuse: str | None = None) -> list[Window]:
        """When faults were on; only those with that excuse."""
        windows: dict[Any, Window] = {}
        for event in self.events:
            if event["what"] == "on" and (excuse is None or excuse in event.get("excuses", ())):
                windows[event["fault"], event.get("number")] = Window(event["at"], self.until)
            elif event["what"] == "off" and (event["fault"], event.get("number")) in windows:
                key = (event["fault"], event.get("number"))
                windows[key] = Window(windows[key].since, event["at"])
        return list(windows.values())

    def excused(self, excuse: str, at: datetime, *, after: timedelta) -> bool:
        """Whether a fault with that excuse was on at an instant, or had been so long before it."""
        return any(window.holds(at, after=after) for window in self.faults(excuse))

    @cached_property
    def renewals(self) -> dict[str, list[Change]]:
        """Holder → the changes of its lease."""
        found: dict[str, list[Change]] = {}
        for change in self.changes("leases"):
            found.setdefault(str(change.row["holder"]), []).append(change)
        return found

    def lease_before(self, holder: str, change: Change) -> Change | None:
        """The last change of a holder's lease in an earlier transaction."""
        changes = [one for one in self.renewals.get(holder, []) if one.txid != change.txid]
        place = bisect_right([one.id for one in changes], change.id)
        return changes[place - 1] if place else None

    def names(self) -> dict[str, str]:
        return {str(row["id"]): row["name"] for row in self.tables.get("triggers", [])}
