"""What the doctor and the live view ask of a database. Nothing is written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tocsin.store.database import Database, Session, connect, translated

CHANNEL: Final = "tocsin_doctor"
HEARD_WITHIN: Final = 1.0
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Between:
    """What stands between us and the server. pooled: something does; shared: one server process served
    two of our sessions; hears: a notification came back."""

    pooled: bool
    shared: bool
    hears: bool

    @property
    def by_transaction(self) -> bool:
        return self.shared or not self.hears


class Admin:
    """Looks at one database; each look is a session of its own, so that it works in every state."""

    def __init__(self, dsn: str, *, pooler: bool) -> None:
        self._database = Database(dsn, pooler=pooler)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """One session that a pooler of any kind accepts.

        Raises: DatabaseUnavailable, BadInput.
        """
        connection = await connect(self._database.dsn, pooler=True, application_name="tocsin-doctor")
        try:
            yield Session(connection, self._database)
        finally:
            await connection.close(timeout=2)

    async def probe(self) -> dict[str, Any]:
        """Version, privileges, durability, connections and the database's instant."""
        async with self.session() as session:
            row = await session.fetchrow("probe")
        assert row is not None  # a SELECT without FROM has one row
        return dict(row)

    async def between(self) -> Between:
        """Whether sessions are really ours."""
        async with self.session() as first, self.session() as second:
            pooled = await _pid(first) != first.connection.get_server_pid()
            shared = False
            for _ in range(_ROUNDS):
                before = await _pid(first)
                async with second.transaction():
                    held = await _pid(second)
                    shared = shared or held == before or await _pid(first) != before
            return Between(pooled, shared, await _hears(first))


async def upcoming(database: Database, *, limit: int) -> list[dict[str, Any]]:
    """The triggers that are due next, soonest first."""
    return [dict(row) for row in await database.fetch("upcoming", limit=limit)]


async def _pid(session: Session) -> int:
    row = await session.fetchrow("backend")
    assert row is not None  # a SELECT without FROM has one row
    return int(row["pid"])


async def _hears(session: Session) -> bool:
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    with translated("LISTEN"):
        await session.connection.add_listener(CHANNEL, hear)
    try:
        await session.fetchrow("notify_self", channel=CHANNEL)
        async with asyncio.timeout(HEARD_WITHIN):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        with translated("UNLISTEN"):
            await session.connection.remove_listener(CHANNEL, hear)
    return True
