"""Brings a database to this release's schema, forward only.

Files are ``NNNN_{expand|contract}_what.sql``. All that are missing run in one transaction under a
transaction-level advisory lock, so that two migrators, or a migrator that dies, leave no half schema.
Each file's checksum is kept; a file that changed after it ran, or a database newer than this code,
is refused.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import asyncpg

from tocsin.domain.errors import SchemaMismatch
from tocsin.store.database import connect, translated

LOCK_KEY: Final = 0x746F6373696E  # "tocsin"
MOST_SECONDS: Final = 6 * 3600.0
"""A migration of a large table may take its time."""

_NAME: Final = re.compile(r"^(\d{4})_(?:expand|contract)_\w+\.sql$")

_BOOTSTRAP: Final = """
CREATE SCHEMA IF NOT EXISTS tocsin;
CREATE TABLE IF NOT EXISTS tocsin.migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """database: the newest version applied, 0 for none; code: this release's; applied: names just run."""

    database: int
    code: int
    applied: tuple[str, ...] = ()


@cache
def migrations() -> tuple[Migration, ...]:
    """This release's migrations, oldest first, numbered from 1 without a gap."""
    found = []
    for entry in resources.files("tocsin.store").joinpath("migrations").iterdir():
        match = _NAME.match(entry.name)
        if match:
            found.append(Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise SchemaMismatch("migration files are not numbered from 0001 without a gap")
    return tuple(found)


async def migrate(dsn: str, *, pooler: bool = False, lock_timeout: str = "10s") -> SchemaState:
    """The database has this release's schema. Idempotent; safe to run from many processes at once.

    Raises: SchemaMismatch, if the database is newer or a file changed after it ran;
    DatabaseUnavailable, if it cannot be reached or a lock is not had within ``lock_timeout``.
    """
    connection = await connect(dsn, pooler=pooler, application_name="tocsin-migrate", answer_within=MOST_SECONDS)
    try:
        with translated("migrate"):
            async with connection.transaction():
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'")
                await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
                return await _bring_forward(connection)
    finally:
        await connection.close()


async def _bring_forward(connection: "asyncpg.Connection[asyncpg.Record]") -> SchemaState:
    if await connection.fetchval("SELECT to_regclass('tocsin.migrations')") is None:
        await connection.execute(_BOOTSTRAP)
    rows = await connection.fetch("SELECT version, name, checksum FROM tocsin.migrations ORDER BY version")
    check_fit([(row["version"], row["name"], row["checksum"]) for row in rows], behind_ok=True)
    missing = migrations()[len(rows) :]
    for migration in missing:
        await connection.execute(migration.text)
        await connection.execute(
            "INSERT INTO tocsin.migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
    return SchemaState(len(rows), len(migrations()), tuple(migration.name for migration in missing))


async def schema_state(connection: "asyncpg.Connection[asyncpg.Record]", *, behind_ok: bool = True) -> SchemaState:
    """How far the database is; nothing is changed.

    Raises: SchemaMismatch, as ``migrate`` does; also where it is behind, if that is not ok.
    """
    rows: list[asyncpg.Record] = []
    with translated("schema_state"):
        if await connection.fetchval("SELECT to_regclass('tocsin.migrations')") is not None:
            rows = await connection.fetch("SELECT version, name, checksum FROM tocsin.migrations ORDER BY version")
    check_fit([(row["version"], row["name"], row["checksum"]) for row in rows], behind_ok=behind_ok)
    return SchemaState(len(rows), len(migrations()))


def check_fit(applied: list[tuple[int, str, str]], *, behind_ok: bool) -> None:
    """The applied migrations are this release's, or the first of them.

    Raises: SchemaMismatch.
    """
    ours = migrations()
    if len(applied) > len(ours):
        raise SchemaMismatch(
            f"the database has schema {applied[-1][0]}, this release knows {len(ours)}: upgrade tocsin to use it"
        )
    for (version, name, checksum), migration in zip(applied, ours, strict=False):
        if checksum != migration.checksum:
            raise SchemaMismatch(f"migration {version} ({name}) was changed after it ran: restore the file as released")
    if not behind_ok and len(applied) < len(ours):
        raise SchemaMismatch(
            f"the database has schema {len(applied)}, this release needs {len(ours)}: run `tocsin migrate`"
        )
