"""A port in front of a hub's, on which the network's faults are played."""

import asyncio
from typing import Self

from tests.network import Ends, Network


class Port(Network):
    """Enter it to listen. address: where it does."""

    address: str

    def __init__(self, target: str) -> None:
        super().__init__()
        self._host, _, port = target.rpartition(":")
        self._port = int(port)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = server
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _reach(self) -> Ends:
        return await asyncio.open_connection(self._host, self._port)
