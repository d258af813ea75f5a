"""The audit as it is read. It is written by the statements that make the changes."""

from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from tocsin.domain.filters import DeedFilters
from tocsin.store.database import Database


class AuditRows:
    """Records of one database; ``detail`` is JSON text."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def page(self, *, limit: int, before: int | None, **filters: Unpack[DeedFilters]) -> list[dict[str, Any]]:
        """The latest first. before: the id of the last one in hand."""
        wanted = {name: filters.get(name) for name in ("actor", "action", "since", "until")}
        trigger = filters.get("trigger")
        if trigger is None:
            rows = await self._database.fetch("list_audit", limit=limit, before=before, **wanted)
        else:
            rows = await self._database.fetch("list_audit_of", limit=limit, before=before, trigger=trigger, **wanted)
        return [dict(row) for row in rows]

    async def changes(
        self, trigger: str, trigger_id: UUID, *, since: datetime, until: datetime, limit: int
    ) -> list[dict[str, Any]]:
        """What was done to the trigger in the range, the latest first, and the pauses that stood when it began."""
        rows = await self._database.fetch(
            "list_changes", trigger=trigger, trigger_id=trigger_id, since=since, until=until, limit=limit
        )
        return [dict(row) for row in rows]
