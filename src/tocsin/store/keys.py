"""Keys in the database: known by their digests, never by themselves."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tocsin.clock import Clock
from tocsin.domain.errors import Conflict
from tocsin.store.database import Database


class KeyRows:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        digest: bytes,
        *,
        scopes: Sequence[str],
        agents: Sequence[str],
        expires_at: datetime | None,
        actor: str,
    ) -> dict[str, Any]:
        """Raises: Conflict, when there is one of that name."""
        row = await self._database.fetchrow(
            "create_key",
            now=self._clock.now(),
            name=name,
            digest=digest,
            scopes=list(scopes),
            agents=list(agents),
            expires_at=expires_at,
            actor=actor,
        )
        if row is None:
            raise Conflict(f"key {name!r} exists already: revoke it, and take another name for the new one")
        return dict(row)

    async def all(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._database.fetch("list_keys", now=self._clock.now())]

    async def revoke(self, name: str, *, actor: str) -> bool:
        """False: there is no key of that name."""
        return await self._database.fetchrow("revoke_key", now=self._clock.now(), actor=actor, name=name) is not None

    async def of_agent(self, digest: bytes) -> tuple[bool, str | None, Sequence[str]]:
        """(keys are asked for, the key's name or None, the agents that it may serve)."""
        row = await self._database.fetchrow("find_agent_key", now=self._clock.now(), digest=digest)
        assert row is not None  # the left side of its join always has one row
        return row["wanted"], row["name"], row["agents"] or ()

    async def of_api(self) -> list[dict[str, Any]]:
        """Every key of the API that was not revoked. lives_for: until it expires, None for ever."""
        return [dict(row) for row in await self._database.fetch("api_keys", now=self._clock.now())]

    async def now(self) -> datetime:
        """The database's instant."""
        row = await self._database.fetchrow("transaction_now", now=self._clock.now())
        assert row is not None  # a SELECT without FROM always has one row
        at: datetime = row["now"]
        return at

    async def touch(self, name: str) -> None:
        """It was used just now, to the minute."""
        await self._database.fetch("touch_key", now=self._clock.now(), name=name)
