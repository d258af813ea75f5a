"""How a command reaches a hub: through its API at TOCSIN_URL (or ``--url``), else by its database.

The database is that of TOCSIN_DATABASE_URL, else the embedded server of TOCSIN_HOME. An embedded server that does not
run is started for the command and stopped after it, one that runs is left running; where no hub has ever run there is
nothing to ask, and the command says so.
"""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from tocsin.cli.exits import say
from tocsin.domain.errors import BadInput, DatabaseUnavailable, NotFound, Refused, TocsinError

if TYPE_CHECKING:
    from tocsin.cli.operations import Operations
    from tocsin.engine.control import Control
    from tocsin.settings import Settings

T = TypeVar("T")
SUGGESTED_FROM: Final = 10_000
"""Names looked through for one that is near."""

PREFIX_LENGTH: Final = 8
"""So much of a run's id is enough, where it is enough."""

ANSWERED_WITHIN: Final = 15.0
"""Seconds for what a hub elsewhere is asked, with all tries: a person waits."""

UNEXPLAINED: Final = 2.0
"""Seconds that a person waits before being told why."""

GIVEN_URL: Final[ContextVar[str | None]] = ContextVar("GIVEN_URL", default=None)
"""What ``--url`` said."""


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The work is done, on an event loop of its own; Ctrl-C cancels it first."""
    import asyncio  # noqa: PLC0415

    return asyncio.run(work)


@asynccontextmanager
async def reached(settings: "Settings") -> AsyncIterator[str]:
    """The DSN of a database that is there as long as the block runs.

    Raises: DatabaseUnavailable, EmbeddedFailed.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    if data_of(settings.home) is None:
        raise DatabaseUnavailable(
            f"no database: set TOCSIN_DATABASE_URL, or start a hub once with `tocsin up APP` "
            f"(TOCSIN_HOME is {settings.home})"
        )
    from tocsin.store.embedded import EmbeddedPostgres  # noqa: PLC0415

    async with await EmbeddedPostgres.ensure(settings.home, pg_bin=settings.pg_bin, passing=True) as postgres:
        yield postgres.dsn


def data_of(home: Path) -> Path | None:
    """Where an embedded server has its data; None where none was ever started."""
    from tocsin.store.home import the_data_directory  # noqa: PLC0415

    return the_data_directory(home.expanduser().resolve())


def url_of(settings: "Settings") -> str | None:
    """Where the hub is that commands speak to; None where they use the database."""
    return GIVEN_URL.get() or settings.url


@asynccontextmanager
async def opened() -> AsyncIterator["Operations"]:
    """Every operation of a hub, wherever it is.

    Raises: whatever the operation does; a name that is not there comes with the nearest that is.
    """
    from tocsin.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    url = url_of(settings)
    async with elsewhere(url) if url is not None else by_database(settings) as operations:
        try:
            yield operations
        except NotFound as error:
            raise await _with_nearest(operations, error) from error


@asynccontextmanager
async def elsewhere(url: str) -> AsyncIterator["Operations"]:
    """Operations of the hub at that URL. Raises: Refused, where the extra is missing."""
    try:
        from tocsin.cli.elsewhere import Elsewhere  # noqa: PLC0415
        from tocsin.sdk.client import Client  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "httpx2":
            raise
        raise Refused(
            "TOCSIN_URL names a hub elsewhere, which needs an HTTP client: pip install 'tocsin[client]'"
        ) from None
    async with Client(url, timeout=ANSWERED_WITHIN, again=_impatience()) as client:
        yield Elsewhere(client)


def _impatience() -> Callable[[TocsinError], None]:
    """Says once why it takes so long, where it does."""
    from tocsin.clock import SystemClock  # noqa: PLC0415

    clock = SystemClock()
    begun, told = clock.monotonic(), False

    def again(error: TocsinError) -> None:
        nonlocal told
        if not told and clock.monotonic() - begun > UNEXPLAINED:
            told = True
            say(f"{error}; trying for {ANSWERED_WITHIN:g} s")

    return again


def need_database(command: str) -> None:
    """Raises: Refused, where a hub elsewhere is named for a command that works on the database itself."""
    from tocsin.settings import load_settings  # noqa: PLC0415

    if url_of(load_settings()) is not None:
        raise Refused(
            f"`tocsin {command}` works on the database itself and not through TOCSIN_URL: unset it, and set "
            "TOCSIN_DATABASE_URL, or run it where the hub is"
        )


@asynccontextmanager
async def by_database(settings: "Settings") -> AsyncIterator["Control"]:
    """Operations on a database with this release's schema. Raises: StoreError."""
    from tocsin.clock import SystemClock  # noqa: PLC0415
    from tocsin.engine.control import Control  # noqa: PLC0415
    from tocsin.store.database import Database  # noqa: PLC0415
    from tocsin.store.migrate import schema_state  # noqa: PLC0415

    async with reached(settings) as dsn:
        database = Database(dsn, pooler=settings.pooled, size=2)
        try:
            await database.open()
            async with database.session() as session:
                await schema_state(session.connection, behind_ok=False)
            yield Control(database=database, clock=SystemClock(), actor=actor())
        finally:
            await database.close()


def actor() -> str:
    """Who does it, for the trail of a run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"


async def one_run(control: "Operations", text: str) -> UUID:
    """The run whose id is this, or alone begins with it.

    Raises: BadInput, NotFound.
    """
    digits = text.replace("-", "").lower()
    if not PREFIX_LENGTH <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise BadInput(
            f"run id {text!r}: must be a UUID, or {PREFIX_LENGTH} characters or more of its beginning; "
            "`tocsin run list` shows them"
        )
    first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    if first == last:
        return first
    before = UUID(int=min(last.int + 1, (1 << 128) - 1))
    found = [row["id"] for row in await control.runs(limit=2, before=before) if row["id"] >= first]
    if not found:
        raise NotFound("run", text)
    if len(found) > 1:
        raise BadInput(f"run id {text!r}: several runs begin with it; give more of it")
    return UUID(str(found[0]))


async def _with_nearest(control: "Operations", error: NotFound) -> Refused:
    if str(error) != str(NotFound(error.kind, error.name)):
        return error  # it says more than where to look
    if error.kind == "trigger":
        known = await control.triggers(limit=SUGGESTED_FROM)
    elif error.kind == "agent":
        known = await control.agents(limit=SUGGESTED_FROM)
    else:
        return error
    near = get_close_matches(error.name, [str(row["name"]) for row in known], n=1)
    return Refused(f"no {error.kind} {error.name!r}; did you mean {near[0]!r}?") if near else error
