"""Processes that run agents elsewhere, as they stand."""

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

import msgspec

from tocsin.clock import Clock
from tocsin.domain.errors import NotFound
from tocsin.domain.instance import Patience, state_of
from tocsin.store.database import Database
from tocsin.store.instances import InstanceRows


class RunInHand(TypedDict):
    id: UUID
    agent: str
    fence: int
    since: datetime


class Roster:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._rows = InstanceRows(database=database, clock=clock)

    async def instances(
        self, *, limit: int, everything: bool = False, before: tuple[datetime, UUID] | None = None
    ) -> list[dict[str, Any]]:
        """Newest first; ``everything`` includes those that have left or were lost.

        before: ``started_at`` and ``id`` of the last one in hand.
        """
        rows = await self._rows.page(limit=limit, everything=everything, before=before)
        return [instance_view(row) for row in rows]

    async def instance(self, name: str) -> dict[str, Any]:
        """By id or name; of several of one name the newest. Raises: NotFound."""
        rows = await self._rows.page(limit=1, everything=True, name=name)
        if not rows:
            raise NotFound("instance", name)
        return instance_view(rows[0])


def instance_view(row: dict[str, Any]) -> dict[str, Any]:
    """An instance with its state, what it runs, and why it is suspected, if it is."""
    state, why = state_of(
        now=row["now"],
        heard_at=row["heard_at"],
        expires_at=row["expires_at"],
        end_reason=row["end_reason"],
        connected=row["replica"] is not None,
        draining=row["draining"],
        stalled=row["stalled_at"] is not None,
        patience=Patience(row["suspect_after"], row["dead_after"]),
    )
    shown = ("id", "name", "version", "agents", "slots", "key", "replica", "started_at", "connected_at",
             "disconnected_at", "heard_at", "stalled_at", "culprit", "ended_at")  # fmt: skip
    return {
        **{name: row[name] for name in shown},
        "state": state.value,
        "why": why,
        "labels": msgspec.json.decode(row["labels"]),
        "running": msgspec.json.decode(row["running"], type=list[RunInHand]),
    }
