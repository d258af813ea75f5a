"""Real agent processes on real sockets: killed, frozen, told to leave, and with hubs that restart under them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.edges.network import Port
from tests.edges.wiring import Hub, a_control, a_hub
from tests.engine.building import DEADLINE, PATIENCE, a_trigger, eventually
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control

pytestmark = pytest.mark.anyio

APP = """
import asyncio, json, os
from tocsin import Hub, Run

hub = Hub()

@hub.agent
async def agent(run: Run) -> dict:
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(json.dumps({"run": run.id, "fence": run.fence, "pid": os.getpid()}) + "\\n")
    await asyncio.sleep(run.input["seconds"])
    return {"pid": os.getpid()}
"""


class Worker:
    """``tocsin work`` in a process of its own."""

    def __init__(self, place: Path, hubs: str, name: str) -> None:
        self.name = name
        self.log = place / f"{name}.log"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_")}
        environ |= {"LEDGER": str(place / "ledger"), "TOCSIN_DRAIN_TIMEOUT": "0.3s"}
        command = [sys.executable, "-m", "tocsin.cli", "work", str(place / "app.py"), "--hub", hubs, "--name", name]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--slots", "20", "--json"], env=environ, cwd=place, stdout=log, stderr=subprocess.STDOUT
            )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, which are gone afterwards."""
    (tmp_path / "app.py").write_text(APP)
    started: list[Worker] = []

    def start(hubs: str, name: str = "") -> Worker:
        started.append(Worker(tmp_path, hubs, name or f"w{len(started)}"))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """What the agents noted when they began."""

    def read() -> list[dict[str, Any]]:
        path = tmp_path / "ledger"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@asynccontextmanager
async def a_world(dsn: str) -> AsyncIterator[Control]:
    async with a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control:
        yield control


async def fire(control: Control, seconds: float) -> UUID:
    return UUID(str((await control.fire("t", input={"seconds": seconds}))["id"]))


async def ended(control: Control, run_id: UUID) -> dict[str, Any]:
    """The run, once it has ended."""

    async def is_over() -> dict[str, Any] | None:
        shown = await control.run(run_id)
        return shown if shown["finished_at"] is not None else None

    shown: dict[str, Any] = await eventually(is_over)
    return shown


def connected(hub: Hub, count: int) -> Callable[[], bool]:
    return lambda: hub.log.count("instance.connected") >= count


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


async def test_a_network_that_is_gone_for_a_while_costs_nothing(
    dsn: str, work: Callable[..., Worker], ledger: Callable[[], list[dict[str, Any]]]
) -> None:
    """The project's seed: a healthy agent is busy through three breaks of the network, and is never reset."""
    async with a_world(dsn) as control, a_hub(dsn, suspect_after=2, dead_after=9) as hub:
        async with Port(hub.address) as network:
            work(network.address)
            await eventually(connected(hub, 1))
            run_id = await fire(control, 26)
            await eventually(ledger)
            for _ in range(3):
                await network.refuse()
                await asyncio.sleep(3)
                network.restore()
                # It tries again within 5 s, at random.
                await asyncio.sleep(5.5)
            shown = await ended(control, run_id)
        assert (shown["state"], shown["fence"], shown["attempt"]) == ("succeeded", 1, 1)
        assert len(ledger()) == 1
        assert hub.log.count("instance.connected") >= 2
        assert hub.log.count("instance.lost") == 0


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
