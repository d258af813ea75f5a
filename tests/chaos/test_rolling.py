"""Every replica is restarted under load, twice: nothing is lost, doubled, cancelled or late.

``pytest -s`` prints the figures.
"""

import os
import sys
import time
from datetime import datetime
from pathlib import Path
from random import Random

import asyncpg
import pytest

from tests.chaos.agents import hub
from tests.chaos.course import Clock
from tests.chaos.faults.ledgers import entries
from tests.chaos.faults.rolling import roll
from tests.chaos.fleet import Fleet
from tocsin import App, Hub, every
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.store.database import Database

TRIGGERS = 60
LATEST = 2.0 * float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))
"""Seconds after its instant by which a run has begun."""


def a_load() -> App:
    """Each second sixty runs, a third of which last long enough to be in hand when their replica is told to go."""
    made = Hub(name="chaos")
    made._functions.update(hub.build("chaos").functions)
    for number in range(TRIGGERS):
        seconds = [[0.0], [0.2], [2.5]][number % 3]
        made.trigger(f"t{number:02d}", "scribe", every(1), overlap="allow", input={"seconds": seconds})
    return made.build("chaos")


async def test_two_rolling_restarts_lose_double_cancel_and_delay_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Fleet(tmp_path, env={"TOCSIN_SLOTS": "200", "TOCSIN_DRAIN_TIMEOUT": "10s"}) as fleet:
        database = Database(fleet.postgres.dsn, size=1)
        await Control(database=database, clock=SystemClock(), actor="test").declare(a_load())
        await database.close()
        await fleet.start()
        await fleet.until_value("SELECT count(DISTINCT trigger_id) = $1 FROM tocsin.runs", TRIGGERS, within=20)
        since = await fleet.value("SELECT now()")
        begun = len(entries(fleet.ledgers, "START"))
        restarts = sum([await roll(fleet, Random(round_)) for round_ in range(2)])
        until = await fleet.value("SELECT now()")
        await fleet.until_value("SELECT min(next_at) > $1 FROM tocsin.triggers", until, within=10)
        codes = [await member.stop() for member in fleet.members]
        during = len(entries(fleet.ledgers, "START")) - begun
        lags = await starts(fleet, since, until)
        await check(fleet)
        with capsys.disabled():
            sys.stdout.write(
                f"\nrolling restart: {restarts} restarts of 3 replicas under {TRIGGERS} runs/s, {during} runs begun"
                f" meanwhile, 0 lost, 0 doubled, 0 cancelled; latest start {lags[-1] * 1000:.0f} ms after its"
                f" instant, p99 {lags[len(lags) * 99 // 100] * 1000:.0f} ms\n"
            )
        assert restarts == 6
        assert codes == [0, 0, 0], "each drain gave its work the time to end"
        assert during > 5 * TRIGGERS
        assert len(lags) > 5 * TRIGGERS
        assert lags[-1] < LATEST


async def starts(fleet: Fleet, since: datetime, until: datetime) -> list[float]:
    """Seconds from each instant in between to its agent's first line, by the agent's own clock; shortest first."""
    session = await asyncpg.connect(fleet.postgres.dsn)
    looks = []
    for _ in range(20):
        asked = time.monotonic()
        now = await session.fetchval("SELECT clock_timestamp()")
        answered = time.monotonic()
        looks.append(((asked + answered) / 2, now, answered - asked))
    await session.close()
    clock = Clock(looks)
    begun = [
        (datetime.fromisoformat(entry["effective"]), clock.instant(entry["mono"]))
        for entry in entries(fleet.ledgers, "START")
    ]
    return sorted((at - effective).total_seconds() for effective, at in begun if since <= effective <= until)


async def check(fleet: Fleet) -> None:
    # Begun once each, by the agents' own account, and ended well.
    begun = [entry["run"] for entry in entries(fleet.ledgers, "START")]
    assert len(begun) == len(set(begun))
    effects = [entry["run"] for entry in entries(fleet.ledgers, "EFFECT")]
    assert len(effects) == len(set(effects))
    ends = await fleet.fetch(
        "SELECT state, reason, fence, attempt, lost, count(*) FROM tocsin.runs"
        " WHERE state <> 'queued' OR fence > 0 GROUP BY 1, 2, 3, 4, 5"
    )
    # One that was claimed as its replica was told to go is given back unbegun: a higher fence, the same attempt.
    assert {(end["state"], end["attempt"], end["lost"]) for end in ends} == {("succeeded", 1, 0)}, ends
    # Each second of each trigger has its run, and none was skipped.
    assert await fleet.value("SELECT count(*) FROM tocsin.skips") == 0
    rows = await fleet.fetch(
        "SELECT t.name, t.created_at, t.next_at, count(DISTINCT r.nominal_at) AS instants, count(*) AS runs"
        "  FROM tocsin.triggers t JOIN tocsin.runs r ON r.trigger_id = t.id GROUP BY t.id"
    )
    assert len(rows) == TRIGGERS
    for row in rows:
        passed = int(row["next_at"].timestamp()) - int(row["created_at"].timestamp()) - 1
        assert row["instants"] == row["runs"] == passed, row
