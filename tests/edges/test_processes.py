"""Real agent processes on real sockets: killed, frozen, told to leave, and with hubs that restart under them."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.edges.network import Port
from tests.edges.processes import Worker, a_world, connected, ended, fire
from tests.edges.wiring import Hub, a_hub
from tests.engine.building import DEADLINE, PATIENCE, eventually

pytestmark = pytest.mark.anyio


async def test_the_runs_of_a_process_that_was_killed_begin_elsewhere_in_time(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    async with a_world(dsn) as control, a_hub(dsn) as hub:
        first = work(hub.address)
        await eventually(connected(hub, 1))
        run_id = await fire(control, 3600)
        await eventually(ledger)
        second = work(hub.address)
        await eventually(connected(hub, 2))

        async def logs() -> list[str | None]:
            return [attempt["log"] for attempt in (await control.run(run_id))["attempts"]]

        await eventually(logs)
        first.send(signal.SIGKILL)
        died_at = asyncio.get_running_loop().time()
        await eventually(lambda: len(ledger()) == 2)
        took = asyncio.get_running_loop().time() - died_at
        assert 5 - 2 < took < 5 + 0.2 + 1.5 * PATIENCE, "not before dead_after, and at the next sweep"
        assert [(entry["fence"], entry["pid"]) for entry in ledger()] == [
            (1, first.process.pid),
            (2, second.process.pid),
        ]
        assert (await control.run(run_id))["attempt"] == 1
        assert (await logs())[0] == f"begun by {first.process.pid}"


@pytest.mark.parametrize("seconds", [1.0, 3.5], ids=["below suspect_after", "between suspect_after and dead_after"])
async def test_a_process_that_stands_still_for_a_while_loses_nothing(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]], seconds: float
) -> None:
    async with a_world(dsn) as control, a_hub(dsn, dead_after=9) as hub:
        worker = work(hub.address)
        await eventually(connected(hub, 1))
        run_id = await fire(control, seconds + 1)
        await eventually(ledger)
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        worker.send(signal.SIGCONT)
        assert (await ended(control, run_id))["state"] == "succeeded"
        assert [entry["fence"] for entry in ledger()] == [1]
        assert hub.log.count("instance.suspect") == (seconds > 2)
        assert hub.log.count("instance.lost") == 0


async def test_a_process_that_stands_still_for_too_long_begins_anew_and_doubles_nothing(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    async with a_world(dsn) as control, a_hub(dsn) as hub:
        worker = work(hub.address)
        await eventually(connected(hub, 1))
        run_id = await fire(control, 9)
        await eventually(ledger)
        worker.send(signal.SIGSTOP)
        await eventually(lambda: hub.log.count("instance.lost"))
        worker.send(signal.SIGCONT)
        shown = await ended(control, run_id)
        assert (shown["state"], shown["fence"]) == ("succeeded", 2)
        assert [entry["fence"] for entry in ledger()] == [1, 2]
        assert worker.logged("lease.expired") or worker.logged("agent.lost")


async def test_hubs_restart_one_after_another_under_processes_with_long_runs(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    """0 runs restarted, cancelled, lost or doubled."""
    async with a_world(dsn) as control, AsyncExitStack() as stack:
        first, second = await _hubs(dsn, stack)
        addresses = f"{first[1].address},{second[1].address}"
        for _ in range(4):
            work(addresses)
        await eventually(
            lambda: first[1].log.count("instance.connected") + second[1].log.count("instance.connected") >= 4
        )
        runs = [await fire(control, 6) for _ in range(20)]
        await eventually(lambda: len(ledger()) == 20)
        for closing, old in (first, second):
            address = old.address
            await closing.aclose()
            again = await stack.enter_async_context(a_hub(dsn, grpc_bind=address))
            assert again.address == address
            await asyncio.sleep(0.5)
        shown = [await ended(control, run_id) for run_id in runs]
        assert {(run["state"], run["fence"], run["attempt"]) for run in shown} == {("succeeded", 1, 1)}
        assert len(ledger()) == 20


async def _hubs(dsn: str, stack: AsyncExitStack) -> list[tuple[AsyncExitStack, Hub]]:
    """Two hubs that a test closes when it likes."""
    hubs = []
    for _ in range(2):
        own = await stack.enter_async_context(AsyncExitStack())
        hubs.append((own, await own.enter_async_context(a_hub(dsn))))
    return hubs


async def test_who_is_told_to_leave_gives_back_what_does_not_end_in_time(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    async with a_world(dsn) as control, a_hub(dsn) as hub:
        first = work(hub.address)
        await eventually(connected(hub, 1))
        run_id = await fire(control, 3600)
        await eventually(ledger)
        second = work(hub.address)
        await eventually(connected(hub, 2))
        first.send(signal.SIGTERM)
        await eventually(lambda: len(ledger()) == 2)
        assert first.process.wait(DEADLINE) == 0 or first.logged("agent.left")
        assert ledger()[1]["pid"] == second.process.pid
        assert (await control.run(run_id))["attempt"] == 1


async def test_a_half_open_connection_is_noticed_within_seconds(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    """Nothing comes through and nobody is told: pings find it, on both sides, and the work is not touched."""
    async with a_world(dsn) as control, a_hub(dsn, suspect_after=8, dead_after=40) as hub:
        async with Port(hub.address) as network:
            worker = work(network.address)
            await eventually(connected(hub, 1))
            run_id = await fire(control, 20)
            await eventually(ledger)
            network.freeze()
            await eventually(lambda: hub.log.count("instance.disconnected"), within=20 * PATIENCE)
            await eventually(lambda: worker.logged("agent.disconnected"), within=20 * PATIENCE)
            network.restore()
            shown = await ended(control, run_id)
        assert (shown["state"], shown["fence"]) == ("succeeded", 1)
