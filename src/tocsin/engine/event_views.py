"""Events as they are looked at afterwards: what each came to, and why it came to nothing."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final, Unpack
from uuid import UUID

import msgspec

from tocsin.domain.errors import NotFound
from tocsin.domain.event import Event
from tocsin.domain.filters import EventFilters
from tocsin.engine.hearing import Hearing, Listener
from tocsin.store.database import Database
from tocsin.store.event_log import EventLog
from tocsin.store.events import Events

MOST_TOLD: Final = 50
"""Triggers of which it is told why they were not called."""

MOST_NUMBER: Final = 2**62


class EventViews:
    """trigger_id: of a name, also of a trigger that was deleted; it raises NotFound."""

    def __init__(
        self, *, database: Database, events: Events, hearing: Hearing, trigger_id: Callable[[str], Awaitable[UUID]]
    ) -> None:
        self._database = database
        self._log = EventLog(database=database)
        self._events = events
        self._hearing = hearing
        self._trigger_id = trigger_id

    async def page(
        self,
        *,
        limit: int,
        before: int | None = None,
        **filters: Unpack[EventFilters],
    ) -> list[dict[str, Any]]:
        """The latest first, each with its ``calls``: ``trigger``, and ``run_id`` with its ``state``, or a ``reason``.

        before: a number.

        Raises: NotFound, for a trigger that never was.
        """
        trigger = filters.get("trigger")
        trigger_id = await self._trigger_id(trigger) if trigger is not None else None
        return await self._log.page(limit=limit, before=before, trigger_id=trigger_id, **filters)

    async def show(self, number: int) -> dict[str, Any]:
        """One event with its data, and ``uncalled``: triggers that listen now, and why it did not call them.

        body: of a webhook's call, as text, or in base64 where it is none.

        Raises: NotFound.
        """
        row = await self._log.get(number) if 0 < number < MOST_NUMBER else None
        if row is None:
            raise NotFound("event", number)
        extensions = msgspec.json.decode(row.pop("extensions") or "{}")
        data = _read(row.pop("data"))
        body, media = row.pop("body"), row.pop("media")
        event = Event(data=data, extensions=extensions, **{name: row[name] for name in _ATTRIBUTES})
        return row | {
            "extensions": extensions,
            "data": data,
            "media": media,
            **_body(body),
            "uncalled": await self._uncalled(event, {call["trigger"] for call in row["calls"]}),
        }

    async def _uncalled(self, event: Event, called: set[str]) -> list[dict[str, str]]:
        """By the rules as they stand now, those first that listen to its type."""
        async with self._database.session() as session:
            await self._hearing.read(session, self._events)
        reasons = [
            {"trigger": listener.name, "because": _because(listener, event)}
            for listener in self._hearing.all()
            if listener.name not in called
        ]
        return sorted(reasons, key=lambda one: (one["because"].startswith("type"), one["trigger"]))[:MOST_TOLD]


_ATTRIBUTES: Final = ("id", "source", "type", "subject", "time", "depth")


def _because(listener: Listener, event: Event) -> str:
    refusal = listener.rule.refusal(event)
    if refusal is not None and refusal.startswith("type"):
        return refusal
    now = "it matches as the rule stands now; when the event came, it did not listen so"
    return listener.deafness(event) or refusal or now


def _read(text: str) -> Any:
    """What cannot be read is told as it stands."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


def _body(body: bytes | None) -> dict[str, str | None]:
    if body is None:
        return {"body": None, "body_base64": None}
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}
