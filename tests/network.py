"""What stands between two sides that talk over a socket, and plays the network's faults on them."""

import asyncio
import contextlib
from abc import ABC, abstractmethod

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network(ABC):
    """Forwards bytes both ways until told otherwise. attempts: connections that were asked for; met: pieces of a
    stream that a fault has held up or kept back, and connections that one has ended.
    """

    def __init__(self) -> None:
        self.attempts = self.met = 0
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._late = 0.0
        self._allowance: int | None = None

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
        self.met += len(tasks)
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

    def delay(self, seconds: float) -> None:
        """Each piece of a stream is later by this much."""
        self._late = seconds

    def cut_after(self, count: int) -> None:
        """New connections end once so many bytes have come through, in the middle of whatever that is."""
        self._allowance = count

    def restore(self) -> None:
        self._refuses = False
        self._late = 0.0
        self._allowance = None
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        self.met += self._refuses
        try:
            if not self._refuses:
                # In a task of its own: the server's makes a fuss about being cancelled.
                task = asyncio.create_task(self._connect(reader, writer))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                await asyncio.wait({task})
        finally:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await self._reach()
        except OSError:
            return  # nobody is there
        budget = _Budget(self._allowance)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, budget))
                group.create_task(self._pump(there, writer, budget))
        except* OSError:
            pass  # one side was cut, which is what this is for
        finally:
            back.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, budget: "_Budget") -> None:
        while data := await source.read(65_536):
            self.met += bool(self._late) or not self._flows.is_set()
            await asyncio.sleep(self._late)
            await self._flows.wait()
            sink.write(budget.spent_on(data))
            await sink.drain()
            if budget.left == 0:
                self.met += 1
                raise ConnectionResetError
        with contextlib.suppress(OSError):
            sink.write_eof()


class _Budget:
    """Bytes that a connection may still carry, both ways together; None: as many as come."""

    def __init__(self, left: int | None) -> None:
        self.left = left

    def spent_on(self, data: bytes) -> bytes:
        """As much of it as may pass."""
        if self.left is None:
            return data
        passed = data[: self.left]
        self.left -= len(passed)
        return passed
