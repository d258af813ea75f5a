"""A socket between a replica and its database, on which the network's faults are played."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from tests.network import Ends, Network


class Proxy(Network):
    """Stands in front of a server."""

    def __init__(self, dsn: str, directory: Path) -> None:
        super().__init__()
        self._target = dsn
        self._directory = directory

    @property
    def dsn(self) -> str:
        """The same database, reached through here."""
        parts = urlsplit(self._target)
        user = f"{parts.username}:{parts.password}@" if parts.password else f"{parts.username}@"
        return f"postgresql://{user}{parts.path}?host={quote(str(self._directory), safe='')}&port=5432"

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self._directory / ".s.PGSQL.5432")

    async def _reach(self) -> Ends:
        parts = urlsplit(self._target)
        query = parse_qs(parts.query)
        if "host" in query:
            return await asyncio.open_unix_connection(f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)


@asynccontextmanager
async def a_proxy(dsn: str) -> AsyncIterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="tocsin-proxy-") as directory:
        proxy = Proxy(dsn, Path(directory))
        await proxy.open()
        try:
            yield proxy
        finally:
            await proxy.close()
