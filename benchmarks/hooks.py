"""Webhooks at two hubs of one database: how many a second are accepted, durable, and run. fsync on, everything on.

    python -m benchmarks.hooks                     # all, three runs each, medians and ranges
    python -m benchmarks.hooks flood --runs 1
    python -m benchmarks.hooks --json              # one object a line

Hubs are real `tocsin serve` processes on the embedded PostgreSQL. The senders are a process of their own on the same
machine, which signs everything beforehand. Each delivery is as GitHub makes it, of about a kilobyte, under an id of its
own; it is verified, deduplicated, filtered, committed as an event and a queued run, and then answered. In ``whole`` the
hubs run them, too, with an agent that does nothing.
"""

import argparse
import asyncio
import hmac
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.engine import control_of, empty_database, fetch, hub_with, until
from tocsin import on_event, webhook

Figures = dict[str, float]

APP: Final = """
from tocsin import Hub, Run, on_event, webhook

hub = Hub()


@hub.agent(name="noop")
async def noop(run: Run) -> None: ...


hub.trigger(
    "hook",
    noop,
    on_event("push", where="data.ref == 'refs/heads/main'", input="data.head_commit.id"),
    hook=webhook("github", secret="BENCH_SECRET"),
    overlap="allow",
)
"""
SECRET: Final = "It's a Secret to Everybody"
HUBS: Final = 2
CONNECTIONS: Final = 200
RATE: Final = 2_000


@asynccontextmanager
async def hubs(dsn: str, *, run: bool) -> AsyncIterator[list[str]]:
    """So many processes, and their addresses. run: they have the agent."""
    hub = hub_with()
    hub.trigger(
        "hook",
        "noop",
        on_event("push", where="data.ref == 'refs/heads/main'", input="data.head_commit.id"),
        hook=webhook("github", secret="BENCH_SECRET"),
        overlap="allow",
    )
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    env = os.environ | {
        "TOCSIN_DATABASE_URL": dsn,
        "TOCSIN_GRPC_BIND": "off",
        "TOCSIN_SLOTS": "500",
        "TOCSIN_LOG_LEVEL": "warning",
        "BENCH_SECRET": SECRET,
    }
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "app.py").write_text(APP)
        addresses = [f"127.0.0.1:{_free_port()}" for _ in range(HUBS)]
        command = [sys.executable, "-m", "tocsin.cli", "serve", *(["app.py"] if run else [])]
        started = [
            subprocess.Popen(command, env=env | {"TOCSIN_HTTP_BIND": address}, cwd=directory)  # noqa: ASYNC220
            for address in addresses
        ]
        try:
            await asyncio.gather(*(_answered(address) for address in addresses))
            yield addresses
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def _answered(address: str) -> None:
    """The hub's API answers."""
    host, _, port = address.rpartition(":")
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v1/agents HTTP/1.0\r\nHost: localhost\r\n\r\n")
            said = await reader.read()
            writer.close()
            if b" 200 " in said[:20]:
                return
        await asyncio.sleep(0.1)


async def flood(dsn: str, count: int = 20_000) -> Figures:
    """As many as are answered: each sender calls again as soon as it has its answer."""
    return await _sent(dsn, count, rate=0)


async def whole(dsn: str, count: int = 20_000) -> Figures:
    """The same, and each run is run."""
    return await _sent(dsn, count, rate=0, run=True)


async def steady(dsn: str, seconds: int = 15) -> Figures:
    """Two thousand a second: how long a sender waits for its answer."""
    return await _sent(dsn, RATE * seconds, rate=RATE)


async def _sent(dsn: str, count: int, *, rate: int, run: bool = False) -> Figures:
    async with hubs(dsn, run=run) as addresses:
        command = [sys.executable, "-m", "benchmarks.hooks", "--send", str(count), str(rate), *addresses]
        sending = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await sending.communicate()
        figures: Figures = json.loads(said)
        state = "succeeded" if run else "queued"
        await until(dsn, f"SELECT count(*) = {count} FROM tocsin.runs WHERE state = '{state}'")
        row = (
            await fetch(
                dsn,
                "SELECT extract(epoch FROM max(coalesce(finished_at, queued_at)) - min(queued_at))::float8 AS took,"
                " (SELECT count(*) FROM tocsin.events) AS events,"
                " (SELECT count(DISTINCT received_at) FROM tocsin.events) AS commits FROM tocsin.runs",
            )
        )[0]
        assert row["events"] == count
    told = {"run_per_s": count / row["took"]} if run else {}
    return figures | told | {"in_one_commit": count / row["commits"]}


class Sender(asyncio.Protocol):
    """One connection, which sends the next request once the last one is answered and its turn has come."""

    def __init__(self, requests: "asyncio.Queue[tuple[float, bytes]]", waits: list[float], began: float) -> None:
        self._requests = requests
        self._waits = waits
        self._began = began
        self._said = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._said += data
        if not self._said.endswith(b"}"):
            return
        if not (self._said.startswith(b"HTTP/1.1 200") and b'"accepted"' in self._said):
            self._transport.close()
            self.ended.set_exception(RuntimeError(self._said.decode()))
            return
        self._waits.append(perf_counter() - self._since)
        self._next()

    def _next(self) -> None:
        if self._requests.empty():
            self._transport.close()
            self.ended.set_result(None)
            return
        turn, request = self._requests.get_nowait()
        wait = self._began + turn - perf_counter()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send, request, self._began + turn)
        else:
            # Whoever is late has waited since its turn: the figures must not leave that out.
            self._send(request, self._began + turn if turn else perf_counter())

    def _send(self, request: bytes, since: float) -> None:
        self._since, self._said = since, b""
        self._transport.write(request)


async def send(count: int, rate: int, addresses: list[str]) -> Figures:
    """The senders. rate: of all of them together in a second; 0 for as fast as they are answered."""
    requests: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    for number in range(count):
        requests.put_nowait((number / rate if rate else 0.0, _request(number)))
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    began = perf_counter()
    senders = []
    for number in range(CONNECTIONS):
        host, _, port = addresses[number % len(addresses)].rpartition(":")
        _, sender = await loop.create_connection(lambda: Sender(requests, waits, began), host, int(port))
        senders.append(sender)
    await asyncio.gather(*(sender.ended for sender in senders))
    took = perf_counter() - began
    waits.sort()
    assert len(waits) == count
    return {
        "accepted_per_s": count / took,
        "wait_p50_ms": statistics.median(waits) * 1e3,
        "wait_p99_ms": waits[int(count * 0.99)] * 1e3,
    }


def _request(number: int) -> bytes:
    body = json.dumps(
        {
            "ref": "refs/heads/main",
            "head_commit": {"id": f"{number:040x}", "message": "Ring the bell\n" + "x" * 700},
            "repository": {"id": 42, "full_name": "acme/bell", "private": False},
            "pusher": {"name": "quasimodo", "email": "q@example.org"},
        }
    ).encode()
    lines = [
        "POST /hooks/hook HTTP/1.1",
        "Host: hub.example.org",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "User-Agent: GitHub-Hookshot/044aadd",
        f"X-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-{number:012x}",
        "X-GitHub-Event: push",
        f"X-Hub-Signature-256: sha256={hmac.new(SECRET.encode(), body, sha256).hexdigest()}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


SCENARIOS: dict[str, Callable[[str], Awaitable[Figures]]] = {"flood": flood, "whole": whole, "steady": steady}


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
    parser.add_argument("--send", nargs=2, type=int, metavar=("COUNT", "RATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        count, rate = options.send
        print(json.dumps(asyncio.run(send(count, rate, options.scenarios))))
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
