"""What commands ask for, wherever it is done: ``Control`` on a database, or ``Elsewhere`` through a hub's API.

Answers are rows of plain values, the same from both; so are the errors.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from tocsin.domain.event import Event
    from tocsin.domain.run import RunState
    from tocsin.domain.trigger import CatchUp, TriggerSpec

Row = dict[str, Any]


class RosterOperations(Protocol):
    async def instances(self, *, limit: int, everything: bool = False) -> list[Row]: ...
    async def instance(self, name: str) -> Row: ...


class KeyOperations(Protocol):
    async def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = (),
        agents: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> Row: ...
    async def all(self) -> list[Row]: ...
    async def revoke(self, name: str) -> None: ...


class InsightOperations(Protocol):
    async def forecast(self, hours: float = 24) -> Row: ...


class EventOperations(Protocol):
    async def page(
        self,
        *,
        limit: int,
        before: int | None = None,
        type: str | None = None,  # noqa: A002 — the word that CloudEvents has for it
        source: str | None = None,
        trigger: str | None = None,
        called: bool | None = None,
        since: datetime | None = None,
    ) -> list[Row]: ...
    async def show(self, number: int) -> Row: ...


class Operations(Protocol):
    """See ``Control``."""

    @property
    def roster(self) -> RosterOperations: ...
    @property
    def keys(self) -> KeyOperations: ...
    @property
    def insight(self) -> InsightOperations: ...
    @property
    def events(self) -> EventOperations: ...

    async def triggers(self, *, limit: int, after: str | None = None) -> list[Row]: ...
    async def trigger(self, name: str) -> Row: ...
    async def add_trigger(self, spec: "TriggerSpec") -> Row: ...
    async def edit_trigger(
        self, name: str, change: "Callable[[TriggerSpec], TriggerSpec]", *, if_version: int | None = None
    ) -> Row: ...
    async def delete_trigger(self, name: str) -> Row: ...
    async def pause(self, name: str, *, reason: str = "user", until: datetime | None = None) -> Row: ...
    async def resume(self, name: str, *, catch_up: "CatchUp | None" = None, reason: str | None = None) -> Row: ...
    async def fire(self, name: str, *, key: str | None = None, input: Any = None) -> Row: ...  # noqa: A002
    async def backfill(self, name: str, since: datetime, until: datetime, *, dry_run: bool = False) -> Row: ...
    async def cancel_backfill(self, name: str, backfill: str) -> Row: ...
    async def why(
        self, name: str, *, since: datetime | None = None, until: datetime | None = None, limit: int = 50
    ) -> Row: ...

    async def emit(self, events: "Sequence[Event]") -> list[Row]: ...

    async def audit(
        self,
        *,
        limit: int,
        trigger: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
    ) -> list[Row]: ...

    async def runs(
        self,
        *,
        limit: int,
        trigger: str | None = None,
        agent: str | None = None,
        states: "Sequence[RunState] | None" = None,
        before: UUID | None = None,
        since: datetime | None = None,
    ) -> list[Row]: ...
    async def run(self, run_id: UUID) -> Row: ...
    def watch(self, run_id: UUID, *, longest: float = 1.0) -> AsyncGenerator[Row, None]: ...
    async def cancel_run(self, run_id: UUID) -> Row: ...
    async def retry_run(self, run_id: UUID) -> Row: ...

    async def agents(self, *, limit: int, after: str | None = None) -> list[Row]: ...
    async def agent(self, name: str) -> Row: ...
    async def replicas(self, *, limit: int, everything: bool = False) -> list[Row]: ...
    async def replica(self, name: str) -> Row: ...
    async def now(self) -> datetime: ...
