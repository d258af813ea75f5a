"""The primary is killed under load and its synchronous standby takes over: nothing acknowledged is lost.

``pytest -s`` prints how long nothing was begun.
"""

import asyncio
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.agents import hub
from tests.chaos.faults.firing import Firing
from tests.chaos.faults.ledgers import entries
from tests.chaos.faults.pair import Pair
from tests.chaos.faults.proxy import Proxy
from tests.chaos.fleet import SETTINGS
from tests.chaos.journal import Journal
from tests.chaos.member import Member
from tests.engine.building import Heard, a_replica, a_trigger, an_app, eventually
from tocsin import Hub, every
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.engine.sweeper import PROBE_EVERY
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.migrate import migrate

TRIGGERS = 25
LATEST = 10.0 * float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))
"""Seconds within which runs begin again after a promotion."""

PATIENCE = 60 * float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))


def a_load() -> Any:
    """Triggers of every second, some whose runs last longer than the outage."""
    made = Hub(name="chaos")
    made._functions.update(hub.build("chaos").functions)
    made.trigger("by-hand", "scribe", overlap="allow", input={"seconds": [0.0]})
    for number in range(TRIGGERS):
        seconds = [0.0] if number % 5 else [2.5]
        made.trigger(f"t{number:02d}", "scribe", every(1), overlap="allow", input={"seconds": seconds})
    return made.build("chaos")


async def test_a_standby_takes_over_and_nothing_acknowledged_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledgers = tmp_path / "ledger"
    ledgers.mkdir()
    journal = Journal(tmp_path / "nemesis.jsonl")
    async with Pair() as pair:
        await migrate(pair.dsn)
        await eventually(pair.in_step)
        database = Database(pair.dsn, size=2)
        control = Control(database=database, clock=SystemClock(), actor="test")
        await control.declare(a_load())
        env = SETTINGS | {"CHAOS_LEDGERS": str(ledgers)}
        members = [Member(index, dsn=lambda: pair.dsn, env=dict(env), journal=journal) for index in range(3)]
        firing = Firing(control)
        try:
            for member in members:
                member.spawn()
            for member in members:
                await member.until_logged("hub.ready")
            calling = asyncio.create_task(firing.run())
            await eventually(lambda: len(entries(ledgers, "ANSWER")) > 100, within=PATIENCE)
            killed_at = time.monotonic()
            await pair.primary.kill()
            await pair.standby.promote()
            promoted_at = time.monotonic()
            begun_at = await first_after(ledgers, promoted_at)
            acknowledged = len(firing.acknowledged)
            await eventually(lambda: len(firing.acknowledged) > acknowledged + 100, within=PATIENCE)
            # One more round of each second, so that every replica is seen to work again.
            await eventually(
                lambda: all(has_begun(ledgers, member, promoted_at) for member in members), within=PATIENCE
            )
            calling.cancel()
            codes = [await member.stop() for member in members]
        finally:
            for member in members:
                await member.kill() if member.alive else None
            await database.close()
        assert set(codes) <= {0, 4}
        pause = begun_at - killed_at
        with capsys.disabled():
            sys.stdout.write(
                f"\nfailover: {pause:.2f} s without a begun run, {begun_at - promoted_at:.2f} s of them after the"
                f" promotion; {len(firing.acknowledged)} acknowledged calls, {firing.unknown} unanswered\n"
            )
        assert begun_at - promoted_at < LATEST
        await check(pair, firing, ledgers)
    journal.close()


async def first_after(ledgers: Path, instant: float) -> float:
    async def begun() -> float | None:
        return next((float(one["mono"]) for one in entries(ledgers, "START") if one["mono"] > instant), None)

    return float(await eventually(begun, within=PATIENCE))


def has_begun(ledgers: Path, member: Member, instant: float) -> bool:
    return any(one["pid"] == member.pid and one["mono"] > instant for one in entries(ledgers, "START"))


async def check(pair: Pair, firing: Firing, ledgers: Path) -> None:
    standby = pair.standby
    # 1. What was acknowledged to a caller is there.
    found = await standby.fetch("SELECT id FROM tocsin.runs WHERE kind = 'manual'")
    assert set(firing.acknowledged) <= {row["id"] for row in found}
    assert len(firing.acknowledged) > 100
    # 2. What was acknowledged to a replica is there, under the fence it had.
    trail = await standby.fetch("SELECT run_id, fence, to_state FROM tocsin.transitions WHERE from_state = 'running'")
    ended = {(str(row["run_id"]), row["fence"], row["to_state"]) for row in trail}
    accepted = {(one["run"], one["fence"], one["state"]) for one in entries(ledgers, "ANSWER") if one["accepted"]}
    assert accepted <= ended, sorted(accepted - ended)[:5]
    # 3. No fence was issued twice, and a later attempt has a higher one.
    fences: dict[str, list[int]] = defaultdict(list)
    for one in entries(ledgers, "START"):
        fences[one["run"]].append(one["fence"])
    assert len(fences) > 100
    assert [run for run, given in fences.items() if given != sorted(set(given))] == []
    # 4. Each second of each trigger has one decision.
    rows = await standby.fetch(
        "SELECT t.name, t.created_at, t.next_at, count(r.id) AS runs, count(DISTINCT r.nominal_at) AS instants,"
        "       (SELECT coalesce(sum(s.count), 0) FROM tocsin.skips s WHERE s.trigger_id = t.id) AS skips"
        "  FROM tocsin.triggers t JOIN tocsin.runs r ON r.trigger_id = t.id WHERE t.name <> 'by-hand'"
        " GROUP BY t.id"
    )
    assert len(rows) == TRIGGERS
    for row in rows:
        passed = int(row["next_at"].timestamp()) - int(row["created_at"].timestamp()) - 1
        assert row["runs"] == row["instants"], row
        assert row["runs"] + row["skips"] == passed, row


async def test_a_replica_that_comes_back_late_keeps_its_work(tmp_path: Path) -> None:
    """No lock is replicated: on the new primary all are free, which says nothing of those who held them."""
    let_go = asyncio.Event()
    begun: list[int] = []

    async def long(run: Run) -> int:
        begun.append(run.fence)
        await let_go.wait()
        return run.fence

    log = Heard()
    settings: dict[str, Any] = {"lease": 30, "renew_every": 1, "sweep_every": 0.2, "poll_every": 0.2}
    async with Pair() as pair:
        await migrate(pair.dsn)
        await eventually(pair.in_step)
        database = Database(pair.dsn, size=1)
        control = Control(database=database, clock=SystemClock(), actor="test")
        await control.declare(an_app(a_trigger("once", agent="long"), agents={"long": long, "other": long}))
        with Proxy(pair.primary.dsn) as before, Proxy(pair.standby.dsn) as after:
            through = f"postgresql://tocsin@127.0.0.1:{before.port},127.0.0.1:{after.port}/postgres"
            async with a_replica(f"{through}?target_session_attrs=read-write", {"long": long}, **settings) as holder:
                await control.fire("once")
                await eventually(lambda: begun == [1])
                async with a_replica(pair.dsn, {"other": long}, log=log, **settings) as peer:
                    await eventually(lambda: peer.sweeper.rest() == PROBE_EVERY)
                    after.refuse()
                    await pair.primary.kill()
                    await pair.standby.promote()
                    await eventually(lambda: peer.ready, within=PATIENCE)
                    probed = peer.statements
                    # The peer is back and has looked at the locks again and again, the holder is not.
                    await eventually(lambda: peer.statements > probed + 30, within=PATIENCE)
                    assert log.count("run.swept") == 0
                    after.restore()
                    await eventually(lambda: holder.ready, within=PATIENCE)
                    let_go.set()
                    await eventually(lambda: not holder.hands, within=PATIENCE)
        rows = await pair.standby.fetch("SELECT state, fence, lost FROM tocsin.runs")
        assert [tuple(row.values()) for row in rows] == [("succeeded", 1, 0)]
        assert begun == [1]
        await database.close()
