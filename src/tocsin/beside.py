"""Agent processes that a hub keeps beside itself: ``tocsin work``, started, looked after, and told to leave first.

What they log is logged here, in one stream. One that dies is started again, with back-off; the runs that it had
are judged like those of any other instance. They leave when their stdin ends, so that none outlives the hub.
"""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self

from tocsin.telemetry import LEVELS, Log

FIRST_PAUSE: Final = 1.0
MOST_PAUSE: Final = 30.0
STEADY: Final = 30.0
"""Seconds after which a process that ends is no sign that it cannot live."""

BEYOND_DRAIN: Final = 8.0
"""Seconds that a process has to leave, beyond its drain."""

OWN: Final = frozenset({"event", "level", "at"})
"""Fields of a line that are the log's and not the event's."""


class Beside:
    """apps: one process each; hub: where they connect to. Enter it once that listens, leave it before that ends."""

    def __init__(self, apps: Sequence[str], *, hub: str, drain: timedelta, log: Log) -> None:
        self._apps = apps
        self._hub = hub
        self._drain = drain
        self._log = log
        self._processes: dict[int, Process] = {}
        self._leaving = asyncio.Event()

    async def __aenter__(self) -> Self:
        places = range(len(self._apps))
        self._keeping = [asyncio.create_task(self._keep(place), name=f"work-{place}") for place in places]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving.set()
        self.hurry()
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=self._drain.total_seconds() + BEYOND_DRAIN)
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    def hurry(self) -> None:
        """Every process is told to leave, or, the second time, to get on with it."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, place: int) -> None:
        """The process runs, again and again, until we leave."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while not self._leaving.is_set():
            since = loop.time()
            await self._run(place)
            if loop.time() - since > STEADY:
                pause = FIRST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._leaving.wait()
            pause = min(pause * 2, MOST_PAUSE)

    async def _run(self, place: int) -> None:
        app = self._apps[place]
        command = (sys.executable, "-m", "tocsin.cli", "work", app, "--hub", self._hub, "--json", "--leave-with-stdin")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
            # A Ctrl-C at the terminal is for the hub, which tells its processes in their turn.
            start_new_session=True,
        )
        self._processes[place] = process
        if self._leaving.is_set():
            process.terminate()
        try:
            assert process.stdout is not None  # it is a pipe
            await self._tell(process.stdout, app, process.pid)
            code = await process.wait()
            self._log.info("work.ended", app=app, pid=process.pid, code=code)
        finally:
            del self._processes[place]
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _tell(self, lines: asyncio.StreamReader, app: str, pid: int) -> None:
        with suppress(ValueError):  # a line beyond the limit ends the telling, and not the process
            async for line in lines:
                self._say(line.decode(errors="replace").rstrip(), app, pid)

    def _say(self, line: str, app: str, pid: int) -> None:
        try:
            told = json.loads(line)
            event, level = str(told["event"]), str(told["level"])
        except (ValueError, KeyError, TypeError):
            self._log.warning("work.said", app=app, pid=pid, line=line[:1_000])
            return
        fields = {name: value for name, value in told.items() if name not in OWN}
        tell = getattr(self._log, level) if level in LEVELS else self._log.info
        tell(event, **{"pid": pid, **fields})
