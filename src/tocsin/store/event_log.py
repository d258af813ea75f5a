"""Events as they are looked at afterwards."""

import re
from typing import Any, TypedDict, Unpack
from uuid import UUID

import msgspec

from tocsin.domain.filters import EventFilters
from tocsin.store.database import Database


class Call(TypedDict):
    """What an event came to at one trigger. reason: why there is no run."""

    trigger: str
    run_id: UUID | None
    state: str | None
    reason: str | None


class EventLog:
    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        limit: int,
        before: int | None = None,
        trigger_id: UUID | None = None,
        **filters: Unpack[EventFilters],
    ) -> list[dict[str, Any]]:
        """The latest first, each with its ``calls``. trigger_id: in the place of the filter ``trigger``."""
        rows = await self._database.fetch(
            "list_events",
            limit=limit,
            before=before,
            type=_like(filters.get("type")),
            source=_like(filters.get("source")),
            id=filters.get("id"),
            trigger_id=trigger_id,
            called=filters.get("called"),
            since=filters.get("since"),
            until=filters.get("until"),
        )
        return [{**dict(row), "calls": _calls(row["calls"])} for row in rows]

    async def get(self, number: int) -> dict[str, Any] | None:
        """One event with its data, its extensions and its body."""
        found = [row for row in await self.page(limit=1, before=number + 1) if row["number"] == number]
        rest = await self._database.fetchrow("get_event", number=number) if found else None
        return None if rest is None else found[0] | dict(rest)


def _like(pattern: str | None) -> str | None:
    """The pattern, in which * is any text and ? any character, as SQL has it."""
    if pattern is None:
        return None
    return re.sub(r"[\\%_]", r"\\\g<0>", pattern).replace("*", "%").replace("?", "_")


def _calls(text: str | None) -> list[Call]:
    """By the names of the triggers."""
    return sorted(msgspec.json.decode(text or "[]", type=list[Call]), key=lambda call: call["trigger"])
