"""A real PostgreSQL for every test that asks for one.

One server for the session, tuned for speed (a crash of the machine may lose it), a template
migrated once, and for each test a database cloned from it. ``durable`` is a server of the
test's own that keeps its promises, for tests that kill it.

TOCSIN_TEST_DATABASE_URL   a superuser's DSN: run on that server instead
TOCSIN_TEST_PG_BIN         run on these programs instead of the first that are found
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store.embedded import EmbeddedPostgres

# A shell that starts us in the background has SIGINT ignored, and an ignored signal is inherited: the
# processes that tests interrupt would not notice. A handler of ours is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

MEMORY = Path("/dev/shm")
MINE = f"tocsin-test-{os.geteuid()}-"
ROOM = 1_000_000_000
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server on which tests make databases, and the session's connection for doing so."""

    dsn: str
    admin: "asyncpg.Connection[asyncpg.Record]"

    def dsn_of(self, database: str) -> str:
        return urlsplit(self.dsn)._replace(path=f"/{database}").geturl()

    @asynccontextmanager
    async def database(self, template: str = "template0") -> AsyncIterator[str]:
        """The DSN of a new database, which is gone afterwards whoever is still connected."""
        name = f"tocsin_test_{secrets.token_hex(6)}"
        await self.admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield self.dsn_of(name)
        finally:
            await self.admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def server(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The session's server."""
    given = os.environ.get("TOCSIN_TEST_DATABASE_URL")
    if given:
        async with _administered(given) as server:
            yield server
        return
    programs = os.environ.get("TOCSIN_TEST_PG_BIN")
    async with (
        _place_in_memory() as memory,
        await EmbeddedPostgres.ensure(
            memory or tmp_path_factory.mktemp("server"), pg_bin=programs, settings=FAST
        ) as postgres,
        _administered(postgres.dsn) as server,
    ):
        yield server


@pytest.fixture(scope="session")
async def template(server: Server) -> AsyncIterator[str]:
    """The name of a database with this release's schema and nothing in it."""
    async with server.database() as dsn:
        await _migrate(dsn)
        yield urlsplit(dsn).path.removeprefix("/")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own that only its user may enter, in memory where there is room."""
    if not _roomy(MEMORY):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix=f"{MINE}quick-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
async def dsn(server: Server, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of the test's own."""
    async with server.database(template) as dsn:
        yield dsn


@pytest.fixture
async def empty_dsn(server: Server) -> AsyncIterator[str]:
    """The DSN of a database of the test's own, without a schema."""
    async with server.database() as dsn:
        yield dsn


@pytest.fixture
async def durable(anyio_backend: str, tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A migrated server of the test's own, in ``tmp_path / "home"``, that loses nothing when it is killed."""
    programs = os.environ.get("TOCSIN_TEST_PG_BIN")
    async with await EmbeddedPostgres.ensure(tmp_path / "home", pg_bin=programs) as postgres:
        await _migrate(postgres.dsn)
        yield postgres


@asynccontextmanager
async def _place_in_memory() -> AsyncIterator[Path | None]:
    """A directory in memory if there is room: a clone is some 300 files, which takes a slow disk 0.3 s."""
    if not _roomy(MEMORY):
        yield None
        return
    for left_behind in MEMORY.glob(f"{MINE}*"):
        await _remove_if_unused(left_behind)
    place = Path(tempfile.mkdtemp(prefix=MINE, dir=MEMORY))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _roomy(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM


async def _remove_if_unused(home: Path) -> None:
    """What a killed session left behind is gone, its server included; a living session's is left alone."""
    try:
        with (home / "attached.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    # The last to leave stops the server.
    with contextlib.suppress(EmbeddedFailed):
        await (await EmbeddedPostgres.ensure(home)).stop()
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def _administered(dsn: str) -> AsyncIterator[Server]:
    admin = await asyncpg.connect(dsn)
    try:
        yield Server(dsn, admin)
    finally:
        await admin.close()


async def _migrate(dsn: str) -> None:
    from tocsin.store.migrate import migrate  # noqa: PLC0415 — a fault there must not stop the other floors' tests

    await migrate(dsn)
