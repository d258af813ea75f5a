"""One program, from its start to the last trace of it: its process group, its pipes, its output.

``asyncio.subprocess`` is not used: its ``wait()`` does not return while a grandchild holds a pipe
open (cpython 119710), and its readers would need a task per pipe.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Self, cast

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.executors.lines import LogLines

PIPE_SECONDS: Final = 2.0
"""How long output is awaited that a grandchild may still write once the program has ended."""

REAP_SECONDS: Final = 2.0
"""How long a killed program is awaited; one that hangs in the kernel is left to it."""


class Child(asyncio.SubprocessProtocol):
    """A started program. stdout: what it has written, up to one byte over the bound."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.stdout = bytearray()
        self.lines = LogLines(log)
        self.exited = asyncio.Event()
        self._output_closed = asyncio.Event()
        self._closed = asyncio.Event()
        self._open_pipes = {0, 1, 2}
        self._kill_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.SubprocessTransport

    @classmethod
    async def start(
        cls, argv: Sequence[str], *, cwd: str | None, env: Mapping[str, str], log: Callable[[str], None]
    ) -> Self:
        """The program runs, in a session of its own.

        Raises: OSError, when it cannot be started.
        """
        loop = asyncio.get_running_loop()
        transport, child = await loop.subprocess_exec(lambda: cls(log), *argv, cwd=cwd, env=env, start_new_session=True)
        child._transport = transport
        return child

    @property
    def returncode(self) -> int:
        """The exit status, or minus the signal; the program has ended."""
        code = self._transport.get_returncode()
        return 0 if code is None else code

    @property
    def overflowed(self) -> bool:
        return len(self.stdout) > MAX_PAYLOAD

    def feed(self, text: bytes) -> None:
        """The program reads the text on stdin, then its end; one that does not read is left alone."""
        stdin = self._stdin()
        stdin.write(text)
        stdin.close()

    def terminate(self, grace: float) -> None:
        """The group is asked to end, and killed after ``grace`` seconds."""
        self._signal(signal.SIGTERM)
        if self._kill_timer is None:
            self._kill_timer = asyncio.get_running_loop().call_later(grace, self.kill)

    def kill(self) -> None:
        """Every process of the group is killed."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> None:
        """The program has ended and its output is here, as far as it comes within PIPE_SECONDS."""
        await self.exited.wait()
        await _within(PIPE_SECONDS, self._output_closed)

    async def close(self) -> None:
        """Nothing of the group is left, nor of its pipes. Idempotent.

        The program's own end is its group's: what is to outlive it starts a session of its own.
        """
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        # A group keeps its number as long as it has a member, so a late kill cannot hit another's.
        self.kill()
        await _within(REAP_SECONDS, self.exited)
        if 0 in self._open_pipes:
            # A closing pipe would first flush what nobody will read.
            self._stdin().abort()
        self._transport.close()
        await _within(REAP_SECONDS, self._closed)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.lines.feed(data)
        elif room := MAX_PAYLOAD + 1 - len(self.stdout):
            self.stdout += data[:room]
            if len(data) >= room:
                self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if fd == 2:
            self.lines.close()
        if not self._open_pipes & {1, 2}:
            self._output_closed.set()

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def _stdin(self) -> asyncio.WriteTransport:
        return cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def _signal(self, number: signal.Signals) -> None:
        # Gone already, or (on macOS) only zombies are left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), number)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
