"""N replicas of the real hub on one real PostgreSQL, everything that happens to them in one journal."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import asyncpg

from tests.chaos.journal import Journal
from tests.chaos.member import Member
from tests.chaos.postgres import Postgres
from tocsin.store.migrate import migrate

LEASE: Final = 3.0
DRAIN: Final = 4.0

SETTINGS: Final = {
    "TOCSIN_HTTP_BIND": "127.0.0.1:0",
    "TOCSIN_LOG_FORMAT": "json",
    "TOCSIN_LEASE": f"{LEASE:g}s",
    "TOCSIN_RENEW_EVERY": "500ms",
    "TOCSIN_SWEEP_EVERY": "500ms",
    "TOCSIN_POLL_EVERY": "1s",
    "TOCSIN_DRAIN_TIMEOUT": f"{DRAIN:g}s",
    "TOCSIN_SLOTS": "40",
}
"""A lease of three seconds instead of thirty: what takes minutes in service takes seconds here."""


class Fleet:
    """Enter it to have a migrated database; ``start()`` to have replicas that are ready.

    place: a directory for everything. env: for every replica, before its own. The cluster is ``postgres``:
    its ``dsn``, ``socket``, ``stop(how)``, ``start()``, ``restart(how)``. A fault may give one member another
    ``dsn``, ``env`` or ``prefix``, and start it anew.
    """

    def __init__(
        self,
        place: Path,
        *,
        replicas: int = 3,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.place: Final = place
        self.ledgers: Final = place / "ledger"
        self.ledgers.mkdir(parents=True, exist_ok=True)
        self.journal: Final = Journal(place / "nemesis.jsonl")
        self.postgres: Final = Postgres(place / "pg", settings)
        self.lease: Final = LEASE
        self._stack = AsyncExitStack()
        shared = SETTINGS | {"CHAOS_LEDGERS": str(self.ledgers)} | dict(env or {})
        self.members: Final = [
            Member(index, dsn=lambda: self.postgres.dsn, env=dict(shared), journal=self.journal)
            for index in range(replicas)
        ]

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.postgres)
        await migrate(self.postgres.dsn)
        self._stack.push_async_callback(self._end_all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.journal.close()

    async def _end_all(self) -> None:
        for member in self.members:
            if member.alive:
                await member.kill()

    @property
    def living(self) -> list[Member]:
        """Members whose process lives and is not frozen."""
        return [member for member in self.members if member.alive and not member.frozen]

    async def start(self, *members: Member, within: float = 30) -> None:
        """These, or all that are not running, are ready."""
        new = [member for member in members or self.members if not member.alive]
        for member in new:
            member.spawn()
        for member in new:
            await member.until_logged("hub.ready", within=within)

    async def restart(self, member: Member, *, kill: bool = False) -> None:
        """Another process of the member is ready; the former was killed, or drained."""
        await (member.kill() if kill else member.stop())
        await self.start(member)

    @asynccontextmanager
    async def frozen(self, *members: Member) -> AsyncIterator[None]:
        """They stand still (SIGSTOP) inside the block, and go on after it."""
        for member in members:
            member.freeze()
        try:
            yield
        finally:
            for member in members:
                member.thaw()

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """An administrator's question; see Postgres.fetch."""
        return await self.postgres.fetch(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of the first row."""
        rows = await self.fetch(query, *arguments)
        return next(iter(rows[0].values())) if rows else None

    async def until(
        self, holds: Callable[[], Awaitable[object]], what: str, *, within: float, every: float = 0.05
    ) -> float:
        """Seconds until the condition held. While the database is away it does not hold.

        Raises: AssertionError, naming what did not come about.
        """
        since = time.monotonic()
        while time.monotonic() - since < within:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if await holds():
                    return time.monotonic() - since
            await asyncio.sleep(every)
        raise AssertionError(f"not within {within:g} s: {what}")

    async def until_value(self, query: str, *arguments: object, within: float) -> float:
        """The query's first value is true, or not zero."""

        async def holds() -> object:
            return await self.value(query, *arguments)

        return await self.until(holds, query, within=within)

    async def for_a_while(self, seconds: float) -> None:
        """A fault stays on for so long. For durations that are the fault itself, never to wait for something."""
        await asyncio.sleep(seconds)

    async def holders(self, members: Sequence[Member] | None = None) -> dict[str, str]:
        """Member's name → its present incarnation's id, for those with a lease."""
        wanted = {f":{member.pid}": member.name for member in members or self.members if member.alive}
        rows = await self.fetch(
            "SELECT p.id::text AS id, p.name FROM tocsin.replicas p JOIN tocsin.leases l ON l.holder = p.id"
            " WHERE l.ended_at IS NULL ORDER BY p.started_at"
        )
        return {name: row["id"] for row in rows for ending, name in wanted.items() if row["name"].endswith(ending)}
