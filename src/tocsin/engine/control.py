"""Every operation that an edge can ask for, once: command line, HTTP and tests go through here.

Each operation is one transaction, or reads only. Answers are plain values (see ``views``).
"""

import difflib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from tocsin.clock import Clock
from tocsin.declared import App
from tocsin.domain.errors import BadInput, Conflict, NotFound
from tocsin.domain.event import Event
from tocsin.domain.filters import DeedFilters
from tocsin.domain.run import TERMINAL, RunState
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine import declaring
from tocsin.engine.audit import Audit
from tocsin.engine.desk import Desk
from tocsin.engine.editing import Editing, Versions
from tocsin.engine.emitting import Emitting
from tocsin.engine.event_views import EventViews
from tocsin.engine.firing import Firing
from tocsin.engine.hearing import Hearing
from tocsin.engine.insight import Insight, span_of
from tocsin.engine.keys import Keys
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.roster import Roster
from tocsin.engine.standing import standing
from tocsin.engine.views import agent_view, history_view, replica_view, run_view, trigger_detail, trigger_view
from tocsin.engine.watching import LONGEST_PAUSE, watched
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.leases import Incarnation, Leases
from tocsin.store.runs import Runs
from tocsin.store.trigger_rows import TriggerRow
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log, Silence


class Control:
    """Operations on one database. actor: who asks, as the trail will say; desk: of the replica in this process.

    hearing: what this process remembers of the triggers that listen. roster: processes that run agents elsewhere.
    keys: who may do what. insight: what is due, and what came of it. events: what was told, and what came of it.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        actor: str,
        desk: Desk | None = None,
        hearing: Hearing | None = None,
        log: Log | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        who = Incarnation(actor, actor=actor)
        self._database = database
        self._clock = clock
        self._triggers = Triggers(database=database, clock=clock, who=who)
        self._runs = Runs(database=database, clock=clock, who=who)
        self._leases = Leases(database=database, clock=clock, who=who)
        self.roster = Roster(database=database, clock=clock)
        self.keys = Keys(database=database, clock=clock, actor=actor)
        self.insight = Insight(database=database, clock=clock, triggers=self._triggers, row=self._row)
        self._audit = Audit(database=database)
        self._editing = Editing(database=database, triggers=self._triggers)
        self._firing = Firing(runs=self._runs, row=self._row, desk=desk)
        events, hearing = Events(clock=clock, who=who), hearing or Hearing()
        self._emitting = Emitting(
            database=database, events=events, hearing=hearing, clock=clock, log=log or Silence(), observer=observer
        )
        self.events = EventViews(database=database, events=events, hearing=hearing, trigger_id=self._id_ever)

    # --- apps and triggers

    async def declare(self, app: App, *, prune: bool = False) -> dict[str, Any]:
        """The app's agents and triggers stand as declared; names created, changed, unchanged, pruned."""
        return await declaring.declare(self._database, self._triggers, app, prune=prune)

    async def triggers(
        self,
        *,
        limit: int,
        after: str | None = None,
        agent: str | None = None,
        status: str | None = None,
        source: str | None = None,
    ) -> list[dict[str, Any]]:
        """By name. status: as the answers show it."""
        rows = await self._triggers.page(limit=limit, after=after, agent=agent, status=status, source=source)
        return [trigger_view(row) for row in rows]

    async def trigger(self, name: str) -> dict[str, Any]:
        """Raises: NotFound."""
        return trigger_detail(await self._row(name))

    async def add_trigger(self, spec: TriggerSpec) -> dict[str, Any]:
        """A new trigger of a known agent.

        Raises: Conflict, if the name is taken; NotFound, for an agent nobody declared; BadInput; PayloadTooLarge.
        """
        await self._editing.add(spec)
        return await self.trigger(spec.name)

    async def edit_trigger(
        self, name: str, change: Callable[[TriggerSpec], TriggerSpec], *, if_version: Versions = None
    ) -> dict[str, Any]:
        """A new version of a trigger; its cursor stays unless its schedule changed.

        Raises: NotFound, also for an agent nobody declared; Stale, when the version moved on; BadInput.
        """
        await self._editing.edit(name, change, if_version=if_version)
        return await self.trigger(name)

    async def delete_trigger(self, name: str, *, if_version: Versions = None) -> dict[str, Any]:
        """The trigger fires no more; its queued runs are skipped as withdrawn, its history stays.

        Raises: NotFound; Stale.
        """
        withdrawn = await self._editing.delete(name, if_version=if_version)
        return {"trigger": name, "deleted": True, "withdrawn": withdrawn}

    async def pause(self, name: str, *, reason: str = "user", until: datetime | None = None) -> dict[str, Any]:
        """No occurrence becomes a run until every reason is cleared; what was queued is withdrawn.

        until: when this reason is cleared by itself. What is due at that instant runs.

        Raises: NotFound; BadInput, for a reason that nobody could read back, and for an end that has passed;
        Conflict, for an end where nothing but a hand calls the trigger.
        """
        await self._editing.pause(name, reason, until)
        return await self.trigger(name)

    async def resume(self, name: str, *, catch_up: CatchUp | None = None, reason: str | None = None) -> dict[str, Any]:
        """One reason, or all, is cleared; the trigger goes on from now. catch_up=latest also runs the
        last occurrence of the pause.

        Raises: NotFound; Conflict, when it does not rest for that reason; BadInput.
        """
        await self._editing.resume(name, catch_up=catch_up, reason=reason)
        return await self.trigger(name)

    # --- runs

    async def fire(self, name: str, *, key: str | None = None, input: Any = None) -> dict[str, Any]:  # noqa: A002
        """A run of the trigger now, whatever its schedule; the same key gives the same run.

        Raises: NotFound; BadInput; PayloadTooLarge.
        """
        return await self._firing.fire(name, key, input)

    async def fire_many(self, name: str, requests: Sequence[tuple[str | None, Any]]) -> list[dict[str, Any]]:
        """A run now for each (key, input), in their order: ``id``, and whether it is new. A key gives one run.

        Written in parts of 2,000, each whole or not at all; asking again with the same keys writes what is missing.

        Raises: NotFound; BadInput; PayloadTooLarge.
        """
        return await self._firing.fire_many(name, requests)

    async def emit(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Of each event, in their order: ``source``, ``id``, ``accepted`` (or known before), the ids of its ``runs``,
        and beside them the names of their ``triggers``.

        When this returns, all of it is committed. Written in parts of up to 200, each whole or not at all; telling the
        same again writes what is missing.

        Raises: BadInput; PayloadTooLarge; nothing is written then.
        """
        return await self._emitting.emit(events)

    async def backfill(
        self, name: str, since: datetime, until: datetime, *, dry_run: bool = False, key: str | None = None
    ) -> dict[str, Any]:
        """Every occurrence in [since, until] is run once more, one at a time, beside live work.

        The same key gives the same backfill.

        Raises: NotFound; BadInput, for a range that is empty, in the future, or has over 1,000.
        """
        return await self._firing.backfill(name, since, until, dry_run=dry_run, key=key)

    async def cancel_backfill(self, name: str, backfill: str) -> dict[str, Any]:
        """What is still queued of a backfill is cancelled; what runs goes on.

        Raises: NotFound, also for a backfill nobody asked for; BadInput, for what is no backfill's id.
        """
        row = await self._row(name)
        try:
            wanted = UUID(backfill)
        except ValueError:
            raise BadInput(f"backfill {backfill!r}: must be the UUID that `tocsin trigger backfill` told") from None
        count = await self._runs.cancel_backfill(row.id, wanted)
        if count is None:
            raise NotFound("backfill", wanted, see=f"run list --trigger {name}")
        return {"trigger": name, "id": str(wanted), "cancelled": count}

    async def runs(
        self,
        *,
        limit: int,
        trigger: str | None = None,
        agent: str | None = None,
        states: Sequence[RunState] | None = None,
        before: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first. since, until: when they were queued."""
        trigger_id = await self._id_ever(trigger) if trigger is not None else None
        rows = await self._runs.page(
            limit=limit, trigger_id=trigger_id, agent=agent, states=states, before=before, since=since, until=until
        )
        return [run_view(row) for row in rows]

    async def run(self, run_id: UUID) -> dict[str, Any]:
        """A run with its transitions, attempts and late results, all as of one instant.

        Raises: NotFound.
        """
        whole = await self._runs.whole(run_id)
        if whole is None:
            raise NotFound("run", run_id)
        row, history = whole
        return run_view(row) | history_view(history)

    def watch(self, run_id: UUID, *, longest: float = LONGEST_PAUSE) -> AsyncGenerator[dict[str, Any], None]:
        """The run as it is, then each time that anything of it has changed, until it has ended.

        longest: seconds between two looks, at most.

        Raises: NotFound.
        """
        return watched(lambda: self.run(run_id), self._clock.sleep, longest=longest)

    async def cancel_run(self, run_id: UUID) -> dict[str, Any]:
        """A queued run is cancelled; a running one is asked to stop, and fenced if it does not.

        Raises: NotFound; Conflict, when it has ended.
        """
        states = await self._runs.cancel(run_id, reason="cancelled")
        if states is None:
            raise NotFound("run", run_id)
        if RunState(states[0]) in TERMINAL:
            raise Conflict(f"run {run_id} has already ended as {states[0]}")
        return await self.run(run_id)

    async def retry_run(self, run_id: UUID, *, key: str | None = None) -> dict[str, Any]:
        """A new run with the input of one that has ended; the old one stays as it is. The same key gives one run.

        Raises: NotFound; Conflict, when it has not ended.
        """
        old = await self.run(run_id)
        if RunState(old["state"]) not in TERMINAL:
            raise Conflict(f"run {run_id} is {old['state']}: it can be retried once it has ended")
        return await self.run(await self._firing.again(run_id, old["trigger"], old["input"], key=key))

    async def why(
        self, name: str, *, since: datetime | None = None, until: datetime | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """Why a trigger did or did not run: how it stands now, every recorded decision in the range, and what was done
        to it then, the pauses that stood as the range began included.

        The range defaults to the last 24 hours.
        """
        row = await self._row(name)
        since, until = span_of(since, until, now=row.now)
        decisions = await self._triggers.why(row.id, since=since, until=until, limit=limit)
        agents = await self._triggers.agents(limit=1, name=row.agent)
        return {
            "trigger": name,
            "since": since,
            "until": until,
            "standing": standing(row, agents[0] if agents else None),
            "decisions": decisions,
            "changes": await self._audit.changes(row, since=since, until=until, limit=limit),
        }

    async def audit(
        self, *, limit: int, before: int | None = None, **filters: Unpack[DeedFilters]
    ) -> list[dict[str, Any]]:
        """Who did what, when, to which thing, the latest first. before: the ``id`` of the last one in hand.

        Raises: BadInput; NotFound, for a trigger that was never heard of.
        """
        rows = await self._audit.page(limit=limit, before=before, **filters)
        trigger = filters.get("trigger")
        if trigger is not None and not rows and await self._triggers.id_ever(trigger) is None:
            raise await self._no_trigger(trigger)
        return rows

    # --- agents, replicas

    async def agents(self, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        return [agent_view(row) for row in await self._triggers.agents(limit=limit, after=after)]

    async def agent(self, name: str) -> dict[str, Any]:
        """Raises: NotFound."""
        rows = await self._triggers.agents(limit=1, name=name)
        if not rows:
            raise NotFound("agent", name)
        return agent_view(rows[0])

    async def replicas(
        self, *, limit: int, everything: bool = False, before: tuple[datetime, UUID] | None = None
    ) -> list[dict[str, Any]]:
        """Newest first; ``everything`` includes those that have ended.

        before: ``started_at`` and ``id`` of the last one in hand.
        """
        rows = await self._leases.page(limit=limit, everything=everything, before=before)
        return [replica_view(row) for row in rows]

    async def replica(self, name: str) -> dict[str, Any]:
        """By id or name; of several of one name the newest. Raises: NotFound."""
        rows = await self._leases.page(limit=1, everything=True, name=name)
        if not rows:
            raise NotFound("replica", name)
        return replica_view(rows[0])

    async def summary(self, since: datetime) -> dict[str, Any]:
        """Runs queued since an instant by how they ended, skips by reason, lateness in seconds."""
        return await self._runs.summary(since)

    async def now(self) -> datetime:
        """The database's instant."""
        return (await self._triggers.next_wake())[1]

    async def _id_ever(self, name: str) -> UUID:
        """Also of a trigger that was deleted. Raises: NotFound."""
        trigger_id = await self._triggers.id_ever(name)
        if trigger_id is None:
            raise await self._no_trigger(name)
        return trigger_id

    async def _row(self, name: str) -> TriggerRow:
        row = await self._triggers.get(name)
        if row is None:
            raise await self._no_trigger(name)
        return row

    async def _no_trigger(self, name: str) -> NotFound:
        """The error, with who deleted it, or else the nearest name that there is."""
        gone = await self._audit.end_of(name)
        if gone is not None:
            return NotFound("trigger", name, gone=gone)
        names = [row.name for row in await self._triggers.page(limit=1_000)]
        near = difflib.get_close_matches(name, names, n=1)
        return NotFound("trigger", name, near=near[0] if near else None)
