"""What commands ask for, done by a hub elsewhere through its API."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final, Unpack
from uuid import UUID

from tocsin.cli.operations import Row
from tocsin.domain.event import Event
from tocsin.domain.filters import DeedFilters, EventFilters
from tocsin.domain.run import RunState
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.sdk.client import Client

MOST_ROWS: Final = 1_000
"""Of a listing that has no pages."""


class Roster:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def instances(self, *, limit: int, everything: bool = False) -> list[Row]:
        return await _collected(self._client.instances(limit=limit, everything=everything))

    async def instance(self, name: str) -> Row:
        return dict(await self._client.instance(name))


class Keys:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = (),
        agents: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> Row:
        return dict(await self._client.create_key(name, scopes=scopes, agents=agents, expires_at=expires_at))

    async def all(self) -> list[Row]:
        return [dict(row) for row in await self._client.keys()]

    async def revoke(self, name: str) -> None:
        await self._client.revoke_key(name)


class Insight:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def forecast(self, hours: float = 24) -> Row:
        return dict(await self._client.forecast(hours))


class Events:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def page(self, *, limit: int, before: int | None = None, **filters: Unpack[EventFilters]) -> list[Row]:
        return await _collected(self._client.events(before=before, limit=limit, **filters))

    async def show(self, number: int) -> Row:
        return dict(await self._client.event(number))


class Elsewhere:
    """Operations of the hub that the client speaks to."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.roster = Roster(client)
        self.keys = Keys(client)
        self.insight = Insight(client)
        self.events = Events(client)

    async def triggers(self, *, limit: int, after: str | None = None) -> list[Row]:
        return await _collected(self._client.triggers(limit=limit, after=after))

    async def trigger(self, name: str) -> Row:
        return dict(await self._client.trigger(name))

    async def add_trigger(self, spec: TriggerSpec) -> Row:
        return dict(await self._client.add_trigger(spec))

    async def edit_trigger(
        self, name: str, change: Callable[[TriggerSpec], TriggerSpec], *, if_version: int | None = None
    ) -> Row:
        return dict(await self._client.edit_trigger(name, change, if_version=if_version))

    async def delete_trigger(self, name: str) -> Row:
        return dict(await self._client.delete_trigger(name))

    async def pause(self, name: str, *, reason: str = "user", until: datetime | None = None) -> Row:
        return dict(await self._client.pause(name, reason=reason, until=until))

    async def resume(self, name: str, *, catch_up: CatchUp | None = None, reason: str | None = None) -> Row:
        return dict(await self._client.resume(name, catch_up=catch_up, reason=reason))

    async def fire(self, name: str, *, key: str | None = None, input: Any = None) -> Row:  # noqa: A002
        return dict(await self._client.fire(name, key=key, input=input))

    async def backfill(self, name: str, since: datetime, until: datetime, *, dry_run: bool = False) -> Row:
        return dict(await self._client.backfill(name, since, until, dry_run=dry_run))

    async def cancel_backfill(self, name: str, backfill: str) -> Row:
        return dict(await self._client.cancel_backfill(name, backfill))

    async def why(
        self, name: str, *, since: datetime | None = None, until: datetime | None = None, limit: int = 50
    ) -> Row:
        return dict(await self._client.why(name, since=since, until=until, limit=min(limit, MOST_ROWS)))

    async def emit(self, events: Sequence[Event]) -> list[Row]:
        return [dict(told) for told in await self._client.emit(events)]

    async def audit(self, *, limit: int, before: int | None = None, **filters: Unpack[DeedFilters]) -> list[Row]:
        return await _collected(self._client.audit(before=before, limit=limit, **filters))

    async def runs(
        self,
        *,
        limit: int,
        trigger: str | None = None,
        agent: str | None = None,
        states: Sequence[RunState] | None = None,
        before: UUID | None = None,
        since: datetime | None = None,
    ) -> list[Row]:
        return await _collected(
            self._client.runs(trigger=trigger, agent=agent, states=states, before=before, since=since, limit=limit)
        )

    async def run(self, run_id: UUID) -> Row:
        return dict(await self._client.run(run_id))

    async def watch(self, run_id: UUID, *, longest: float = 1.0) -> AsyncGenerator[Row, None]:
        async with aclosing(self._client.watch(run_id, longest=longest)) as rows:
            async for row in rows:
                yield dict(row)

    async def cancel_run(self, run_id: UUID) -> Row:
        return dict(await self._client.cancel_run(run_id))

    async def retry_run(self, run_id: UUID) -> Row:
        return dict(await self._client.retry_run(run_id))

    async def agents(self, *, limit: int, after: str | None = None) -> list[Row]:
        return await _collected(self._client.agents(limit=limit, after=after))

    async def agent(self, name: str) -> Row:
        return dict(await self._client.agent(name))

    async def replicas(self, *, limit: int, everything: bool = False) -> list[Row]:
        return await _collected(self._client.replicas(limit=limit, everything=everything))

    async def replica(self, name: str) -> Row:
        return dict(await self._client.replica(name))

    async def now(self) -> datetime:
        return await self._client.now()


async def _collected(rows: AsyncIterator[Mapping[str, Any]]) -> list[Row]:
    return [dict(row) async for row in rows]
