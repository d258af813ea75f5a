"""How long a page of runs takes over HTTP, of a hub that serves it on this host, however many runs there are.

    python -m benchmarks.listing                        # 100,000 runs: every page of 100, first to last
    python -m benchmarks.listing --runs 1000000         # and a million
    python -m benchmarks.listing --json

A figure is milliseconds from the first byte of the request to the last of the answer, on a connection that stays open:
it has the client's share in it. Besides the walk it asks for the three runs among all that failed, and for what is
queued where nothing is. PostgreSQL is the embedded one with its default settings, or TOCSIN_DATABASE_URL (an empty
database).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from time import perf_counter
from typing import Any, Final
from urllib.parse import quote

from benchmarks.engine import control_of, empty_database, fetch, hub_with

PAGE: Final = 100
TRIGGERS: Final = 100
FAILED: Final = 3
TIMES: Final = 9

#: $1 runs by a second and a half, ids as they would have been made, of which FAILED failed long ago.
FILL: Final = f"""
WITH t AS MATERIALIZED (SELECT array_agg(id ORDER BY name) AS ids FROM tocsin.triggers)
INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, lane, priority,
                         overlap, state, reason, available_at, max_attempts, attempt, fence, seq, claimed_by,
                         started_at, input, output, queued_at, asked_by, finished_at)
SELECT (lpad(to_hex((extract(epoch FROM g.at) * 1000)::bigint), 12, '0') || '7000a000'
        || lpad(to_hex(g.n), 12, '0'))::uuid,
       t.ids[1 + g.n % {TRIGGERS}], 1, 'noop', 'schedule', g.at, g.at, 'live', 5, 'allow',
       CASE WHEN g.n > $1 - {FAILED} THEN 'failed' ELSE 'succeeded' END, NULL, g.at, 1, 1, 1, 3,
       '00000000-0000-0000-0000-000000000000', g.at, '{{"repo": "."}}',
       '{{"head": "c0ffee", "summary": "nothing new"}}', g.at, 'benchmark', g.at
  FROM t, (SELECT n, now() - n * interval '1500 milliseconds' AS at FROM generate_series(1, $1::int) n) g
 ORDER BY g.n DESC
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds."""

    name: str
    values: list[float]


async def fill(dsn: str, runs: int) -> None:
    """So many runs have ended, of so many triggers."""
    hub = hub_with()
    for number in range(TRIGGERS):
        hub.trigger(f"bulk-{number:03}", "noop")
    async with control_of(dsn) as control:
        await control.declare(hub.build())
    await fetch(dsn, FILL, runs)


@contextmanager
def served(dsn: str) -> Iterator[HTTPConnection]:
    """A connection to a hub that is a process of its own."""
    env = os.environ | {
        "TOCSIN_DATABASE_URL": dsn,
        "TOCSIN_HTTP_BIND": "127.0.0.1:0",
        "TOCSIN_GRPC_BIND": "off",
        "TOCSIN_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "tocsin.cli", "serve"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # asked for above
            ready = next(json.loads(line) for line in process.stdout if '"hub.ready"' in line)
            yield HTTPConnection(ready["url"].removeprefix("http://"), timeout=60)
        finally:
            process.terminate()


def page(connection: HTTPConnection, query: str) -> tuple[float, dict[str, Any]]:
    """(milliseconds, the page)."""
    began = perf_counter()
    connection.request("GET", f"/v1/runs?limit={PAGE}&{query}")
    answer = connection.getresponse()
    body = answer.read()
    took = (perf_counter() - began) * 1e3
    if answer.status != 200:
        raise RuntimeError(f"{query}: {answer.status} {body[:200]!r}")
    return took, json.loads(body)


def walk(connection: HTTPConnection) -> tuple[list[float], list[str]]:
    """(milliseconds of each page, the first to the last; the cursor of each)."""
    took, cursors, cursor = [], [], ""
    while True:
        cursors.append(cursor)
        milliseconds, told = page(connection, f"cursor={quote(cursor)}" if cursor else "")
        took.append(milliseconds)
        if told["next_cursor"] is None:
            return took, cursors
        cursor = told["next_cursor"]


def figures(connection: HTTPConnection, runs: int) -> Iterator[Figure]:
    took, cursors = walk(connection)
    if len(cursors) != -(-runs // PAGE):
        raise RuntimeError(f"{len(cursors)} pages of {runs} runs")
    yield Figure("every page", took)
    for number in sorted({1, min(1_000, len(cursors)), len(cursors)}):
        query = f"cursor={quote(cursors[number - 1])}" if number > 1 else ""
        yield Figure(f"page {number:,}", [page(connection, query)[0] for _ in range(TIMES)])
    for state, expected in (("failed", FAILED), ("queued", 0)):
        asked = [page(connection, f"state={state}") for _ in range(TIMES)]
        if len(asked[0][1]["items"]) != expected:
            raise RuntimeError(f"{len(asked[0][1]['items'])} runs {state}")
        yield Figure(f"{expected} {state}", [milliseconds for milliseconds, _ in asked])


async def measure(runs: int) -> list[Figure]:
    async with empty_database() as dsn:
        await fill(dsn, runs)
        return await asyncio.to_thread(measured, dsn, runs)


def measured(dsn: str, runs: int) -> list[Figure]:
    with served(dsn) as connection:
        return list(figures(connection, runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for figure in asyncio.run(measure(options.runs)):
        values = sorted(figure.values)
        row = {
            "runs": options.runs,
            "figure": figure.name,
            "median_ms": statistics.median(values),
            "p99_ms": values[min(len(values) - 1, int(len(values) * 0.99))],
            "max_ms": values[-1],
        }
        if options.json:
            print(json.dumps(row))
        else:
            print(
                f"{row['runs']:>10,} runs  {row['figure']:<12} {row['median_ms']:8.1f} ms"
                f"   (p99 {row['p99_ms']:.1f}, max {row['max_ms']:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
