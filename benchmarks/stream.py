"""What following runs live costs and how late it is: many readers of all transitions. fsync on, everything on.

    python -m benchmarks.stream                       # all, three runs each, medians and ranges
    python -m benchmarks.stream live --runs 1
    python -m benchmarks.stream --json                # one object a line

The hub is in this process, with its API and the embedded PostgreSQL, and executes the runs whose transitions are
followed. Readers are plain connections in one other process. Lateness counts from the instant of the transition, on
the database's clock, to when its bytes are read; of each piece that is read the oldest event counts.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from time import monotonic, process_time, time
from typing import Any, Final

from benchmarks.agents import memory
from benchmarks.engine import control_of, empty_database, fetch, hub_with, replica_of, report, until
from tocsin.edges.http.front import Front
from tocsin.edges.http.health import Health
from tocsin.edges.http.hosting import hosted_api
from tocsin.edges.http.listener import Listener, bound
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.telemetry import Silence

Figures = dict[str, float]
Scenario = Callable[[str], Awaitable[Figures]]

READERS: Final = 500
TRANSITIONS: Final = 1_000
"""A second; a run has three."""

SECONDS: Final = 20.0
TICK: Final = 0.02
PATIENCE: Final = 30.0
AT: Final = b'"at":"'
"""Where an event says when it was."""


@asynccontextmanager
async def a_hub(dsn: str) -> AsyncIterator[tuple[Control, int]]:
    """One that executes what it is asked for, and the port of its API."""
    hub = hub_with()
    hub.trigger("bulk", "noop", overlap="allow")
    sock = bound("127.0.0.1:0")
    front = Front(Health("0", lambda: None), log=Silence())
    async with control_of(dsn) as control, Listener(sock, front):
        await control.declare(hub.build())
        async with (
            replica_of(dsn, hub, slots=500, streams=READERS) as replica,
            hosted_api(front, dsn=dsn, replica=replica, watching=Watching(limit=0, log=Silence()), log=Silence()),
        ):
            yield control, sock.getsockname()[1]


async def live(dsn: str) -> Figures:
    """All readers hear of all transitions."""
    return await followed(dsn, READERS, "")


async def filtered(dsn: str) -> Figures:
    """The same, of failures only: there are none."""
    return await followed(dsn, READERS, "?state=failed")


async def one(dsn: str) -> Figures:
    """One reader."""
    return await followed(dsn, 1, "")


async def followed(dsn: str, readers: int, query: str) -> Figures:
    async with a_hub(dsn) as (control, port):
        before = memory()
        command = [sys.executable, "-m", "benchmarks.stream", "--readers", str(port), str(readers), query]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
            assert process.stdout is not None  # it was asked for
            assert (await asyncio.to_thread(process.stdout.readline)).strip() == "open"
            began, cpu = monotonic(), process_time()
            runs = await paced(control)
            took, spent = monotonic() - began, process_time() - cpu
            await until(dsn, "SELECT NOT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)")
            held = memory() - before
            transitions = (await fetch(dsn, "SELECT count(*) AS n FROM tocsin.transitions"))[0]["n"]
            told, _ = await asyncio.to_thread(process.communicate, f"{0 if query else transitions}\n")
        heard: dict[str, Any] = json.loads(told)
    assert query or heard["fewest"] == heard["most"] == transitions, (heard, transitions)
    return {
        "transitions_per_s": runs * 3 / took,
        "hub_core_percent": spent / took * 100,
        "hub_kb_per_reader": held / readers,
        **{name: value for name, value in heard.items() if name not in ("fewest", "most") and value is not None},
    }


async def paced(control: Control) -> int:
    """Runs asked for at an even rate; how many."""
    began, asked = monotonic(), 0
    while (passed := monotonic() - began) < SECONDS:
        due = int(passed * TRANSITIONS / 3) - asked
        if due:
            await control.fire_many("bulk", [(None, None)] * due)
            asked += due
        await asyncio.sleep(TICK)
    return asked


class Reader(asyncio.Protocol):
    """Counts events, and notes how late the oldest of each piece was, in milliseconds."""

    def __init__(self, query: str, late: list[float]) -> None:
        self.count = 0
        self.is_open = asyncio.Event()
        self._query = query
        self._late = late
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # a connection's is
        transport.write(f"GET /v1/stream{self._query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time()
        data = self._rest + data
        # Too short for the mark itself, so that none is counted twice.
        self._rest = data[1 - len(AT) :]
        if b"\nid: " in data:
            self.is_open.set()
        count = data.count(AT)
        if count:
            self.count += count
            at = data.index(AT) + len(AT)
            told = data[at : at + 27].decode()
            if told.endswith("Z"):
                self._late.append((now - datetime.fromisoformat(told).timestamp()) * 1e3)


async def readers(port: int, count: int, query: str) -> None:
    """So many connections, until a line says how much each is to have heard; then how that was."""
    late: list[float] = []
    found: list[Reader] = []
    loop = asyncio.get_running_loop()
    for _ in range(count):
        _, reader = await loop.create_connection(lambda: Reader(query, late), "127.0.0.1", port)
        found.append(reader)
        await asyncio.sleep(0.005)
    for reader in found:
        await reader.is_open.wait()
    late.clear()
    cpu, began = process_time(), monotonic()
    print("open", flush=True)
    expected = int(await asyncio.to_thread(sys.stdin.readline))
    for _ in range(int(PATIENCE / TICK)):
        if all(reader.count >= expected for reader in found):
            break
        await asyncio.sleep(TICK)
    late.sort()
    told = {
        "fewest": min(reader.count for reader in found),
        "most": max(reader.count for reader in found),
        "p50_ms": late[len(late) // 2] if late else None,
        "p99_ms": late[int(len(late) * 0.99)] if late else None,
        "max_ms": late[-1] if late else None,
        "readers_core_percent": (process_time() - cpu) / (monotonic() - began) * 100,
    }
    print(json.dumps(told), flush=True)


SCENARIOS: dict[str, Scenario] = {"live": live, "one": one, "filtered": filtered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readers", nargs=3, metavar=("PORT", "COUNT", "QUERY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.readers:
        port, count, query = options.readers
        asyncio.run(readers(int(port), int(count), query))
        return
    for name in options.scenarios or SCENARIOS:
        report(name, asyncio.run(measure(name, options.runs)), as_json=options.json)


async def measure(name: str, runs: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for _ in range(runs):
        async with empty_database() as dsn:
            for figure, value in (await SCENARIOS[name](dsn)).items():
                figures.setdefault(figure, []).append(value)
    return figures


if __name__ == "__main__":
    main()
