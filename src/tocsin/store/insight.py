"""What is read of many runs at once: decisions over all triggers, and sums of usage."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tocsin.store.database import Database
from tocsin.store.retention import first_id_since


class InsightRows:
    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def decisions(
        self,
        *,
        limit: int,
        since: datetime,
        until: datetime,
        trigger_id: UUID | None,
        reason: str | None,
        before: tuple[datetime, str] | None,
    ) -> list[dict[str, Any]]:
        """Skips, the latest decision first; ``before``: (decided_at, key) of the last one in hand."""
        rows = await self._database.fetch(
            "list_decisions",
            limit=limit,
            since=since,
            until=until,
            first=first_id_since(since),
            trigger_id=trigger_id,
            reason=reason,
            before_at=before[0] if before else None,
            before_key=before[1] if before else None,
        )
        return [dict(row) for row in rows]

    async def usage(
        self,
        *,
        by: Sequence[str],
        since: datetime,
        until: datetime,
        agent: str | None,
        trigger_id: UUID | None,
        limit: int,
    ) -> list[dict[str, Any]]:
        """A row for each group; ``sums`` is JSON text."""
        rows = await self._database.fetch(
            "sum_usage",
            by=list(by),
            since=since,
            until=until,
            first=first_id_since(since),
            agent=agent,
            trigger_id=trigger_id,
            limit=limit,
        )
        return [dict(row) for row in rows]
