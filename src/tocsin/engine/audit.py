"""Who did what, when, to which thing. Reads only: each change writes its own record, in its own statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

import msgspec

from tocsin.domain.audit import Action
from tocsin.domain.errors import BadInput
from tocsin.domain.filters import DeedFilters
from tocsin.store.audit import AuditRows
from tocsin.store.database import Database
from tocsin.store.trigger_rows import TriggerRow


class Audit:
    def __init__(self, *, database: Database) -> None:
        self._rows = AuditRows(database=database)

    async def page(self, *, limit: int, before: int | None, **filters: Unpack[DeedFilters]) -> list[dict[str, Any]]:
        """The latest first. Raises: BadInput, for an action that there is not, and a range that runs backwards."""
        action, since, until = filters.get("action"), filters.get("since"), filters.get("until")
        if action is not None and action not in list(Action):
            raise BadInput(f"action {action!r}: must be one of {', '.join(Action)}")
        if since is not None and until is not None and since > until:
            raise BadInput(f"since {since.isoformat()}: must not be after until, {until.isoformat()}")
        return _views(await self._rows.page(limit=limit, before=before, **filters))

    async def end_of(self, trigger: str) -> str | None:
        """Who deleted a trigger, and when; None, where that is not on record."""
        ends = [
            row
            for action in (Action.DELETED, Action.PRUNED)
            for row in await self._rows.page(limit=1, before=None, trigger=trigger, action=action)
        ]
        if not ends:
            return None
        last = max(ends, key=lambda row: int(row["id"]))
        return f"it was {last['action']} at {last['at']:%Y-%m-%d %H:%M:%S} UTC by {last['actor']}"

    async def changes(self, row: TriggerRow, *, since: datetime, until: datetime, limit: int) -> list[dict[str, Any]]:
        """What was done to the trigger in the range, the latest first, and the pauses that stood when it began."""
        return _views(await self._rows.changes(row.name, row.id, since=since, until=until, limit=limit))


def _views(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"detail": msgspec.json.decode(row["detail"])} for row in rows]
