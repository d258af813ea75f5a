"""``tocsin work`` in processes of its own, and what a test asks of the runs that they have."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.edges.wiring import Hub, a_control
from tests.engine.building import DEADLINE, a_trigger, eventually
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control

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


@asynccontextmanager
async def a_world(dsn: str) -> AsyncIterator[Control]:
    async with a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control:
        yield control


async def fire(control: Control, seconds: float) -> UUID:
    return UUID(str((await control.fire("t", input={"seconds": seconds}))["id"]))


async def ended(control: Control, run_id: UUID, *, within: float = DEADLINE) -> dict[str, Any]:
    """The run, once it has ended."""

    async def is_over() -> dict[str, Any] | None:
        shown = await control.run(run_id)
        return shown if shown["finished_at"] is not None else None

    shown: dict[str, Any] = await eventually(is_over, within=within)
    return shown


def connected(hub: Hub, count: int) -> Callable[[], bool]:
    return lambda: hub.log.count("instance.connected") >= count
