"""What agent processes elsewhere cost a hub: latency, throughput, beats, memory. fsync on, everything on.

    python -m benchmarks.agents                      # all, three runs each, medians and ranges
    python -m benchmarks.agents latency --runs 1
    python -m benchmarks.agents --json               # one object a line

The hub is in this process, with the embedded PostgreSQL; agents are real `tocsin work` processes, but for
``beats``, where another process holds a thousand bare streams.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic, process_time
from typing import Any, Final
from uuid import uuid4

import grpc.aio

from benchmarks.engine import ENQUEUE, control_of, empty_database, fetch, hub_with, until
from tocsin.domain.assignment import Assignment
from tocsin.edges.grpc.outgoing import Outgoing
from tocsin.edges.grpc.server import AgentServer
from tocsin.hub import Replica
from tocsin.settings import load_settings
from tocsin.telemetry import Silence
from tocsin.v1 import agent_pb2 as pb

Figures = dict[str, float]
Scenario = Callable[[str], Awaitable[Figures]]

APP: Final = """
import os
import time

from tocsin import Hub, Run

hub = Hub()
BEGINS = open(os.environ["BENCH_BEGINS"], "a", buffering=1) if os.environ.get("BENCH_BEGINS") else None


@hub.agent(name="noop", retries=2)
async def noop(run: Run) -> None:
    if BEGINS is not None:
        BEGINS.write(f"{run.id} {time.monotonic()}\\n")
"""
WORKERS: Final = 2
SLOTS: Final = 500


@asynccontextmanager
async def a_hub(dsn: str, **settings: Any) -> AsyncIterator[tuple[Replica, str]]:
    """A hub without agents of its own, and where they connect to it."""
    given = load_settings(log_level="error", grpc_bind="127.0.0.1:0", **settings)
    async with (
        Replica(dsn=dsn, settings=given, executors=(), log=Silence()) as replica,
        AgentServer(replica=replica, settings=given, log=Silence()) as server,
    ):
        yield replica, server.address


@contextmanager
def workers(address: str, count: int, *, slots: int, begins: Path | None = None) -> Iterator[None]:
    """So many agent processes."""
    with tempfile.TemporaryDirectory() as directory:
        app = Path(directory) / "app.py"
        app.write_text(APP)
        env = os.environ | {"TOCSIN_LOG_LEVEL": "warning", "BENCH_BEGINS": str(begins or "")}
        command = [sys.executable, "-m", "tocsin.cli", "work", str(app), "--hub", address, "--slots", str(slots)]
        started = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(count)]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


async def declared(dsn: str) -> None:
    hub = hub_with(retries=2)
    hub.trigger("bulk", "noop", overlap="allow")
    async with control_of(dsn) as control:
        await control.declare(hub.build())


CONNECTED = "SELECT count(*) = {count} FROM tocsin.instances WHERE replica IS NOT NULL"


async def throughput(dsn: str, runs: int = 20_000) -> Figures:
    """No-op runs a second through two processes, from the first claim to the last settlement."""
    await declared(dsn)
    async with a_hub(dsn) as (_, address):
        with workers(address, WORKERS, slots=SLOTS):
            await until(dsn, CONNECTED.format(count=WORKERS))
            await fetch(dsn, ENQUEUE, runs)
            cpu = process_time()
            await until(dsn, "SELECT NOT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)")
            cpu = process_time() - cpu
    row = (
        await fetch(
            dsn,
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 AS took,"
            " count(*) FILTER (WHERE state = 'succeeded' AND fence = 1) AS succeeded FROM tocsin.runs",
        )
    )[0]
    assert row["succeeded"] == runs, row
    return {"runs_per_s": runs / row["took"], "hub_us_per_run": cpu / runs * 1e6}


async def latency(dsn: str, fires: int = 300) -> Figures:
    """Milliseconds on an idle hub: from the assignment, and from the call, to the agent's first line."""
    await declared(dsn)
    assigned: dict[str, float] = {}
    fired: dict[str, float] = {}
    assign = Outgoing.assign

    def noted(self: Outgoing, assignment: Assignment, policy: Any) -> None:
        assigned[str(assignment.run_id)] = monotonic()
        assign(self, assignment, policy)

    setattr(Outgoing, "assign", noted)  # noqa: B010 — the instant at which a run leaves for its process
    try:
        with tempfile.TemporaryDirectory() as directory:
            begins = Path(directory) / "begins"
            async with a_hub(dsn) as (_, address), control_of(dsn) as control:
                with workers(address, 1, slots=SLOTS, begins=begins):
                    await until(dsn, CONNECTED.format(count=1))
                    for _ in range(fires):
                        at = monotonic()
                        fired[str((await control.fire("bulk"))["id"])] = at
                        await asyncio.sleep(0.02)
                    await until(dsn, "SELECT NOT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)")
            begun = {run: float(at) for run, at in (line.split() for line in begins.read_text().splitlines())}
    finally:
        setattr(Outgoing, "assign", assign)  # noqa: B010
    from_assign = sorted((begun[run] - at) * 1e3 for run, at in assigned.items())
    from_call = sorted((begun[run] - at) * 1e3 for run, at in fired.items())
    assert len(from_call) == fires
    return {
        "assign_to_begun_p50_ms": statistics.median(from_assign),
        "assign_to_begun_p99_ms": from_assign[int(len(from_assign) * 0.99)],
        "call_to_begun_p50_ms": statistics.median(from_call),
        "call_to_begun_p99_ms": from_call[int(len(from_call) * 0.99)],
    }


async def beats(dsn: str, instances: int = 1_000, seconds: int = 30) -> Figures:
    """A thousand processes that beat once a second and have nothing to do: what that costs the hub."""
    await declared(dsn)
    async with a_hub(dsn, suspect_after=4, dead_after=90) as (replica, address):
        await asyncio.sleep(2)
        before = memory()
        command = [sys.executable, "-m", "benchmarks.agents", "--streams", address, str(instances)]
        with _ended(subprocess.Popen(command, stdout=subprocess.DEVNULL)):  # noqa: ASYNC220
            await until(dsn, CONNECTED.format(count=instances), deadline=180)
            await asyncio.sleep(5)
            calls, cpu, began = replica.statements, process_time(), monotonic()
            await asyncio.sleep(seconds)
            took = monotonic() - began
            spent, sent = process_time() - cpu, replica.statements - calls
            held = memory() - before
            late = (
                await fetch(
                    dsn,
                    "SELECT count(*) AS late FROM tocsin.leases l JOIN tocsin.instances i ON i.id = l.holder"
                    " WHERE now() - l.renewed_at > interval '3 seconds'",
                )
            )[0]["late"]
    assert late == 0, f"{late} were not heard"
    return {
        "core_percent": spent / took * 100,
        "statements_per_s": sent / took,
        "kb_per_instance": held / instances,
    }


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def memory() -> float:
    """Resident kilobytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


async def streams(address: str, count: int) -> None:
    """So many bare streams, opened a few at a time, which beat until this process is told to end."""
    channels = [grpc.aio.insecure_channel(address, options=[("bench.channel", n)]) for n in range(20)]

    async def one(number: int) -> None:
        connect = channels[number % len(channels)].stream_stream(
            "/tocsin.v1.AgentHub/Connect",
            request_serializer=pb.FromAgent.SerializeToString,
            response_deserializer=pb.FromHub.FromString,
        )
        call = connect()
        hello = pb.Hello(protocol=1, instance_id=str(uuid4()), name=f"bench-{number}", agents=["noop"], slots=10)
        await call.write(pb.FromAgent(hello=hello))
        reading = asyncio.create_task(_read(call))
        seq = 0
        while True:
            await asyncio.sleep(1)
            seq += 1
            await call.write(pb.FromAgent(beat=pb.Beat(seq=seq)))
            assert not reading.done(), "the stream has ended"

    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)


async def _read(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


SCENARIOS: dict[str, Scenario] = {"latency": latency, "throughput": throughput, "beats": beats}


async def measure(name: str, runs: int) -> dict[str, Any]:
    """Medians and ranges over so many runs, each in a database of its own."""
    taken: list[Figures] = []
    for _ in range(runs):
        async with empty_database() as dsn:
            taken.append(await SCENARIOS[name](dsn))
    return {
        "scenario": name,
        **{
            key: {"median": statistics.median(values), "range": [min(values), max(values)]}
            for key in taken[0]
            for values in [[one[key] for one in taken]]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--streams", nargs=2, metavar=("ADDRESS", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.streams:
        address, count = options.streams
        asyncio.run(streams(address, int(count)))
        return
    for name in options.scenarios or SCENARIOS:
        figures = asyncio.run(measure(name, options.runs))
        if options.json:
            print(json.dumps(figures), flush=True)
            continue
        print(f"{name}:", flush=True)
        for key, value in figures.items():
            if key != "scenario":
                low, high = value["range"]
                print(f"  {key:<28} {value['median']:>10,.4g}   ({low:,.4g} – {high:,.4g})", flush=True)


if __name__ == "__main__":
    main()
