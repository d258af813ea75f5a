"""What is old enough to be forgotten."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tocsin.domain.zone import EPOCH
from tocsin.store.database import Database

LOOK_BACK: Final = timedelta(days=1)
"""How much older than an instant the ids may be that are looked at for it."""


def first_id_at(instant: datetime) -> UUID:
    """The smallest uuid7 of an instant's millisecond: ids below it were made before. Source: RFC 9562, 5.7."""
    return UUID(int=max(0, int(instant.timestamp() * 1000)) << 80)


def first_id_since(instant: datetime) -> UUID:
    """The smallest id of what was made a day before the instant: older ones are not looked at for it."""
    return first_id_at(max(instant, EPOCH + LOOK_BACK) - LOOK_BACK)


class Retention:
    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def prune_runs(self, before: datetime, *, batch: int) -> int:
        """Runs that ended before the instant are gone, at most a batch; how many."""
        row = await self._database.fetchrow("prune_runs", below=first_id_at(before), before=before, batch=batch)
        return int(row["count"]) if row else 0

    async def prune_events(self, before: datetime, *, batch: int) -> int:
        """Events that were matched and came before the instant are gone, at most a batch; how many."""
        return len(await self._database.fetch("prune_events", before=before, batch=batch))

    async def prune_rest(self, before: datetime, *, batch: int) -> None:
        """Deleted triggers without runs, old skips and long gone replicas are forgotten.

        A deleted trigger's last success goes first: it keeps a run, which keeps the trigger, until the
        next round has dropped that run too.
        """
        await self._database.fetch("prune_skips", before=before, batch=batch)
        await self._database.fetch("prune_windows", before=before)
        await self._database.fetch("prune_successes", before=before)
        await self._database.fetch("prune_triggers", before=before)
        await self._database.fetch("prune_replicas", before=before)
        await self._database.fetch("prune_instances")

    async def prune_audit(self, before: datetime, *, batch: int) -> int:
        """What was done before the instant is forgotten, at most a batch; how many."""
        return len(await self._database.fetch("prune_audit", before=before, batch=batch))

    async def prune_answers(self, now: datetime, *, batch: int) -> int:
        """Answers of more than a day ago are forgotten, at most a batch; how many."""
        return len(await self._database.fetch("prune_answers", now=now, batch=batch))
