"""What a listing may be narrowed to. Each field may be left out, or be None; what is given holds together."""

from datetime import datetime
from typing import TypedDict


class EventFilters(TypedDict, total=False):
    """type, source: patterns, as event rules have them. trigger: only those that were for it; called: only those that
    came to a run, or to none.

    since, until: when they were received.
    """

    type: str | None
    source: str | None
    id: str | None
    trigger: str | None
    called: bool | None
    since: datetime | None
    until: datetime | None


class DeedFilters(TypedDict, total=False):
    """trigger: also one that was deleted, with its runs and backfills."""

    trigger: str | None
    actor: str | None
    action: str | None
    since: datetime | None
    until: datetime | None
