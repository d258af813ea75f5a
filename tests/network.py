"""What stands between two sides that talk over a socket, and plays the network's faults on them."""

import asyncio
import contextlib
from abc import ABC, abstractmethod

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network(ABC):
    """Forwards bytes both ways until told otherwise. attempts: connections that were asked for."""

    def __init__(self) -> None:
        self.attempts = 0
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False

    @abstractmethod
    async def open(self) -> None:
        """It listens."""

    @abstractmethod
    async def _reach(self) -> Ends:
        """A connection to the other side."""

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
        """The other side is gone: every connection is cut, and nobody is let in."""
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
        assert task is not None  # a handler runs in one
        self._open.add(task)
        try:
            if not self._refuses:
                await self._connect(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self._reach()
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
