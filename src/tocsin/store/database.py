"""The pool, transactions, and the one place where the driver's errors become ours."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, Final, TypeAlias

import asyncpg

from tocsin.domain.errors import BadInput, Contended, DatabaseUnavailable, StatementRefused
from tocsin.store.hosts import connect_to_first, unreadable
from tocsin.store.statements import Statements, load

# The driver's classes are generic for type checkers only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Record: TypeAlias = asyncpg.Record

CONNECT_TIMEOUT: Final = 5.0
STATEMENT_TIMEOUT: Final = 30.0

# The engine's statements walk known indexes. A plan made while a table was empty must not turn into
# a scan when it has grown, and one made from fresh statistics must not flip to a walk over everything,
# so a session is told to keep to indexes and to plan each statement once.
_SESSION: Final = {
    "timezone": "UTC",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
}

_UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresSystemError,
)

_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
"""Of these, what speaks of a session's way to the server, and so of the way of every other."""

_VALUE: Final = re.compile(r"[:\"']")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """The driver's errors leave as ours, naming the statement.

    Raises: DatabaseUnavailable, for what another try may mend; Contended, for a unique key that was
    taken first; StatementRefused, for what no try can mend.
    """
    try:
        yield
    except _UNREACHABLE as error:
        raise DatabaseUnavailable(f"the database did not answer {what}: {_line(error)}") from error
    except asyncpg.UniqueViolationError as error:
        raise Contended(f"another session was first at {what}: {_line(error)}") from error
    except (asyncpg.PostgresError, asyncpg.exceptions.DataError) as error:
        raise StatementRefused(f"the database refused {what}: {_without_values(error)}") from error


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _without_values(error: BaseException) -> str:
    """Its line; where a value is at fault without what follows a colon or a quote: that is the value."""
    if isinstance(error, asyncpg.exceptions.DataError):
        return f"{_VALUE.split(_line(error), maxsplit=1)[0].strip()} ({type(error).__name__})"
    return _line(error)


def session_settings(application_name: str, *, pooler: bool) -> dict[str, str]:
    """Start-up parameters of a session; a transaction pooler would refuse or mix up all but the name."""
    return {"application_name": application_name} | ({} if pooler else _SESSION)


async def connect(
    dsn: str, *, pooler: bool, application_name: str, answer_within: float = STATEMENT_TIMEOUT
) -> Connection:
    """One session of our own, to be closed by the caller. answer_within: seconds for each statement.

    Raises: DatabaseUnavailable; BadInput, for a DSN that cannot be read.
    """
    with translated("a connection"):
        try:
            return await connect_to_first(
                dsn,
                timeout=CONNECT_TIMEOUT,
                command_timeout=answer_within,
                statement_cache_size=0 if pooler else 256,
                server_settings=session_settings(application_name, pooler=pooler),
            )
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise BadInput(unreadable(dsn, error)) from error


async def _nothing(connection: object) -> None:
    """Nothing needs resetting: a step leaves no session state, and a reset would be a round trip each."""


class Database:
    """A pool of sessions and the statements that run on them.

    pooler: a transaction pooler stands in between, so nothing is prepared and nothing is listened to.
    calls: statements sent so far, for those who watch the cost. generation: sessions opened so far. waiting: for one.
    lost: called when a session has ended, whoever ended it.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pooler: bool = False,
        size: int = 6,
        statements: Statements | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.dsn = dsn
        self.pooler = pooler
        self.statements = statements or load()
        self.calls = 0
        self.generation = 0
        self.waiting = 0
        self.size = size
        self._lost = lost
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._gate = asyncio.Lock()
        self._trusted: set[int] = set()
        self._returning: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """The pool stands and the database has answered.

        Raises: DatabaseUnavailable, BadInput.
        """
        async with self._gate:
            if self._pool is not None:
                return
            with translated("a connection"):
                try:
                    # The stubs want a connector to repeat every keyword; ours hands them on.
                    self._pool = await asyncpg.create_pool(  # type: ignore[call-overload]
                        self.dsn,
                        connect=connect_to_first,
                        min_size=1,
                        max_size=self.size,
                        timeout=CONNECT_TIMEOUT,
                        command_timeout=STATEMENT_TIMEOUT,
                        max_inactive_connection_lifetime=0,
                        init=self._count,
                        reset=_nothing,
                        statement_cache_size=0 if self.pooler else 256,
                        server_settings=session_settings("tocsin", pooler=self.pooler),
                    )
                except (ValueError, asyncpg.ClientConfigurationError) as error:
                    raise BadInput(unreadable(self.dsn, error)) from error

    async def _count(self, connection: Any) -> None:
        self.generation += 1
        self._trusted.add(connection.get_server_pid())
        if self._lost is not None:
            lost = self._lost
            connection.add_termination_listener(lambda _: lost())

    async def rehearse(self, names: Sequence[str], *, sessions: int) -> None:
        """So many sessions are open and have planned these statements, each sent with nothing to do.

        The first burst is not the moment to connect and to plan. Behind a pooler there is nothing to keep.
        """
        if self.pooler:
            return
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(self.session()) for _ in range(sessions)]
            # All of them have ended before a session goes back, whatever became of one.
            parts = (_rehearse(session, names, self.statements) for session in held)
            for failure in await asyncio.gather(*parts, return_exceptions=True):
                if failure is not None:
                    raise failure

    async def close(self) -> None:
        """Every session is closed; the ones that do not answer within two seconds are cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(*self._returning)
                await pool.close()
        except (TimeoutError, *_UNREACHABLE):
            pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Session"]:
        """A session for one step. It goes back whatever happens.

        Raises: DatabaseUnavailable.
        """
        if self._pool is None:
            await self.open()
        pool = self._pool
        if pool is None:  # closed in between
            raise DatabaseUnavailable("the database pool is closed")
        with translated("a session"):
            connection = await self._acquire(pool)
        try:
            yield Session(connection, self)
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, _LOST):
                # Where one got no answer the others may lie half-open as well: they need not each find out.
                self._trusted.clear()
            raise
        finally:
            self._give_back(pool, connection)

    def _give_back(self, pool: Any, connection: Any) -> None:
        """The session is on its way to the pool. Nobody waits for that, and no cancellation can stop it."""
        task = asyncio.get_running_loop().create_task(_release(pool, connection))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    @property
    def opened(self) -> int:
        """Sessions that are open now."""
        return self._pool.get_size() if self._pool is not None else 0

    @property
    def in_use(self) -> int:
        return self.opened - self._pool.get_idle_size() if self._pool is not None else 0

    async def _acquire(self, pool: Any) -> Any:
        """A session that was opened since the last one was lost."""
        self.waiting += 1
        try:
            return await self._trusted_one(pool)
        finally:
            self.waiting -= 1

    async def _trusted_one(self, pool: Any) -> Any:
        while True:
            # One that lies idle is there at once; a limit would cost a task of its own.
            connection = await pool.acquire(timeout=None if pool.get_idle_size() else CONNECT_TIMEOUT)
            if connection.get_server_pid() in self._trusted:
                return connection
            connection.terminate()
            await pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Session"]:
        """A session inside a transaction: committed when the block ends, rolled back when it raises."""
        async with self.session() as session, session.transaction():
            yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Session"]:
        """A session whose statements all see what the first of them saw. It only reads."""
        async with self.session() as session, session.transaction(isolation="repeatable_read", readonly=True):
            yield session

    async def fetch(self, name: str, /, **values: object) -> list[Record]:
        async with self.session() as session:
            return await session.fetch(name, **values)

    async def fetchrow(self, name: str, /, **values: object) -> Record | None:
        async with self.session() as session:
            return await session.fetchrow(name, **values)


class Session:
    """One connection, speaking in named statements. Not shared between tasks."""

    def __init__(self, connection: Any, database: Database) -> None:
        self.connection = connection
        self._database = database
        self.instant: datetime | None = None
        """What a transaction that changes triggers goes by: when it held its locks, not when it began."""

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[None]:
        """options: of the driver's transaction, such as its isolation."""
        with translated("a transaction"):
            async with self.connection.transaction(**options):
                self._database.calls += 2
                yield

    async def fetch(self, name: str, /, **values: object) -> list[Record]:
        """The rows of a named statement.

        Raises: DatabaseUnavailable, StatementRefused.
        """
        text, arguments = self._bound(name, values)
        with translated(name):
            rows: list[Record] = await self.connection.fetch(text, *arguments)
            return rows

    async def fetchrow(self, name: str, /, **values: object) -> Record | None:
        text, arguments = self._bound(name, values)
        with translated(name):
            row: Record | None = await self.connection.fetchrow(text, *arguments)
            return row

    def _bound(self, name: str, values: dict[str, object]) -> tuple[str, Sequence[object]]:
        statement = self._database.statements[name]
        self._database.calls += 1
        return statement.text, [values[parameter] for parameter in statement.parameters]


async def _release(pool: Any, connection: Any) -> None:
    try:
        await pool.release(connection, timeout=2)
    except (TimeoutError, *_UNREACHABLE):
        # The pool may have let go of it already.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()


async def _rehearse(session: Session, names: Sequence[str], statements: Statements) -> None:
    for name in names:
        # NULL is no rows for an array, but no limit for a LIMIT.
        values: dict[str, object] = dict.fromkeys(statements[name].parameters)
        await session.fetch(name, **(values | {"batch": 0, "free": 0}))
