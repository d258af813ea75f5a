"""Triggers with a hook, as the database has them."""

from dataclasses import dataclass
from datetime import datetime

from tocsin.clock import Clock
from tocsin.store.database import Database


@dataclass(frozen=True, slots=True)
class HookRow:
    """name: of the trigger; hook: JSON text; broken: it is quarantined, and fires nothing."""

    name: str
    hook: str
    broken: bool


class HookRows:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def all(self) -> tuple[datetime, list[HookRow]]:
        """(the database's instant, all of them)."""
        rows = await self._database.fetch("list_hooks", now=self._clock.now())
        return rows[0]["now"], [HookRow(*row[:3]) for row in rows if row["name"] is not None]
