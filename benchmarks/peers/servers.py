"""The stores: a fresh PostgreSQL cluster with its own defaults and fsync on, or a fresh Redis, for each measurement."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks.peers.environments import Unavailable, cache
from tocsin.store.embedded import EmbeddedPostgres

# The launcher has settings of its own for small machines; these put PostgreSQL's defaults back.
DEFAULTS: Final[Mapping[str, str]] = {
    "autovacuum_naptime": "1min",
    "jit": "on",
    "max_parallel_workers_per_gather": "2",
    "max_wal_size": "1GB",
}


@asynccontextmanager
async def postgresql(**settings: str) -> AsyncIterator[str]:
    """The DSN of an empty database on a cluster that was made just now, and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir=cache()) as home:
        server = await EmbeddedPostgres.ensure(Path(home), settings={**DEFAULTS, **settings})
        try:
            yield server.dsn
        finally:
            await server.stop()


@asynccontextmanager
async def redis() -> AsyncIterator[str]:
    """The URL of an empty Redis on a free port of the loopback, that syncs its log every second.

    Raises: Unavailable.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable("no redis-server on PATH: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="redis-", dir=cache()) as home:
        # Redis's own advice; a crash of the host may cost a second, which PostgreSQL would not lose.
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "yes"]
        words += ["--appendfsync", "everysec", "--logfile", f"{home}/redis.log"]
        process = await asyncio.create_subprocess_exec(program, *words)
        try:
            await _answering(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            await process.wait()


async def _answering(port: int) -> None:
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise Unavailable(f"redis-server did not answer on port {port}")


async def redis_commands(url: str) -> int:
    """Commands that the server has processed so far."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"INFO stats\r\n")
        length = int((await reader.readline())[1:])
        text = (await reader.readexactly(length)).decode()
    finally:
        writer.close()
    return int(
        next(line for line in text.splitlines() if line.startswith("total_commands_processed")).partition(":")[2]
    )


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()
