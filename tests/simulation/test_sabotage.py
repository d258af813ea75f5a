"""Guards taken out on purpose. Each hole must be seen, and by the invariant that is meant for it.

What guards an occurrence, a settlement or a scope stands twice or three times over; a hole is made by
taking out every layer of one guard, and the last test says that single layers may go unnoticed.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec.structs import replace

from tests.conftest import Server
from tocsin.domain.assignment import Assignment
from tocsin.store.database import Database, Session
from tocsin.store.statements import Statements, load
from tocsin.store.trigger_rows import Decision
from tocsin.store.triggers import Triggers
from tocsin.testing.holes import (
    TOOK_EDGES,
    of_whichever_claim,
    overlapping,
    stateless,
    unfenced,
    unkeyed,
    unlocked,
    without,
)
from tocsin.testing.invariants import caught
from tocsin.testing.simulation import simulated


class AdvancesFirst(Triggers):
    """Moves the cursors in a transaction of their own, before the runs are inserted."""

    async def materialise(self, session: Session, decisions: Sequence[Decision]) -> list[Assignment]:
        bare = [
            replace(
                decision,
                plan=replace(decision.plan, occurrences=[], skips=[]),
                run_ids=[],
                begins=False,
            )
            for decision in decisions
            if decision.plan is not None
        ]
        await super().materialise(session, bare)
        await session.connection.execute("COMMIT")
        await session.connection.execute("BEGIN")
        return await super().materialise(session, decisions)


@dataclass(frozen=True, slots=True)
class Hole:
    """What is taken out, and who is to notice. sql: what else goes, on the database."""

    noticed_by: str
    statements: Statements | None = None
    sql: str = ""
    store: type[Triggers] = Triggers


HOLES = {
    "a settlement is not fenced": Hole("I4", unfenced()),
    "a settlement is of the holder, whichever of its claims": Hole("I4", of_whichever_claim()),
    "a settlement does not look at the state": Hole("I2", stateless(), sql=TOOK_EDGES),
    "two planners race, without the key": Hole("I1", unkeyed(), sql="DROP INDEX tocsin.occurrences_instant"),
    "two planners race, and the key holds": Hole("I3", unlocked()),
    "the cursor moves before the insert": Hole("I3", store=AdvancesFirst),
    "a claim does not look at its scope": Hole("I6", overlapping(), sql="DROP INDEX tocsin.runs_scope_held"),
}

LAYERS = {
    "only the occurrence's key": Hole(
        "",
        without(load(), "materialise", r"ON CONFLICT \(trigger_id.*?\) WHERE key IS NULL", "ON CONFLICT"),
        sql="DROP INDEX tocsin.occurrences_instant",
    ),
    "only the scope's index": Hole("", sql="DROP INDEX tocsin.runs_scope_held"),
}

SEEDS = (2, 3, 4, 5, 6, 7)
"""Tried in this order until one meets the hole; one of the first two does, as long as the engine keeps its course."""


async def courses(hole: Hole, seed: int, dsn: str) -> Counter[str]:
    """How many violations each invariant finds in one seed's course with the guards taken out."""
    if hole.sql:
        database = Database(dsn, size=1)
        async with database.session() as session:
            await session.connection.execute(hole.sql)
        await database.close()
    length = timedelta(minutes=40)
    async with simulated(seed, dsn, statements=hole.statements, store=hole.store, length=length) as simulation:
        return caught(await simulation.violations())


@pytest.mark.parametrize("name", list(HOLES))
async def test_a_hole_is_seen_by_the_invariant_that_is_meant_for_it(name: str, server: Server, template: str) -> None:
    hole = HOLES[name]
    found: Counter[str] = Counter()
    for seed in SEEDS:
        async with server.database(template) as dsn:
            found = await courses(hole, seed, dsn)
        if found[hole.noticed_by]:
            break
    sys.stdout.write(f"{name}: seed {seed}, {dict(found)}\n")
    assert found[hole.noticed_by]


@pytest.mark.parametrize("name", list(LAYERS))
async def test_what_is_guarded_twice_holds_without_one_of_its_guards(name: str, dsn: str) -> None:
    assert await courses(LAYERS[name], SEEDS[0], dsn) == Counter()
