"""A primary and its synchronous standby: what is acknowledged is on both."""

from types import TracebackType
from typing import Final, Self

from tests.chaos.faults.server import Place, Server

STANDBY: Final = "standby"


class Pair:
    """Enter it to have both, the standby in step. dsn: names both, and means the one that takes writes."""

    def __init__(self) -> None:
        self._place = Place()
        self.primary = Server(self._place, "primary")
        self.standby: Server = self.primary

    async def __aenter__(self) -> Self:
        try:
            await self.primary.initialise()
            await self.primary.start()
            self.standby = await self.primary.copy(STANDBY)
            await self.standby.start()
            # After the copy: a standby that is promoted must not wait for a standby of its own.
            await self.primary.fetch(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
            await self.primary.fetch("SELECT pg_reload_conf()")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in (self.standby, self.primary):
            if server.alive:
                await server.kill()
        self._place.__exit__(kind, error, traceback)

    @property
    def dsn(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql://tocsin@{hosts}/postgres?target_session_attrs=read-write"

    async def in_step(self) -> bool:
        """Whether a commit is now acknowledged only once it is on both."""
        return bool(
            await self.primary.value(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
            )
        )
