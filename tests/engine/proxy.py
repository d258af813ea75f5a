"""A socket between a replica and its database, on which the network's faults are played."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit


class Proxy:
    """Forwards bytes both ways until told otherwise. attempts: connections that were asked for."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.attempts = 0
        self._target = dsn
        self._directory = directory
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False

    @property
    def dsn(self) -> str:
        """The same database, reached through here."""
        parts = urlsplit(self._target)
        user = f"{parts.username}:{parts.password}@" if parts.password else f"{parts.username}@"
        return f"postgresql://{user}{parts.path}?host={quote(str(self._directory), safe='')}&port=5432"

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self._directory / ".s.PGSQL.5432")

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._flows.set()
        await self.cut()

    async def cut(self) -> None:
        """Every connection that is open is gone."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refuse(self) -> None:
        """The database is gone: every connection is cut, and nobody is let in."""
        self._refuses = True
        await self.cut()

    def freeze(self) -> None:
        """Half open: connections stand, and nothing comes through."""
        self._flows.clear()

    def restore(self) -> None:
        self._refuses = False
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if not self._refuses:
                await self._connect(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._target)
        query = parse_qs(parts.query)
        if "host" in query:
            path = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
            there, back = await asyncio.open_unix_connection(path)
        else:
            there, back = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back))
                group.create_task(self._pump(there, writer))
        except* OSError:
            pass  # one side was cut, which is what this is for
        finally:
            back.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._flows.wait()
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()


@asynccontextmanager
async def a_proxy(dsn: str) -> AsyncIterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="tocsin-proxy-") as directory:
        proxy = Proxy(dsn, Path(directory))
        await proxy.open()
        try:
            yield proxy
        finally:
            await proxy.close()
