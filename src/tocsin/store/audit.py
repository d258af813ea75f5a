"""The audit as it is read. It is written by the statements that make the changes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from tocsin.store.database import Database


class AuditRows:
    """Records of one database; ``detail`` is JSON text."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        limit: int,
        trigger: str | None,
        actor: str | None,
        action: str | None,
        since: datetime | None,
        until: datetime | None,
        before: int | None,
    ) -> list[dict[str, Any]]:
        """The latest first. trigger: by name, its runs and backfills included; before: the id of the last in hand."""
        values = {
            "limit": limit,
            "actor": actor,
            "action": action,
            "since": since,
            "until": until,
            "before": before,
        }
        if trigger is None:
            rows = await self._database.fetch("list_audit", **values)
        else:
            rows = await self._database.fetch("list_audit_of", **values, trigger=trigger)
        return [dict(row) for row in rows]

    async def changes(
        self, trigger: str, trigger_id: UUID, *, since: datetime, until: datetime, limit: int
    ) -> list[dict[str, Any]]:
        """What was done to the trigger in the range, the latest first, and the pauses that stood when it began."""
        rows = await self._database.fetch(
            "list_changes", trigger=trigger, trigger_id=trigger_id, since=since, until=until, limit=limit
        )
        return [dict(row) for row in rows]
