"""Hints between sessions. A hint may be lost, late or doubled: loops look for themselves besides.

One session listens. It is looked after: a session that died is opened again with back-off, and one
that lies half-open is found because the hub's regular look goes over it: LISTEN itself never notices.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tocsin.domain.errors import DatabaseUnavailable
from tocsin.store.database import Connection, Database, Session, connect, translated

CHANNEL: Final = "tocsin"
ANSWER_WITHIN: Final = 3.0
"""Seconds after which a listener that does not answer is held to be half-open."""

Hear = Callable[[str], None]


class Signals:
    """Calls ``hear`` with each hint's payload.

    ``runs``, ``later``, ``begun``, ``cancel``, ``triggers``, ``events``, ``keys``.
    """

    def __init__(self, *, database: Database, hear: Hear) -> None:
        self._database = database
        self._hear = hear
        self._connection: Connection | None = None

    @property
    def listening(self) -> bool:
        """Whether hints arrive; without them the hub polls."""
        return self._connection is not None and not self._connection.is_closed()

    async def session(self) -> Session | None:
        """The listening session, opened again if need be; None behind a pooler, where hints cannot arrive.

        Whoever uses it and gets no answer calls ``close``: that is how a half-open session is found.

        Raises: DatabaseUnavailable.
        """
        if self._database.pooler:
            return None
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            await self._open()
        return Session(self._connection, self._database)

    async def _open(self) -> None:
        connection = await connect(
            self._database.dsn, pooler=False, application_name="tocsin-listen", answer_within=ANSWER_WITHIN
        )
        try:
            with translated("LISTEN"):
                await connection.add_listener(CHANNEL, self._on_notification)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._hear(str(payload))

    async def close(self) -> None:
        """The listening session is gone, politely if it answers within a second."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(1):
                with translated("the listener's end"):
                    await connection.close()
        except (TimeoutError, DatabaseUnavailable):
            with suppress(OSError):
                connection.terminate()
