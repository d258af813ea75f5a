"""How a command reaches the database: TOCSIN_DATABASE_URL, else the embedded server of TOCSIN_HOME.

An embedded server that does not run is started for the command and stopped after it, one that runs
is left running; where no hub
has ever run there is nothing to ask, and the command says so.
"""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from tocsin.domain.errors import BadInput, DatabaseUnavailable, NotFound, Refused, SchemaMismatch

if TYPE_CHECKING:
    from tocsin.engine.control import Control
    from tocsin.settings import Settings

T = TypeVar("T")
SUGGESTED_FROM: Final = 10_000
"""Names looked through for one that is near."""

PREFIX_LENGTH: Final = 8
"""So much of a run's id is enough, where it is enough."""


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
    if not has_data(settings.home):
        raise DatabaseUnavailable(
            f"no database: set TOCSIN_DATABASE_URL, or start a hub once with `tocsin up APP` "
            f"(TOCSIN_HOME is {settings.home})"
        )
    from tocsin.store.embedded import EmbeddedPostgres  # noqa: PLC0415

    async with await EmbeddedPostgres.ensure(settings.home, pg_bin=settings.pg_bin, passing=True) as postgres:
        yield postgres.dsn


def has_data(home: Path) -> bool:
    """Whether an embedded server was ever started there."""
    from tocsin.store.home import the_data_directory  # noqa: PLC0415

    return the_data_directory(home.expanduser().resolve()) is not None


@asynccontextmanager
async def opened() -> AsyncIterator["Control"]:
    """Every operation of a hub, on a database with this release's schema.

    Raises: whatever the operation does; a name that is not there comes with the nearest that is.
    """
    from tocsin.clock import SystemClock  # noqa: PLC0415
    from tocsin.engine.control import Control  # noqa: PLC0415
    from tocsin.settings import load_settings  # noqa: PLC0415
    from tocsin.store.database import Database  # noqa: PLC0415
    from tocsin.store.migrate import schema_state  # noqa: PLC0415

    settings = load_settings()
    async with reached(settings) as dsn:
        database = Database(dsn, pooler=settings.pooled, size=2)
        try:
            await database.open()
            async with database.session() as session:
                state = await schema_state(session.connection)
            if state.database < state.code:
                raise SchemaMismatch(
                    f"the database has schema {state.database}, this release needs {state.code}: run `tocsin migrate`"
                )
            control = Control(database=database, clock=SystemClock(), actor=actor())
            try:
                yield control
            except NotFound as error:
                raise await _with_nearest(control, error) from error
        finally:
            await database.close()


def actor() -> str:
    """Who does it, for the trail of a run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"


async def one_run(control: "Control", text: str) -> UUID:
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


async def _with_nearest(control: "Control", error: NotFound) -> Refused:
    if error.kind == "trigger":
        known = await control.triggers(limit=SUGGESTED_FROM)
    elif error.kind == "agent":
        known = await control.agents(limit=SUGGESTED_FROM)
    else:
        return error
    near = get_close_matches(error.name, [str(row["name"]) for row in known], n=1)
    return Refused(f"no {error.kind} {error.name!r}; did you mean {near[0]!r}?") if near else error
