"""A seed's course: the same each time, and full of what it is meant to be full of."""

import pytest

from tests.conftest import Server
from tocsin.testing.history import History
from tocsin.testing.simulation import simulated

SEED = 5


def course(history: History) -> list[object]:
    """What happened, without the ids, which are drawn anew each time."""
    names = history.names()
    order = {run["id"]: place for place, run in enumerate(history.runs)}
    runs = [
        (names[run["trigger_id"]], run["kind"], run["nominal_at"], run["state"], run["reason"], run["fence"])
        for run in history.runs
    ]
    steps = [(order[row["run_id"]], row["seq"], row["to_state"], row["at"]) for row in history.transitions]
    return [runs, steps, [(row["reason"], row["first_at"], row["count"]) for row in history.skips]]


@pytest.mark.parametrize("seed", [2, SEED])
async def test_the_same_seed_takes_the_same_course(seed: int, server: Server, template: str) -> None:
    courses = []
    for _ in range(2):
        async with server.database(template) as dsn, simulated(seed, dsn) as simulation:
            courses.append(course(await simulation.history()))
    assert courses[0] == courses[1]


async def test_a_course_meets_every_trouble(dsn: str) -> None:
    async with simulated(SEED, dsn) as simulation:
        history = await simulation.history()
    assert {
        "freeze",
        "hang keeper",
        "cut off",
        "lose much",
        "kill",
        "drain",
        "poison",
    } <= simulation.nemesis.counts.keys()
    assert any(kind.startswith("hold") for kind in simulation.nemesis.counts)
    assert any(not answer.accepted for answer in history.ledger.answered)
    reasons = {row["reason"] for row in history.transitions} | {row["reason"] for row in history.skips}
    assert {"due", "lost", "retry", "retry_after", "overlap", "missed", "paused"} <= reasons
    assert {run["kind"] for run in history.runs} >= {"schedule", "manual"}
    assert sum(row["status"] == "broken" for row in history.triggers) == 6
