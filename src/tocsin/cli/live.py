"""The live view of ``up``: what is due, what runs, what ended, read from the database once a second.

It only watches. A database that does not answer, or a terminal that is gone, is shown or borne, and
stops nothing. Log lines do not tear it: warnings stand in it, the rest is what the view shows anyway.
"""

import asyncio
import io
import logging
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from tocsin.cli.exits import say
from tocsin.cli.frame import Snapshot, frame
from tocsin.clock import SystemClock, host_now
from tocsin.domain.errors import TocsinError
from tocsin.domain.instance import InstanceState
from tocsin.domain.run import RunState
from tocsin.serve import Running
from tocsin.store.admin import upcoming
from tocsin.telemetry import LEVELS, Log, logger
from tocsin.version import __version__

FRAME: Final = 0.25
LOOK: Final = 1.0
SHARE: Final = 20
"""A look that took long is followed by a rest so many times as long, so that watching costs little."""

ROWS: Final = 60
GONE_FOR: Final = timedelta(minutes=1)
NOTES: Final = 3
PICTURE: Final = (100, 30)
_monotonic: Final = SystemClock().monotonic
ENDED: Final = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED)


class LiveView:
    """Draws on a terminal; without one it only keeps what a picture needs. log: to be handed to the process."""

    def __init__(self, *, source: str, record: Path | None, level: str, form: str) -> None:
        self._source = source
        self._record = record
        self._terminal = sys.stdout.isatty()
        self._pane = PaneLog(level)
        self.log: Log = self._pane if self._terminal else logger(form=form, level=level)
        self._shot: Snapshot | None = None
        self._before_drain: Snapshot | None = None
        self._looked_at = 0.0

    @asynccontextmanager
    async def show(self, running: Running) -> AsyncIterator[None]:
        """The view is up as long as the block runs, and shows its end."""
        self._running = running
        self._begun = self._looked_at = _monotonic()
        self._shot = Snapshot(
            version=__version__,
            source=self._source,
            database=running.database,
            url=running.url,
            since=running.since,
            now=running.since,
        )
        looking = asyncio.create_task(self._look_on(), name="view")
        try:
            if self._terminal:
                async with self._drawn():
                    yield
                    await self._look()
            else:
                yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
            if self._record is not None:
                self._write_picture(self._record)

    @asynccontextmanager
    async def _drawn(self) -> AsyncIterator[None]:
        console = Console(file=_Terminal(), force_terminal=True, highlight=False, emoji=False)
        live = Live(console=console, auto_refresh=False, vertical_overflow="crop", redirect_stdout=True)
        with self._pane.listening(), live:
            drawing = asyncio.create_task(self._draw_on(live, console), name="frames")
            try:
                yield
            finally:
                drawing.cancel()
                with suppress(asyncio.CancelledError):
                    await drawing
                self._draw(live, console, state="stopped")

    async def _draw_on(self, live: Live, console: Console) -> None:
        while True:
            self._draw(live, console)
            await asyncio.sleep(FRAME)

    def _draw(self, live: Live, console: Console, state: str | None = None) -> None:
        shot = self._now()
        if state is not None:
            shot = replace(shot, state=state)
        live.update(frame(shot, width=console.width, height=console.height - 1), refresh=True)

    def _now(self) -> Snapshot:
        """The last look, carried on to this moment."""
        assert self._shot is not None  # show() made one
        replica, lasts = self._running.replica, self._running.lasts
        elapsed = _monotonic()
        state = "draining" if replica.draining else "ready" if replica.ready else "not ready"
        return replace(
            self._shot,
            now=self._shot.now + timedelta(seconds=elapsed - self._looked_at),
            left=None if lasts is None else max(0.0, lasts.total_seconds() - (elapsed - self._begun)),
            state=state,
            in_hand=len(replica.hands),
            notes=tuple((level, text) for level, text, _ in self._pane.notes),
        )

    async def _look_on(self) -> None:
        while True:
            begun = _monotonic()
            await self._look()
            await asyncio.sleep(max(LOOK, SHARE * (_monotonic() - begun)))

    async def _look(self) -> None:
        """What the database holds now; trouble is shown and tried again."""
        control = self._running.control
        assert self._shot is not None  # show() made one
        try:
            now = await control.now()
            looked_at = _monotonic()
            running = await control.runs(limit=ROWS, states=[RunState.RUNNING])
            ended = await control.runs(limit=ROWS, states=ENDED, since=self._running.since)
            self._shot = replace(
                self._shot,
                now=now,
                upcoming=await upcoming(self._running.store, limit=ROWS),
                running=sorted(running, key=lambda row: row["started_at"]),
                ended=sorted(ended, key=lambda row: row["finished_at"], reverse=True),
                summary=await control.summary(self._running.since),
                instances=_shown(await control.roster.instances(limit=ROWS, everything=True), now),
                trouble=None,
            )
            self._looked_at = looked_at
        except TocsinError as error:
            self._shot = replace(self._shot, trouble=str(error))
        if not self._running.replica.draining:
            self._before_drain = self._now()

    def _write_picture(self, path: Path) -> None:
        """The last frame before the drain, always of the same size."""
        shot = self._before_drain
        if shot is None:
            return
        columns, lines = PICTURE
        console = Console(
            file=io.StringIO(), record=True, width=columns, height=lines, force_terminal=True, color_system="truecolor"
        )
        picture = frame(shot, width=columns, height=lines)
        drawn = len(console.render_lines(picture, pad=False))
        console.print(picture)
        console.print("\n" * max(0, lines - drawn - 1))
        # A picture stands by itself: the template's web font is left to whatever monospace there is.
        drawing = console.export_svg(title=f"tocsin up {self._source}")
        drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL)
        try:
            path.write_text(drawing, encoding="utf-8")
        except OSError as error:
            say(f"--record {path}: {error.strerror or error}")


def _shown(instances: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Those that are there, and those that have been gone for less than a minute."""
    gone = {InstanceState.LEFT.value, InstanceState.LOST.value}
    return [row for row in instances if row["state"] not in gone or now - (row["ended_at"] or now) < GONE_FOR]


class PaneLog:
    """A log whose warnings are shown in the view; lesser events are what the view shows anyway."""

    is_info = False

    def __init__(self, level: str) -> None:
        self._level = max(LEVELS[level], LEVELS["warning"])
        #: (level, text, how often in a row), the last ones.
        self.notes: deque[tuple[str, str, int]] = deque(maxlen=NOTES)

    def debug(self, event: str, **fields: Any) -> None: ...

    def info(self, event: str, **fields: Any) -> None: ...

    def warning(self, event: str, **fields: Any) -> None:
        self._keep("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._keep("error", event, fields)

    def _keep(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if LEVELS[level] >= self._level:
            told = "  ".join([event, *(f"{name}={value}" for name, value in fields.items())])
            same = self.notes.pop()[2] if self.notes and self.notes[-1][1].endswith(told) else 0
            times = f"(×{same + 1}) " if same else ""
            self.notes.append((level, f"{host_now():%H:%M:%S}Z {times}{told}", same + 1))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What libraries log is shown here too, and not on the terminal below the view."""
        logging.basicConfig(level=logging.WARNING, handlers=[_Handler(self)], force=True)
        try:
            yield
        finally:
            logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)


class _Handler(logging.Handler):
    def __init__(self, log: PaneLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        tell = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        tell(record.name, message=record.getMessage())


class _Terminal(io.StringIO):
    """stdout as it was before the view; a terminal that is gone is written to in vain, not in error."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stdout

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return
