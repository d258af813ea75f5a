"""Values as every edge tells them: what JSON has forms for, instants in UTC, lengths of time in seconds."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any


def jsonable(value: Any) -> Any:
    """The value with only what JSON has forms for, and instants in UTC."""
    match value:
        case datetime():
            return value.astimezone(UTC)
        case timedelta():
            return value.total_seconds()
        # One frame a level, so that what is nested as deeply as the store takes it gets through.
        case Mapping():
            return dict(zip(map(str, value), map(jsonable, value.values()), strict=True))
        case list() | tuple() | set() | frozenset():
            return list(map(jsonable, value))
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
