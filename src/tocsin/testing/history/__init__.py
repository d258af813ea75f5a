"""What happened, as a checker sees it: the rows at the end, what was declared when, and the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tocsin.store.database import Database
from tocsin.testing.scripted import Ledger

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule that a trigger had in ``(since, until]``; until None: it has it still. form: its JSON."""

    trigger_id: UUID
    form: Mapping[str, Any]
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class CursorSeen:
    """Where a trigger's cursor stood at one moment."""

    trigger_id: UUID
    version: int
    next_at: datetime
    at: datetime


@dataclass(slots=True, kw_only=True)
class History:
    """A whole run of the hub. Rows are those of the tables; ``until`` is the instant of the last look.

    ends: every write that left a run ended, where somebody has kept them: run_id, was (its state before), state.
    poisoned: ids of triggers that were written behind the product's back and cannot be read.
    """

    runs: list[Row] = field(default_factory=list)
    transitions: list[Row] = field(default_factory=list)
    ends: list[Row] = field(default_factory=list)
    skips: list[Row] = field(default_factory=list)
    triggers: list[Row] = field(default_factory=list)
    leases: list[Row] = field(default_factory=list)
    agents: list[Row] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)
    cursors: list[CursorSeen] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    poisoned: set[UUID] = field(default_factory=set)
    until: datetime

    def trail(self) -> dict[UUID, list[Row]]:
        """Each run's transitions, in order."""
        trails: dict[UUID, list[Row]] = {}
        for row in self.transitions:
            trails.setdefault(row["run_id"], []).append(row)
        for rows in trails.values():
            rows.sort(key=lambda row: row["seq"])
        return trails

    def names(self) -> dict[UUID, str]:
        return {row["id"]: row["name"] for row in self.triggers}


TABLE_QUERIES: Final = {
    "runs": "SELECT r.* FROM tocsin.runs r ORDER BY r.id",
    "transitions": "SELECT t.* FROM tocsin.transitions t ORDER BY t.run_id, t.seq",
    "skips": "SELECT s.* FROM tocsin.skips s ORDER BY s.trigger_id, s.first_at, s.reason",
    "triggers": "SELECT t.* FROM tocsin.triggers t ORDER BY t.name",
    "leases": "SELECT l.* FROM tocsin.leases l ORDER BY l.holder",
    "agents": "SELECT a.* FROM tocsin.agents a ORDER BY a.name",
}


async def read_tables(database: Database) -> dict[str, list[Row]]:
    """The rows of every table that a history has, by its field."""
    async with database.session() as session:
        return {
            name: [dict(row) for row in await session.connection.fetch(query)] for name, query in TABLE_QUERIES.items()
        }
