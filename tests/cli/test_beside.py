"""``up --work``: agent processes beside the hub, looked after, and gone with it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Hub

Start = Callable[..., Hub]

AGENTS = """
import asyncio
from tocsin import Hub

hub = Hub()

@hub.agent(suspect_after="1s", dead_after="3s")
async def elsewhere():
    await asyncio.sleep(4)

hub.trigger("once", elsewhere)
hub.trigger("many", elsewhere, overlap="allow")
"""


POISON = """
import os
from pathlib import Path
from tocsin import Hub, Run

hub = Hub()

@hub.agent(suspect_after="0.5s", dead_after="2s", retries=5)
async def poison(run: Run):
    with Path(__file__).with_name("begun").open("a") as begun:
        begun.write(f"{run.fence}\\n")
    os._exit(42)

hub.trigger("poison", poison)
"""


@pytest.fixture
def agents(place: Path) -> Path:
    path = place / "agents.py"
    path.write_text(AGENTS)
    return path


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], object], *, within: float = 30) -> None:
    ends_at = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends_at, "it did not come true"
        time.sleep(0.05)


def test_a_process_that_is_killed_is_started_again_and_its_run_begins_anew(
    hub: Start, tocsin: Any, app: Path, agents: Path, dsn: str
) -> None:
    started = hub("up", str(app), "--work", str(agents), TOCSIN_DATABASE_URL=dsn, TOCSIN_SWEEP_EVERY="0.5s")
    worker = started.wait_for("agent.connected")["pid"]
    run = tocsin("trigger", "fire", "once", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    started.wait_for("run.begun", run_id=run)
    os.kill(worker, signal.SIGKILL)
    ended = started.wait_for("work.ended", pid=worker)
    assert ended["code"] == -signal.SIGKILL
    started.wait_for("instance.lost")
    settled = started.wait_for("run.settled", run_id=run)
    assert (settled["state"], settled["fence"]) == ("succeeded", 2)
    shown = tocsin("instance", "list", "--all", "--json", TOCSIN_DATABASE_URL=dsn).objects
    assert [row["state"] for row in shown] == ["alive", "lost"]


def test_a_run_that_kills_its_process_each_time_ends_and_harms_no_other(
    hub: Start, tocsin: Any, app: Path, agents: Path, dsn: str
) -> None:
    """Whatever it may retry: its third process is its last. The processes are started again each time."""
    deadly = agents.with_name("poison.py")
    deadly.write_text(POISON)
    # A sweeper judges nobody within one lease of its own start.
    times = {"TOCSIN_SWEEP_EVERY": "0.5s", "TOCSIN_LEASE": "3s", "TOCSIN_RENEW_EVERY": "0.5s"}
    env = {"TOCSIN_DATABASE_URL": dsn, **times}
    started = hub("up", str(app), "--work", str(agents), "--work", str(deadly), **env)
    started.wait_for("agent.connected", 2)
    run = tocsin("trigger", "fire", "poison", "--json", **env).objects[0]["id"]
    others = []
    for death in range(1, 4):
        started.wait_for("work.ended", death, app=str(deadly), code=42)
        others.append(tocsin("trigger", "fire", "many", "--json", **env).objects[0]["id"])
    swept = started.wait_for("run.swept", 3, run_id=run)
    assert (swept["state"], swept["reason"], swept["fence"]) == ("failed", "poisoned", 3)
    assert deadly.with_name("begun").read_text().split() == ["1", "2", "3"]
    shown = tocsin("run", "show", run, "--json", **env).objects[0]
    assert (shown["state"], shown["reason"]) == ("failed", "poisoned")
    for other in others:
        settled = started.wait_for("run.settled", run_id=other)
        assert (settled["state"], settled["fence"]) == ("succeeded", 1)
    started.wait_for("agent.connected", 5)


def test_agent_processes_leave_before_the_hub_and_in_order(hub: Start, app: Path, agents: Path, dsn: str) -> None:
    started = hub("up", str(app), "--work", str(agents), TOCSIN_DATABASE_URL=dsn)
    worker = started.wait_for("agent.connected")["pid"]
    started.send()
    started.wait_for("instance.left", returned=0)
    assert started.end() == 0
    assert gone(worker)


def test_no_agent_process_outlives_a_hub_that_is_killed(hub: Start, app: Path, agents: Path, dsn: str) -> None:
    started = hub("up", str(app), "--work", str(agents), TOCSIN_DATABASE_URL=dsn)
    worker = started.wait_for("agent.connected")["pid"]
    started.process.kill()
    until(lambda: gone(worker))


def test_without_a_port_there_is_nothing_to_connect_to(hub: Start, app: Path, agents: Path, dsn: str) -> None:
    started = hub("up", str(app), "--work", str(agents), TOCSIN_DATABASE_URL=dsn, TOCSIN_GRPC_BIND="off")
    assert started.end() == 2
    assert "TOCSIN_GRPC_BIND is off" in started.said()
