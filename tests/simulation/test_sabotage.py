"""Guards taken out on purpose. Each hole must be seen, and by the invariant that is meant for it.

What guards an occurrence, a settlement or a scope stands twice or three times over; a hole is made by
taking out every layer of one guard, and a layer is one of them alone, without which nothing happens.
Whether a random course meets what a guard is there for is luck, so each hole has a story that makes it happen.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tests.simulation import stories
from tocsin.domain.assignment import Assignment
from tocsin.store.database import Database, Session
from tocsin.store.statements import Statements, load
from tocsin.store.trigger_rows import Decision
from tocsin.store.triggers import Triggers
from tocsin.testing.history import History
from tocsin.testing.holes import (
    TOOK_EDGES,
    of_whichever_claim,
    of_whichever_holder,
    overlapping,
    stateless,
    unfenced,
    unkeyed,
    unlocked,
    without,
)
from tocsin.testing.invariants import caught, check
from tocsin.testing.simulation import simulated

Story = Callable[..., Awaitable[History]]


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
    """What is taken out, where it matters, and who is to notice. sql: what else goes, on the database."""

    noticed_by: str
    story: Story
    statements: Statements | None = None
    sql: str = ""
    store: type[Triggers] = Triggers

    async def opened(self, dsn: str) -> dict[str, Any]:
        """The database has the hole; the simulation's options for the rest of it."""
        if self.sql:
            database = Database(dsn, size=1)
            async with database.session() as session:
                await session.connection.execute(self.sql)
            await database.close()
        return {"statements": self.statements, "store": self.store}


def unkeyed_insert() -> Statements:
    return without(load(), "materialise", r"ON CONFLICT \(trigger_id.*?\) WHERE key IS NULL", "ON CONFLICT")


NO_KEY = "DROP INDEX tocsin.occurrences_instant"
NO_SCOPE = "DROP INDEX tocsin.runs_scope_held"

HOLES = {
    "a settlement is not fenced": Hole("I4", stories.an_end_comes_when_a_peer_has_the_run, unfenced()),
    "a settlement is of whoever holds the run, whichever of its claims": Hole(
        "I4", stories.an_end_comes_when_its_process_has_the_run_again, of_whichever_claim()
    ),
    "a settlement is of the holder, whichever of its claims": Hole(
        "I4", stories.an_end_is_sent_again_when_its_holder_has_the_run_again, of_whichever_claim()
    ),
    "a settlement does not look at the state": Hole("I2", stories.an_end_is_sent_twice, stateless(), sql=TOOK_EDGES),
    "two planners race, without the key": Hole(
        "I1",
        stories.a_planner_writes_what_a_peer_has_decided_since,
        unkeyed(),
        sql=NO_KEY,
    ),
    "two planners race, and the key holds": Hole(
        "I3", stories.a_planner_writes_what_a_peer_has_decided_since, unlocked()
    ),
    "the cursor moves before the insert": Hole(
        "I3", stories.a_planner_is_cut_off_when_it_has_written, store=AdvancesFirst
    ),
    "a claim does not look at its scope": Hole(
        "I6", stories.two_replicas_claim_of_one_scope, overlapping(), sql=NO_SCOPE
    ),
}

LAYERS = {
    "only the fence, while a peer has the run": Hole(
        "", stories.an_end_comes_when_a_peer_has_the_run, of_whichever_claim()
    ),
    "only the holder, while a peer has the run": Hole(
        "", stories.an_end_comes_when_a_peer_has_the_run, of_whichever_holder()
    ),
    "only the occurrence's key": Hole(
        "",
        stories.a_planner_writes_what_a_peer_has_decided_since,
        unkeyed_insert(),
        sql=NO_KEY,
    ),
    "only the lock on what is due": Hole(
        "",
        stories.a_planner_writes_what_a_peer_has_decided_since,
        without(load(), "lock_due", r"FOR UPDATE SKIP LOCKED"),
    ),
    "only the scope's index": Hole("", stories.two_replicas_claim_of_one_scope, sql=NO_SCOPE),
    "only the claim's look at its scope": Hole("", stories.two_replicas_claim_of_one_scope, overlapping()),
}

ALL_THE_TIME = ("the cursor moves before the insert", "a claim does not look at its scope")
"""Holes that a random course meets in whatever it does, tens of times in each."""


@pytest.mark.parametrize("name", list(HOLES))
async def test_a_hole_is_seen_by_the_invariant_that_is_meant_for_it(name: str, dsn: str) -> None:
    hole = HOLES[name]
    found = caught(check(await hole.story(dsn, **await hole.opened(dsn))))
    assert found[hole.noticed_by], found


@pytest.mark.parametrize(
    "story", dict.fromkeys(hole.story for hole in HOLES.values()), ids=lambda story: story.__name__
)
async def test_nothing_is_seen_in_a_story_with_every_guard_in_its_place(story: Story, dsn: str) -> None:
    assert check(await story(dsn)) == []


@pytest.mark.parametrize("name", list(LAYERS))
async def test_what_is_guarded_twice_holds_without_one_of_its_guards(name: str, dsn: str) -> None:
    layer = LAYERS[name]
    assert check(await layer.story(dsn, **await layer.opened(dsn))) == []


@pytest.mark.parametrize("name", ALL_THE_TIME)
async def test_a_random_course_sees_a_hole_that_it_meets_all_the_time(name: str, dsn: str) -> None:
    hole, length = HOLES[name], timedelta(minutes=40)
    async with simulated(2, dsn, length=length, **await hole.opened(dsn)) as simulation:
        found = caught(await simulation.violations())
    sys.stdout.write(f"{name}: {dict(found)}\n")
    assert found[hole.noticed_by], found
