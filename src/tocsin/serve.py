"""The process of one replica, from its first port to its exit code.

In order: the HTTP port, so that a second hub on it ends before it has touched anything; the database,
which ``up`` may have to start; its schema; the app's declarations; the replica. Leaving is the reverse
on one stack. The first signal begins the drain, each one after it hurries it on, the fourth gives up.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from tocsin.beside import Beside
from tocsin.clock import SystemClock
from tocsin.declared import App
from tocsin.domain.errors import BadInput, DatabaseUnavailable, Refused, StoreError
from tocsin.edges.http.front import Front
from tocsin.edges.http.health import Health
from tocsin.edges.http.hosting import ensure_key, hosted_api
from tocsin.edges.http.listener import Listener, bound, url_of
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.executors.from_app import executors_of
from tocsin.hub import Replica
from tocsin.settings import Settings, unknown_variables
from tocsin.store.database import Database
from tocsin.store.embedded import EmbeddedPostgres
from tocsin.store.migrate import migrate, schema_state
from tocsin.telemetry import Log
from tocsin.version import __version__

GIVE_UP_AT: Final = 4
"""So many signals end the process whatever is still in hand; the leases see to the rest."""

RELEASED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run. whole: also the database, its schema and the app's declarations, as ``up`` does.

    beside: apps whose agents run in processes of their own beside the hub, as (reference, app).
    lasts: drain by itself after this time; summed: the sum of the session is wanted in any case.
    """

    settings: Settings
    app: App | None = None
    whole: bool = False
    beside: tuple[tuple[str, App], ...] = ()
    lasts: timedelta | None = None
    summed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A replica at work, for whoever watches it. database: in words; since: the database's instant of start."""

    replica: Replica
    control: Control
    store: Database
    database: str
    url: str
    since: datetime
    lasts: timedelta | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended. released: runs given back, or left to others because they would not stop.

    summary: as of Control.summary, plus ``seconds`` and ``released``. stuck: tasks that ignore being
    cancelled, so that the event loop cannot be closed.
    """

    released: int = 0
    summary: dict[str, Any] | None = None
    stuck: int = 0


View = Callable[[Running], AbstractAsyncContextManager[object]]


class Process:
    """One replica with everything around it; ``run`` returns when it has drained.

    tell: takes a line that is for a person alone, and never for the log.
    """

    def __init__(
        self, order: Order, *, log: Log, view: View | None = None, tell: Callable[[str], None] = print
    ) -> None:
        self._order = order
        self._log = log
        self._tell = tell
        self._view: View = view or (lambda _running: nullcontext())
        self._leave = asyncio.Event()
        self._replica: Replica | None = None
        self._workers: Beside | None = None
        self._signals = 0
        self._interrupted = False

    async def run(self) -> Ended:
        """Raises: whatever keeps the replica from starting."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in one
        try:
            sock = bound(self._order.settings.http_bind)
        except Refused as error:
            raise Refused(f"{error}, such as TOCSIN_HTTP_BIND=127.0.0.1:0, which takes a free port") from error
        try:
            with sock, self._caught(task):
                ended = await self._run(sock)
                return replace(ended, stuck=await _stuck(task))
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            task.uncancel()
            return Ended()

    async def _run(self, sock: socket.socket) -> Ended:
        settings = self._order.settings
        self._warn_early()
        async with AsyncExitStack() as stack:
            front = Front(Health(__version__, self._why_unready), log=self._log)
            await stack.enter_async_context(Listener(sock, front))
            dsn, label = await self._database(stack)
            database = Database(dsn, pooler=settings.pooled, size=2)
            stack.push_async_callback(database.close)
            control = Control(database=database, clock=SystemClock(), actor=f"hub:{socket.gethostname()}:{os.getpid()}")
            await self._prepare(dsn, database, control)
            await ensure_key(control, settings, may_make=self._order.whole, tell=self._tell)
            watching = Watching(limit=settings.metrics_triggers, log=self._log)
            stack.push_async_callback(watching.close)
            replica = Replica(
                dsn=dsn,
                settings=settings,
                executors=executors_of(self._order.app, settings.slots, within=watching.within)
                if self._order.app
                else (),
                log=self._log,
                observer=watching.observer,
            )
            since = await control.now()
            begun = asyncio.get_running_loop().time()
            running = Running(
                replica=replica,
                control=control,
                store=database,
                database=label,
                url=url_of(sock),
                since=since,
                lasts=self._order.lasts,
            )
            async with self._view(running):
                async with (
                    replica,
                    self._agents(replica) as address,
                    self._beside(address),
                    hosted_api(front, dsn=dsn, replica=replica, watching=watching, log=self._log),
                ):
                    self._replica = replica
                    self._log.info("hub.ready", url=running.url, database=label, version=__version__)
                    await self._until_asked()
                    await replica.close_doors()
                return await self._ended(control, replica, since, asyncio.get_running_loop().time() - begun)

    @asynccontextmanager
    async def _agents(self, replica: Replica) -> AsyncIterator[str]:
        """The port for processes that run agents elsewhere, and its address; "" where it is off."""
        if self._order.settings.grpc_bind is None:
            yield ""
            return
        # Importing it takes longer than all else that a hub needs before its first run.
        from tocsin.edges.grpc.server import AgentServer  # noqa: PLC0415

        async with AgentServer(replica=replica, settings=self._order.settings, log=self._log) as server:
            yield server.address

    def _beside(self, address: str) -> Beside:
        """Raises: BadInput, when there is nothing that they could connect to."""
        apps = [ref for ref, _ in self._order.beside]
        if apps and not address:
            raise BadInput("--work: agent processes need a port to connect to, and TOCSIN_GRPC_BIND is off")
        self._workers = Beside(apps, hub=address, drain=self._order.settings.drain_timeout, log=self._log)
        return self._workers

    def _warn_early(self) -> None:
        """What is most likely a slip, and would otherwise go unnoticed."""
        for name in unknown_variables():
            self._log.warning("setting.unknown", name=name)
        app = self._order.app
        if app is not None and not app.agents and not app.triggers:
            self._log.warning("app.empty", app=app.source)

    async def _database(self, stack: AsyncExitStack) -> tuple[str, str]:
        """(DSN, its name for people, without a password)."""
        settings = self._order.settings
        if settings.database_url is not None:
            return settings.database_url, _label(settings.database_url)
        if not self._order.whole:
            raise DatabaseUnavailable(
                "`tocsin serve` needs TOCSIN_DATABASE_URL; for a database of its own there is `tocsin up APP`"
            )
        postgres = await EmbeddedPostgres.ensure(settings.home, pg_bin=settings.pg_bin)
        await stack.enter_async_context(postgres)
        keeping = asyncio.create_task(self._keep(postgres), name="postgres")
        stack.callback(keeping.cancel)
        return postgres.dsn, f"embedded in {settings.home}"

    async def _keep(self, postgres: EmbeddedPostgres) -> None:
        """The server is started again whenever it dies."""
        while True:
            try:
                await postgres.keep()
            except StoreError as error:
                self._log.error("postgres.failed", error=str(error))
                await SystemClock().sleep(1)

    async def _prepare(self, dsn: str, database: Database, control: Control) -> None:
        """The schema and the declarations are as this process needs them, or the lack of them is told.

        Raises: SchemaMismatch, when ``serve`` finds a schema that is behind.
        """
        app = self._order.app
        if not self._order.whole:
            async with database.session() as session:
                await schema_state(session.connection, behind_ok=False)
            await self._warn_of_undeclared(control)
            return
        state = await migrate(dsn, pooler=self._order.settings.pooled)
        if state.applied:
            self._log.info("schema.migrated", version=state.code, applied=state.applied)
        for declared in [*([app] if app is not None else []), *dict(self._order.beside).values()]:
            self._tell_declared(declared, await control.declare(declared))

    async def _warn_of_undeclared(self, control: Control) -> None:
        """An agent that the database does not know is never called, which is easily overlooked."""
        app = self._order.app
        if app is None:
            return
        known = {row["name"] for row in await control.agents(limit=100_000)}
        for name in sorted(set(app.agents) - known):
            self._log.warning("agent.undeclared", agent=name, advice=f"run `tocsin sync {app.source}`")

    def _tell_declared(self, app: App, declared: dict[str, Any]) -> None:
        counts = {
            f"{kind}_{what}": len(names)
            for kind, lists in declared.items()
            for what, names in lists.items()
            if names and what != "unchanged"
        }
        self._log.info("app.declared", app=app.source, agents=len(app.agents), triggers=len(app.triggers), **counts)

    async def _until_asked(self) -> None:
        """A signal has come, or the time given is over."""
        lasts = self._order.lasts
        with suppress(TimeoutError):
            async with asyncio.timeout(lasts.total_seconds() if lasts is not None else None):
                await self._leave.wait()
        self._leave.set()

    async def _ended(self, control: Control, replica: Replica, since: datetime, seconds: float) -> Ended:
        released = replica.released + len(replica.hands)
        if self._order.lasts is None and not self._order.summed:
            return Ended(released)
        try:
            summary = await control.summary(since)
        except StoreError as error:
            self._log.warning("hub.unsummed", error=str(error))
            return Ended(released)
        return Ended(released, {"seconds": round(seconds, 3), "released": released, **summary})

    # --- readiness and signals

    def _why_unready(self) -> str | None:
        if self._leave.is_set() or (self._replica is not None and self._replica.draining):
            return "draining"
        if self._replica is None:
            return "starting"
        return None if self._replica.ready else "a loop keeps failing; the log says which"

    @contextmanager
    def _caught(self, task: "asyncio.Task[Any]") -> Iterator[None]:
        """SIGTERM and SIGINT are ours; a terminal that hangs up is no reason to leave."""
        loop = asyncio.get_running_loop()
        caught = (signal.SIGTERM, signal.SIGINT)
        for number in caught:
            loop.add_signal_handler(number, self._on_signal, task)
        loop.add_signal_handler(signal.SIGHUP, self._log.info, "terminal.gone")
        try:
            yield
        finally:
            for number in (*caught, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_signal(self, task: "asyncio.Task[Any]") -> None:
        self._signals += 1
        if self._signals >= GIVE_UP_AT:
            os._exit(RELEASED)
        if self._replica is None:
            if self._signals == 1:
                self._interrupted = True
                task.cancel()
        elif self._leave.is_set():
            self._log.warning("hub.hurried", signals=self._signals, in_hand=len(self._replica.hands))
            self._replica.hurry()
            if self._workers is not None:
                self._workers.hurry()
        else:
            self._leave.set()


async def _stuck(own: "asyncio.Task[Any]") -> int:
    """How many tasks live on though everything has ended and they were cancelled."""
    others = asyncio.all_tasks() - {own}
    for task in others:
        task.cancel()
    if not others:
        return 0
    _, living = await asyncio.wait(others, timeout=1)
    return len(living)


def _label(dsn: str) -> str:
    """The database as people name it: host and name, never the password."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        # Whoever connects says so, in words of ours.
        return "TOCSIN_DATABASE_URL"
    if not parts.scheme:
        return "TOCSIN_DATABASE_URL"
    host = parts.netloc.rpartition("@")[2] or "local socket"
    return f"{host}{parts.path}"
