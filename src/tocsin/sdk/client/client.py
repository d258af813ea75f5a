"""Every operation of a hub, by its API: the same names, answers and errors as ``Control`` has where the database is."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, Unpack
from uuid import UUID, uuid4

from tocsin.domain.errors import BadInput, Stale
from tocsin.domain.event import Event
from tocsin.domain.filters import DeedFilters, EventFilters
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine.watching import LONGEST_PAUSE, watched
from tocsin.sdk.client import told
from tocsin.sdk.client.asking import Request
from tocsin.sdk.client.changes import Change, Changes, stirred
from tocsin.sdk.client.emitting import BATCHED, batches
from tocsin.sdk.client.forms import change_form, input_form, new_form, spec_of
from tocsin.sdk.client.opened import Opened
from tocsin.sdk.client.pages import listed, pages

T = TypeVar("T")
Several: TypeAlias = T | Sequence[T] | None
MOST_TRIES: Final = 5


class Client(Opened):
    """A hub elsewhere: ``async with Client("https://hub.example:8620", key=…) as client: …``.

    What is left out comes from TOCSIN_URL, TOCSIN_KEY (or TOCSIN_KEY_FILE) and TOCSIN_CA. timeout: seconds for an
    operation with all its tries. again: told why something is asked again, each time. One client may be used by many
    tasks of one event loop.

    Every operation raises what ``Control`` raises; besides, Unauthenticated and Forbidden, and HubUnavailable when no
    answer came in time. A POST has an Idempotency-Key of its own, so that it is done once though it is asked twice.
    """

    # --- triggers

    def triggers(
        self,
        *,
        agent: str | None = None,
        status: str | None = None,
        source: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[told.Trigger]:
        """By name. after: only names that come after it. limit: how many at most; all of them, when left out."""
        query = {"agent": agent, "status": status, "source": source, "after": after}
        return pages(self._asking, ("triggers",), query, told.Trigger, limit)

    async def trigger(self, name: str) -> told.TriggerDetail:
        return await self._get(("triggers", name), told.TriggerDetail)

    async def add_trigger(self, spec: TriggerSpec) -> told.TriggerDetail:
        return await self._post(("triggers",), told.TriggerDetail, new_form(spec))

    async def edit_trigger(
        self,
        name: str,
        change: Callable[[TriggerSpec], TriggerSpec],
        *,
        if_version: int | Collection[int] | None = None,
    ) -> told.TriggerDetail:
        """The trigger as ``change`` makes it of what it is. An edit that somebody else makes meanwhile is not lost:
        ``change`` is asked again, or, with ``if_version``, the edit is refused as stale.
        """
        for tries in range(MOST_TRIES):
            row = await self.trigger(name)
            try:
                return await self._edited(row, change, if_version)
            except Stale:
                if if_version is not None or tries == MOST_TRIES - 1:
                    raise
        raise AssertionError  # the last try raises

    async def delete_trigger(self, name: str, *, if_version: int | Collection[int] | None = None) -> told.Deleted:
        return await self._delete(("triggers", name), told.Deleted, None if if_version is None else _tags(if_version))

    async def pause(self, name: str, *, reason: str = "user", until: datetime | None = None) -> told.TriggerDetail:
        """until: when the reason ends by itself."""
        return await self._post(("triggers", name, "pause"), told.TriggerDetail, {"reason": reason, "until": until})

    async def resume(
        self, name: str, *, catch_up: CatchUp | None = None, reason: str | None = None
    ) -> told.TriggerDetail:
        """One reason, or all, is cleared. catch_up=latest also runs the last occurrence of the pause."""
        if catch_up is CatchUp.ALL:
            raise BadInput("catch_up 'all' is a backfill: use `tocsin trigger backfill`")
        body = {"catch_up": catch_up, "reason": reason}
        return await self._post(("triggers", name, "resume"), told.TriggerDetail, body)

    async def fire(self, name: str, *, key: str | None = None, input: Any = None) -> told.FiredRun:  # noqa: A002
        """A run now; the same key gives the same run. input: for this run, instead of the trigger's own."""
        return await self._post(("triggers", name, "fire"), told.FiredRun, {"input": input_form(input)}, key=key)

    async def backfill(
        self,
        name: str,
        since: datetime,
        until: datetime | None = None,
        *,
        dry_run: bool = False,
        key: str | None = None,
    ) -> told.Backfilled:
        body = {"since": since, "until": until, "dry_run": dry_run}
        return await self._post(("triggers", name, "backfills"), told.Backfilled, body, key=key)

    async def cancel_backfill(self, name: str, backfill: UUID | str) -> told.BackfillCancelled:
        return await self._delete(("triggers", name, "backfills", str(backfill)), told.BackfillCancelled)

    async def preview(self, name: str, *, count: int = 5, after: datetime | None = None) -> told.Previewed:
        return await self._get(("triggers", name, "preview"), told.Previewed, {"count": count, "after": after})

    async def preview_schedule(
        self, schedule: Schedule, *, count: int = 5, after: datetime | None = None
    ) -> told.Previewed:
        body = {"schedule": schedule.to_json(), "count": count, "after": after}
        return await self._ask(Request(method="POST", path=("preview",), body=body), told.Previewed)

    async def why(
        self, name: str, *, since: datetime | None = None, until: datetime | None = None, limit: int = 50
    ) -> told.Why:
        """limit: decisions, at most 1,000."""
        return await self._get(("triggers", name, "why"), told.Why, {"since": since, "until": until, "limit": limit})

    # --- runs

    def runs(
        self,
        *,
        trigger: str | None = None,
        agent: str | None = None,
        states: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: UUID | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[told.Run]:
        """Newest first. since, until: when they were queued; before: only lesser ids; limit: see ``triggers``."""
        span = {"since": since, "until": until, "before": before}
        return pages(
            self._asking, ("runs",), {"trigger": trigger, "agent": agent, "state": states, **span}, told.Run, limit
        )

    async def run(self, run: UUID) -> told.RunDetail:
        """With its transitions, what its attempts told, and late results."""
        return await self._get(("runs", str(run)), told.RunDetail)

    async def late_results(self, run: UUID) -> list[told.LateResult]:
        """Results that came after the fence had risen, which were not applied."""
        return (await self.run(run))["late_results"]

    async def cancel_run(self, run: UUID) -> told.RunDetail:
        return await self._post(("runs", str(run), "cancel"), told.RunDetail)

    async def retry_run(self, run: UUID, *, key: str | None = None) -> told.RunDetail:
        return await self._post(("runs", str(run), "retry"), told.RunDetail, key=key)

    async def watch(self, run: UUID, *, longest: float = LONGEST_PAUSE) -> AsyncGenerator[told.RunDetail, None]:
        """The run as it is, then each time that anything of it has changed, until it has ended.

        longest: seconds between two looks, at most; the stream of changes calls for one sooner.
        """
        async with stirred(self.stream(run=run), self._clock) as wait:
            async for row in watched(lambda: self.run(run), wait, longest=longest):
                yield row

    def stream(
        self,
        *,
        trigger: Several[str] = None,
        agent: Several[str] = None,
        run: Several[UUID] = None,
        states: Several[str] = None,
        kinds: Several[str] = None,
        after: str | None = None,
    ) -> AsyncGenerator[Change, None]:
        """Transitions of runs as they are committed, without an end: only of these, and into these states.

        after: the id of a change, behind which they begin; from now on, when left out.
        """
        query = {"trigger": trigger, "agent": agent, "run": run, "state": states, "kind": kinds}
        return Changes(self._asking, Request(method="GET", path=("stream",), query=query), after=after).follow()

    # --- agents, instances, replicas

    def agents(self, *, after: str | None = None, limit: int | None = None) -> AsyncIterator[told.Agent]:
        """By name. after, limit: see ``triggers``."""
        return pages(self._asking, ("agents",), {"after": after}, told.Agent, limit)

    async def agent(self, name: str) -> told.Agent:
        return await self._get(("agents", name), told.Agent)

    def instances(self, *, everything: bool = False, limit: int | None = None) -> AsyncIterator[told.Instance]:
        """Newest first; ``everything`` includes those that have left or were lost. limit: see ``triggers``."""
        return pages(self._asking, ("instances",), {"all": everything}, told.Instance, limit)

    async def instance(self, name: str) -> told.Instance:
        return await self._get(("instances", name), told.Instance)

    def replicas(self, *, everything: bool = False, limit: int | None = None) -> AsyncIterator[told.Replica]:
        """Newest first; ``everything`` includes those that have ended. limit: see ``triggers``."""
        return pages(self._asking, ("replicas",), {"all": everything}, told.Replica, limit)

    async def replica(self, name: str) -> told.Replica:
        return await self._get(("replicas", name), told.Replica)

    # --- events

    async def emit(self, events: Sequence[Event]) -> list[told.Told]:
        """What became of each, in their order. Telling the same again is no fault: it is known then.

        Many go in several requests; of those that were answered all is committed when another fails.
        """
        answers: list[told.Told] = []
        for batch in batches(events):
            request = Request(method="POST", path=("events",), body=batch, media=BATCHED, key=str(uuid4()))
            answers += (await self._ask(request, told.AllTold))["items"]
        return answers

    def events(
        self, *, before: int | None = None, limit: int | None = None, **filters: Unpack[EventFilters]
    ) -> AsyncIterator[told.EventRow]:
        """The latest first, with what each came to. before: a number; limit: see ``triggers``."""
        return pages(self._asking, ("events",), {"before": before, **filters}, told.EventRow, limit)

    async def event(self, number: int) -> told.EventDetail:
        """With its data, and why it did not call the other triggers that listen."""
        return await self._get(("events", str(number)), told.EventDetail)

    # --- what is ahead, what has been

    def decisions(
        self,
        *,
        trigger: str | None = None,
        reason: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[told.Skipped]:
        """Occurrences that became no run, the latest decision first; of the last 24 hours, unless told otherwise."""
        query = {"trigger": trigger, "reason": reason, "since": since, "until": until}
        return pages(self._asking, ("decisions",), query, told.Skipped, limit)

    def audit(
        self, *, before: int | None = None, limit: int | None = None, **filters: Unpack[DeedFilters]
    ) -> AsyncIterator[told.Deed]:
        """Who did what, the latest first. before: what was done before that record; limit: see ``triggers``."""
        return pages(self._asking, ("audit",), {"before": before, **filters}, told.Deed, limit)

    async def forecast(self, hours: float = 24) -> told.Forecast:
        return await self._get(("forecast",), told.Forecast, {"hours": hours})

    async def usage(
        self,
        *,
        by: Sequence[str] = ("agent",),
        since: datetime | None = None,
        until: datetime | None = None,
        agent: str | None = None,
        trigger: str | None = None,
    ) -> told.Usage:
        """by: any of agent, trigger, model and day. Of the last 24 hours, unless told otherwise."""
        query = {"by": list(by), "since": since, "until": until, "agent": agent, "trigger": trigger}
        return await self._get(("usage",), told.Usage, query)

    async def now(self) -> datetime:
        """The database's instant."""
        return (await self._get(("now",), dict[str, datetime]))["now"]

    # --- keys

    async def keys(self) -> list[told.Key]:
        return await listed(self._asking, ("keys",), {}, told.Key)

    async def create_key(
        self,
        name: str,
        *,
        scopes: Collection[str] = (),
        agents: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> told.CreatedKey:
        """The key is in this answer and in no other. It is therefore asked for once: if no answer comes, it may have
        been made, and can be revoked under its name.
        """
        body = {"name": name, "scopes": list(scopes), "agents": list(agents), "expires_at": expires_at}
        return await self._ask(Request(method="POST", path=("keys",), body=body), told.CreatedKey)

    async def revoke_key(self, name: str) -> told.Revoked:
        return await self._delete(("keys", name), told.Revoked)

    async def _edited(
        self,
        row: told.TriggerDetail,
        change: Callable[[TriggerSpec], TriggerSpec],
        if_version: int | Collection[int] | None,
    ) -> told.TriggerDetail:
        try:
            spec = spec_of(row)
        except BadInput:
            # The hub says in its own words why it cannot be edited.
            body: dict[str, Any] = {"agent": row["agent"]}
        else:
            body = change_form(spec, change(spec))
        tags = _tags(row["version"] if if_version is None else if_version)
        request = Request(method="PATCH", path=("triggers", row["name"]), body=body, if_match=tags)
        return await self._ask(request, told.TriggerDetail)


def _tags(versions: int | Collection[int]) -> str:
    several = (versions,) if isinstance(versions, int) else versions
    return ", ".join(f'"{version}"' for version in several)
