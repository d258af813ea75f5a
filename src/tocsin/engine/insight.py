"""What is ahead and what has been, over many triggers: the load, the next instants, decisions, usage. Reads only."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput, NotFound
from tocsin.domain.forecast import Crowd, Forecast, Planned, forecast
from tocsin.domain.preview import MOST, preview
from tocsin.domain.run import SkipReason
from tocsin.domain.schedule import Schedule
from tocsin.engine.phase import phase_of
from tocsin.engine.resting import readable
from tocsin.store.database import Database
from tocsin.store.insight import InsightRows
from tocsin.store.trigger_rows import TriggerRow
from tocsin.store.triggers import Triggers

DAY: Final = timedelta(hours=24)
DIMENSIONS: Final = ("agent", "trigger", "model", "day")
MOST_GROUPS: Final = 10_000
MOST_HOURS: Final = 24 * 366


class Insight:
    """row: a trigger by its name, or NotFound."""

    def __init__(
        self, *, database: Database, clock: Clock, triggers: Triggers, row: Callable[[str], Awaitable[TriggerRow]]
    ) -> None:
        self._rows = InsightRows(database=database)
        self._clock = clock
        self._triggers = triggers
        self._row = row

    async def forecast(self, hours: float = 24) -> dict[str, Any]:
        """The load ahead: fires by minute, what falls together, herds. ``cut``: triggers not followed to the end.

        Raises: BadInput.
        """
        if not 0 < hours <= MOST_HOURS:
            raise BadInput(f"hours {hours:g}: must be more than 0 and at most {MOST_HOURS:,}")
        now = (await self._triggers.next_wake())[1]
        planned = [one async for one in self._planned()]
        # It may take a second or two, in which everything else here goes on.
        return _forecast_view(await asyncio.to_thread(forecast, planned, now, now + timedelta(hours=hours)))

    async def preview(self, name: str, *, count: int = 5, after: datetime | None = None) -> dict[str, Any]:
        """The next instants of a trigger, whether or not it rests, and what daylight saving does to each.

        Raises: NotFound; Conflict, for a broken trigger; BadInput.
        """
        row = await self._row(name)
        schedule = readable(row).schedule
        if schedule is None:
            return {"trigger": name, "after": after or row.now, "instants": []}
        found = await _previewed(schedule, after or row.now, count, phase_of(schedule, row.id))
        return {"trigger": name, "after": after or row.now, "instants": found}

    async def preview_schedule(
        self, schedule: Schedule, *, count: int = 5, after: datetime | None = None
    ) -> dict[str, Any]:
        """The same for a schedule that is no trigger's yet. Raises: BadInput."""
        since = after or (await self._triggers.next_wake())[1]
        return {"trigger": None, "after": since, "instants": await _previewed(schedule, since, count, timedelta(0))}

    async def decisions(
        self,
        *,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        trigger: str | None = None,
        reason: str | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Occurrences that became no run, or whose run was skipped, by when that was decided, the latest first.

        The range defaults to the last 24 hours. before: ``decided_at`` and ``key`` of the last one in hand.

        Raises: NotFound; BadInput.
        """
        if reason is not None and reason not in list(SkipReason):
            raise BadInput(f"reason {reason!r}: must be one of {', '.join(SkipReason)}")
        since, until = span_of(since, until, now=(await self._triggers.next_wake())[1])
        return await self._rows.decisions(
            limit=limit,
            since=since,
            until=until,
            trigger_id=await self._id_of(trigger),
            reason=reason,
            before=before,
        )

    async def usage(
        self,
        *,
        by: Sequence[str] = ("agent",),
        since: datetime | None = None,
        until: datetime | None = None,
        agent: str | None = None,
        trigger: str | None = None,
    ) -> dict[str, Any]:
        """What agents have reported with ``run.usage``, every number added up, for runs that began in the range.

        by: any of agent, trigger, model and day (of UTC). The range defaults to the last 24 hours.

        Raises: NotFound; BadInput.
        """
        unknown = [dimension for dimension in by if dimension not in DIMENSIONS]
        if unknown:
            raise BadInput(f"by {unknown[0]!r}: must be one of {', '.join(DIMENSIONS)}")
        since, until = span_of(since, until, now=(await self._triggers.next_wake())[1])
        rows = await self._rows.usage(
            by=by, since=since, until=until, agent=agent, trigger_id=await self._id_of(trigger), limit=MOST_GROUPS
        )
        kept = [dimension for dimension in DIMENSIONS if dimension in by]
        items = [
            {dimension: row[dimension] for dimension in kept}
            | {"runs": row["runs"], "attempts": row["attempts"], "sums": msgspec.json.decode(row["sums"])}
            for row in rows
        ]
        return {"since": since, "until": until, "by": kept, "items": items}

    async def _planned(self) -> Any:
        """Every trigger that can fire, as the forecast needs it."""
        after: str | None = None
        while rows := await self._triggers.page(limit=1_000, after=after):
            after = rows[-1].name
            for row in rows:
                schedule = None if row.paused or row.status != "armed" else _schedule_of(row)
                if schedule is not None:
                    yield Planned(row.name, schedule, row.next_at, phase_of(schedule, row.id))

    async def _id_of(self, trigger: str | None) -> UUID | None:
        """Also of a trigger that was deleted. Raises: NotFound."""
        if trigger is None:
            return None
        found = await self._triggers.id_ever(trigger)
        if found is None:
            raise NotFound("trigger", trigger)
        return found


def span_of(since: datetime | None, until: datetime | None, *, now: datetime) -> tuple[datetime, datetime]:
    """A range that ends now, and begins a day before its end, unless it is told otherwise.

    Raises: BadInput, for one that runs backwards.
    """
    end = until or now
    if since is None:
        since = end - min(DAY, end - datetime.min.replace(tzinfo=end.tzinfo))
    if since > end:
        raise BadInput(f"since {since.isoformat()}: must not be after until, {end.isoformat()}")
    return since, end


async def _previewed(schedule: Schedule, after: datetime, count: int, phase: timedelta) -> list[dict[str, Any]]:
    if not 1 <= count <= MOST:
        raise BadInput(f"count {count}: must be 1 to {MOST:,}")
    return await asyncio.to_thread(lambda: list(_instants(schedule, after, count, phase)))


def _instants(schedule: Schedule, after: datetime, count: int, phase: timedelta) -> Iterator[dict[str, Any]]:
    for one in preview(schedule, after, count):
        try:
            effective = one.at + phase
        except OverflowError:
            effective = one.at
        yield {
            "at": one.at,
            "effective_at": effective,
            "local": one.local.isoformat(),
            "tz": one.tz,
            "notes": list(one.notes),
        }


def _forecast_view(found: Forecast) -> dict[str, Any]:
    return {
        "since": found.since,
        "until": found.until,
        "triggers": found.triggers,
        "fires": found.total,
        "minutes": [{"at": at, "fires": fires} for at, fires in found.minutes],
        "hours": [{"at": at, "fires": fires} for at, fires in found.hours()],
        "busiest": [{"at": at, "fires": fires} for at, fires in found.busiest(5)],
        "collision_instants": found.collision_instants,
        "collisions": [_crowd(crowd) for crowd in found.collisions],
        "herds": [_crowd(crowd) for crowd in found.herds],
        "cut": list(found.cut),
    }


def _crowd(crowd: Crowd) -> dict[str, Any]:
    return {"at": crowd.at, "fires": crowd.count, "triggers": list(crowd.names)}


def _schedule_of(row: TriggerRow) -> Schedule | None:
    try:
        return row.spec().schedule
    except BadInput:
        return None
