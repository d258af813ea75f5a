"""A PostgreSQL of a chaos run's own: durable, stopped in every way a server can be, and started again."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import asyncpg

from tocsin.store.embedded import EmbeddedPostgres

AWAY: Final = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
"""What a session of the harness may raise while the server is away, or goes away under it."""

Ending = Literal["fast", "immediate", "kill"]
"""kill: the postmaster gets SIGKILL, and its children notice."""

SETTINGS: Final = {"autovacuum_naptime": "5s", "log_min_messages": "fatal", "max_connections": "120"}
_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}


class Postgres:
    """The server of one home directory. dsn: over its Unix socket, the same after every restart."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._settings = {**SETTINGS, **(settings or {})}
        self._hold: EmbeddedPostgres | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._hold is not None:
            await self._hold.stop(grace=2)

    @property
    def hold(self) -> EmbeddedPostgres:
        assert self._hold is not None, "the server was never started"
        return self._hold

    @property
    def dsn(self) -> str:
        return self.hold.dsn

    @property
    def socket(self) -> str:
        """The path of its socket, for a proxy's upstream."""
        return f"{self.hold._cluster.socket}/.s.PGSQL.5432"

    @property
    def log(self) -> Path:
        return self.hold.log

    @property
    def pid(self) -> int | None:
        return self.hold.pid

    async def start(self) -> None:
        """The server answers. Idempotent."""
        before = self._hold
        self._hold = await EmbeddedPostgres.ensure(self._home, settings=self._settings)
        if before is not None:
            await before.stop()

    async def stop(self, how: Ending = "fast") -> None:
        """The postmaster is gone."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, _SIGNALS[how])
        while _lives(pid):  # noqa: ASYNC110 — the reaper is a thread
            await asyncio.sleep(0.01)

    async def restart(self, how: Ending = "fast") -> None:
        await self.stop(how)
        await self.start()

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """An administrator's question, on a session of its own."""
        connection = await asyncpg.connect(self.dsn, timeout=5, server_settings={"application_name": "chaos"})
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments, timeout=20)]
        finally:
            await connection.close(timeout=2)


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
