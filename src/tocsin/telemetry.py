"""Logs: a stream of events on stdout, one line each, console or JSON.

Nothing here may stop the hub: a stream that cannot be written to is dropped from, not waited for.
"""

import io
import logging
import sys
from contextlib import suppress
from typing import Any, Final, Protocol, TextIO, cast
from uuid import UUID

import msgspec
import structlog

from tocsin.domain.trace import trace_of

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log(Protocol):
    """Events with fields. ``info`` says whether lines of that level go anywhere: ask before a hot loop."""

    @property
    def is_info(self) -> bool: ...
    def debug(self, event: str, **fields: Any) -> None: ...
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...


class _Stream(io.TextIOBase):
    """stdout as structlog's file; a full disk or a closed pipe loses lines, never the hub."""

    def write(self, text: str) -> int:
        try:
            return sys.stdout.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            return


def _encode(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _named_trace(_: object, __: str, event: Any) -> Any:
    """What is said of a run names its trace, too."""
    with suppress(ValueError):
        if "run_id" in event:
            event["trace_id"] = f"{trace_of(UUID(str(event['run_id']))):032x}"
    return event


def _processors(form: str) -> list[Any]:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")
    if form == "json":
        return [structlog.processors.add_log_level, stamp, structlog.processors.JSONRenderer(serializer=_encode)]
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=18)
    short = structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False)
    return [structlog.processors.add_log_level, short, renderer]


class _Logger:
    def __init__(self, bound: Any, level: int) -> None:
        self._bound = bound
        self.is_info = level <= LEVELS["info"]

    def debug(self, event: str, **fields: Any) -> None:
        self._bound.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self._bound.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._bound.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self._bound.error(event, **fields)


def logger(*, form: str = "console", level: str = "info", traced: bool = False, **fields: Any) -> Log:
    """A log of its own; nothing global is configured. traced: lines about a run name its trace."""
    number = LEVELS[level]
    bound = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, _Stream())),
        processors=[*([_named_trace] if traced else []), *_processors(form)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    # asyncio reports a task's stray exception through logging; it belongs into the same stream.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    # A pool that loses its sessions is told of by the loops that fail, once, without a traceback.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    return _Logger(bound.bind(**fields) if fields else bound, number)


class Silence:
    """A log that goes nowhere."""

    is_info = False

    def debug(self, event: str, **fields: Any) -> None: ...
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...
