"""How the whole stands, in one statement whose cost is bounded however much there is."""

from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.clock import Clock
from tocsin.store.database import Database


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure. what: see the statement; name: of an agent, or a state; detail: a lane."""

    what: str
    name: str | None
    detail: str | None
    value: float
    seconds: float


class Gauges:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def read(self, *, agents: int, most: int) -> Sequence[Reading]:
        """agents: how many of them are looked at; most: runs that are counted of each, and of each lane and priority.

        Raises: DatabaseUnavailable.
        """
        rows = await self._database.fetch("read_gauges", now=self._clock.now(), agents=agents, most=most)
        return [Reading(*row) for row in rows]
