"""Processes that do not read, that drop what they were given, or that block: nobody else waits, and no run for long."""

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from uuid import UUID

import pytest

from tests.edges.processes import Worker, a_world, fire
from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import PATIENCE, a_trigger, eventually
from tocsin.domain.agent import MAX_PAYLOAD, OnLost
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control

pytestmark = pytest.mark.anyio

LARGE = "x" * (MAX_PAYLOAD - 1_000)
SLOTS = 40


async def longest(control: Control, process: Process, count: int) -> float:
    """Seconds from a run's request to its assignment, of so many that this process has ended."""
    took = 0.0
    for _ in range(count):
        await process.credit(1)
        asked_at = monotonic()
        await control.fire("t")
        (run,) = await process.assigned()
        took = max(took, monotonic() - asked_at)
        await process.finish(run)
    return took


async def test_who_never_reads_is_let_go_by_a_deadline_and_nobody_waits_for_it(dsn: str) -> None:
    """It beats all the while. The runs that it was given are begun by somebody else."""
    large = a_trigger("large", input=LARGE, overlap=Overlap.ALLOW)
    async with (
        a_control(dsn, large, a_trigger("t", overlap=Overlap.ALLOW), agents=["agent"]) as control,
        a_hub(dsn) as hub,
        Process(hub.address, slots=SLOTS) as deaf,
        Process(hub.address, slots=SLOTS) as good,
    ):
        await deaf.hello()
        deaf.deaf = True
        await deaf.credit(SLOTS)
        fired = [UUID(str((await control.fire("large"))["id"])) for _ in range(SLOTS)]
        await good.hello()
        assert await longest(control, good, 20) < PATIENCE
        assert hub.server.session(deaf.id).outgoing.waiting <= SLOTS
        await eventually(lambda: hub.log.count("instance.deaf"), within=2 + 3 * PATIENCE)
        await eventually(lambda: hub.log.count("instance.disconnected"))
        with pytest.raises(KeyError):
            hub.server.session(deaf.id)
        await good.credit(SLOTS)
        again = await good.assigned(SLOTS)
        assert {UUID(run.run_id) for run in again} == set(fired)
        assert {run.fence for run in again} == {2}


@pytest.mark.parametrize("on_lost", list(OnLost))
async def test_what_its_beats_do_not_name_for_ten_seconds_is_not_its_own(dsn: str, on_lost: OnLost) -> None:
    """It was given the run, and has dropped it; its stream is sound."""
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW), on_lost=on_lost) as control,
        a_hub(dsn) as hub,
        Process(hub.address) as process,
    ):
        await process.hello()
        await process.credit(2)
        dropped, kept = [UUID(str((await control.fire("t"))["id"])) for _ in range(2)]
        runs = {UUID(run.run_id): run for run in await process.assigned(2)}
        del process.held[str(dropped)]

        async def is_given_back() -> bool:
            return bool((await control.run(dropped))["state"] != "running")

        await eventually(is_given_back, within=10 + 5 * PATIENCE)
        cancel = (await process.next("cancel")).cancel
        assert (cancel.run_id, cancel.reason) == (str(dropped), "fenced")
        shown = await control.run(dropped)
        assert (shown["state"], shown["attempt"]) == (("queued", 0) if on_lost is OnLost.RETRY else ("failed", 1))
        assert (await process.finish(runs[dropped]))[0].fenced
        assert not (await process.finish(runs[kept]))[0].fenced


BLOCKING = """
import asyncio, json, os, time
from tocsin import Hub, Run

hub = Hub()

@hub.agent
async def agent(run: Run) -> None:
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps({"run": run.id, "fence": run.fence, "pid": os.getpid()}) + "\\n")
    time.sleep(run.input["seconds"])
"""


async def test_an_app_that_blocks_holds_nobody_up_and_begins_nothing_late(
    dsn: str, work: Callable[..., Worker], tmp_path: Path
) -> None:
    """What reached its process while its loop stood still is begun elsewhere, and there alone."""
    app = tmp_path / "app.py"
    app.write_text(BLOCKING)
    ledger = tmp_path / "ledger"
    async with a_world(dsn) as control, a_hub(dsn, suspect_after=4, dead_after=60) as hub:
        blocked = work(hub.address)
        await eventually(lambda: hub.log.count("instance.connected"))
        await fire(control, 15)
        await eventually(ledger.exists)
        stuck = [str(await fire(control, 0)) for _ in range(3)]
        await eventually(lambda: hub.log.count("instance.stalled"))
        async with Process(hub.address) as good:
            await good.hello()
            assert await longest(control, good, 20) < PATIENCE
            await good.credit(3)
            again = await good.assigned(3)
            assert sorted(run.run_id for run in again) == sorted(stuck)
            await eventually(lambda: blocked.logged("agent.resumed"))
            assert not any(verdict.fenced for verdict in await good.finish(*again))
        began = [json.loads(line)["run"] for line in ledger.read_text().splitlines()]
        assert not set(began) & set(stuck)
