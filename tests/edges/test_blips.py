"""The project's seed: a healthy agent is busy for ten minutes, its network is gone three times, and it is never reset;
one that is dead is replaced in time.

``TOCSIN_TEST_SCALE=1`` takes the ten minutes, three breaks of 60 s and a hub's own times (``make blips``). Unset, it
is a twentieth of that, but for the times that may be no shorter than what a process waits between two tries.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import pytest

from tests.edges.network import Port
from tests.edges.processes import Worker, a_world, connected, ended, fire
from tests.edges.wiring import Hub, a_hub
from tests.engine.building import DEADLINE, PATIENCE, eventually
from tocsin.engine.control import Control

pytestmark = pytest.mark.anyio

SCALE: Final = float(os.environ.get("TOCSIN_TEST_SCALE", "0.05"))
BUSY: Final = 600 * SCALE
BREAK: Final = 60 * SCALE
CALM: Final = (BUSY - 3 * BREAK) / 4
SUSPECT_AFTER: Final = max(2.0, 20 * SCALE)
DEAD_AFTER: Final = max(15.0, 90 * SCALE)
SWEEP_EVERY: Final = 5 * SCALE

Ledger = Callable[[], list[dict[str, Any]]]


@pytest.mark.timeout(180 + 2 * BUSY)
async def test_a_healthy_agent_is_never_reset_and_a_dead_one_is_replaced_in_time(
    dsn: str, work: Callable[..., Worker], ledger: Ledger
) -> None:
    times = {"suspect_after": SUSPECT_AFTER, "dead_after": DEAD_AFTER, "sweep_every": SWEEP_EVERY}
    async with a_world(dsn) as control, a_hub(dsn, **times) as hub, Port(hub.address) as network:
        healthy = work(network.address)
        await eventually(connected(hub, 1))
        long = await fire(control, BUSY)
        await eventually(ledger)
        for _ in range(2):
            await asyncio.sleep(CALM)
            await network.refuse()
            await asyncio.sleep(BREAK)
            late = await fire(control, 0)
            await _restored(network, hub)
            assert (await ended(control, late))["fence"] == 1
        await asyncio.sleep(CALM)
        await network.refuse()
        # Nobody else can be given anything now.
        doomed = work(hub.address)
        orphan = await _begun(control, ledger, doomed)
        await asyncio.sleep(BREAK)
        await _restored(network, hub)
        doomed.send(signal.SIGKILL)
        took = await _begun_anew(ledger, orphan)
        assert DEAD_AFTER - SUSPECT_AFTER / 4 - 1 < took < DEAD_AFTER + SWEEP_EVERY + 2 * PATIENCE
        shown = await ended(control, long, within=BUSY + DEADLINE)
    assert (shown["state"], shown["fence"], shown["attempt"]) == ("succeeded", 1, 1)
    began = [(entry["fence"], entry["pid"]) for entry in ledger() if UUID(entry["run"]) in (long, orphan)]
    assert began == [(1, healthy.process.pid), (1, doomed.process.pid), (2, healthy.process.pid)]
    assert hub.log.count("instance.lost") == 1, "the dead one, and nobody else"
    assert not healthy.logged("lease.expired")
    assert not healthy.logged("agent.lost")


async def _restored(network: Port, hub: Hub) -> None:
    """The network is back, and the process has found that out."""
    before = hub.log.count("instance.connected")
    network.restore()
    await eventually(connected(hub, before + 1))


async def _begun(control: Control, ledger: Ledger, worker: Worker) -> UUID:
    """A long run that this process has begun."""
    await eventually(lambda: worker.logged("agent.connected"))
    run_id = await fire(control, BUSY)
    await eventually(lambda: ledger()[-1]["pid"] == worker.process.pid)
    return run_id


async def _begun_anew(ledger: Ledger, run_id: UUID) -> float:
    """Seconds from now until somebody else has begun the run."""
    loop = asyncio.get_running_loop()
    died_at = loop.time()
    await eventually(
        lambda: [entry for entry in ledger() if UUID(entry["run"]) == run_id and entry["fence"] == 2],
        within=DEAD_AFTER + DEADLINE,
    )
    return loop.time() - died_at
