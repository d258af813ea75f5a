"""``tocsin work`` in processes of its own, and what a test asks of the runs that they have."""

import json
import os
import signal
import socket
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
    run.log(f"begun by {os.getpid()}")
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


class Served:
    """``tocsin serve`` in a process of its own, which begins again at the same address."""

    def __init__(self, place: Path, dsn: str, **settings: object) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.log = place / "hub.log"
        (place / "empty.py").write_text("from tocsin import Hub\n\nhub = Hub()\n")
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_")}
        environ |= {f"TOCSIN_{name.upper()}": str(value) for name, value in settings.items()}
        self._environ = environ | {"TOCSIN_DATABASE_URL": dsn, "TOCSIN_GRPC_BIND": self.address}
        self._place = place
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tocsin.cli", "serve", "--json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environ, cwd=self._place, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def logged(self, event: str) -> int:
        return self.log.read_text().count(f'"event":"{event}"')

    @property
    def resident(self) -> float:
        """Megabytes of memory that it has."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


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
