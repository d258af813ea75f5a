"""Tocsin: rings every agent on time, exactly once, and keeps watch over the run until it is over."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tocsin.app import App, Hub, load_app
    from tocsin.domain.errors import (
        BadInput,
        Cancelled,
        Fatal,
        InvalidApp,
        InvalidSchedule,
        PayloadTooLarge,
        RetryAfter,
        TocsinError,
    )
    from tocsin.domain.event_rule import on_event
    from tocsin.domain.hook import webhook
    from tocsin.domain.schedule import Schedule, at, cron, every, next_after
    from tocsin.run import Run

__all__ = [
    "App",
    "BadInput",
    "Cancelled",
    "Fatal",
    "Hub",
    "InvalidApp",
    "InvalidSchedule",
    "PayloadTooLarge",
    "RetryAfter",
    "Run",
    "Schedule",
    "TocsinError",
    "at",
    "cron",
    "every",
    "load_app",
    "next_after",
    "on_event",
    "webhook",
]

_HOMES: Final = {
    "tocsin.app": ("App", "Hub", "load_app"),
    "tocsin.domain.errors": (
        "BadInput",
        "Cancelled",
        "Fatal",
        "InvalidApp",
        "InvalidSchedule",
        "PayloadTooLarge",
        "RetryAfter",
        "TocsinError",
    ),
    "tocsin.domain.event_rule": ("on_event",),
    "tocsin.domain.hook": ("webhook",),
    "tocsin.domain.schedule": ("Schedule", "at", "cron", "every", "next_after"),
    "tocsin.run": ("Run",),
}


def __getattr__(name: str) -> object:
    """Each public name is fetched when it is first asked for, so that ``import tocsin`` costs nothing."""
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module  # noqa: PLC0415

            found = globals()[name] = getattr(import_module(home), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
