"""Migrations: forward only, whole or not at all, by however many at once."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.engine.building import a_replica, eventually, no_agent
from tocsin.domain.errors import DatabaseUnavailable, SchemaMismatch
from tocsin.store.migrate import LOCK_KEY, SchemaState, migrate, migrations, schema_state

NEWEST = len(migrations())
MIGRATOR = "import asyncio, sys; from tocsin.store.migrate import migrate; asyncio.run(migrate(sys.argv[1]))"


@pytest.fixture
async def admin(empty_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(empty_dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def tables(admin: "asyncpg.Connection[asyncpg.Record]") -> set[str]:
    rows = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'tocsin'")
    return {row["tablename"] for row in rows}


async def test_a_fresh_database_gets_every_migration_once(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    assert await schema_state(admin) == SchemaState(0, NEWEST)
    assert await migrate(empty_dsn) == SchemaState(0, NEWEST, tuple(migration.name for migration in migrations()))
    assert {"agents", "triggers", "runs", "past_transitions", "leases", "migrations"} <= await tables(admin)
    assert await migrate(empty_dsn) == SchemaState(NEWEST, NEWEST)
    assert await schema_state(admin) == SchemaState(NEWEST, NEWEST)


async def test_of_many_migrators_at_once_one_migrates(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    states = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(len(state.applied) for state in states) == [0, 0, 0, NEWEST]
    assert await admin.fetchval("SELECT count(*) FROM tocsin.migrations") == NEWEST


async def test_a_migrator_that_is_killed_leaves_nothing(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await admin.execute("""
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET client_connection_check_interval = ''100ms''', current_database());
        END $$;
        CREATE FUNCTION public.stall() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END';
        CREATE EVENT TRIGGER stall ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.stall();
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATOR, empty_dsn)

    async def sessions(wait: str = "%") -> int:
        count = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tocsin-migrate' "
            "AND datname = current_database() AND coalesce(wait_event, '') LIKE $1",
            wait,
        )
        return int(count)

    async def stalls() -> bool:
        return await sessions("PgSleep") == 1

    async def is_gone() -> bool:
        return await sessions() == 0

    await eventually(stalls, what="the migrator in the middle of its work")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await eventually(is_gone, what="the end of the killed migrator's session")
    assert await tables(admin) == set()
    assert await admin.fetchval("SELECT to_regnamespace('tocsin')") is None
    await admin.execute("DROP EVENT TRIGGER stall")
    assert len((await migrate(empty_dsn)).applied) == NEWEST


async def test_a_file_that_changed_after_it_ran_is_refused(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await migrate(empty_dsn)
    await admin.execute("UPDATE tocsin.migrations SET checksum = 'another' WHERE version = 1")
    for refused in (migrate(empty_dsn), schema_state(admin)):
        with pytest.raises(SchemaMismatch, match=r"migration 1 \(0001_expand_hub.sql\) was changed after it ran"):
            await refused


async def test_a_database_newer_than_the_code_is_refused(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await migrate(empty_dsn)
    await admin.execute("INSERT INTO tocsin.migrations (version, name, checksum) VALUES ($1, 'x', 'y')", NEWEST + 1)
    with pytest.raises(SchemaMismatch, match=f"has schema {NEWEST + 1}, this release knows {NEWEST}: upgrade tocsin"):
        await migrate(empty_dsn)
    with pytest.raises(SchemaMismatch, match="upgrade tocsin"):
        async with a_replica(empty_dsn, {"agent": no_agent}):
            pass


async def test_a_lock_that_is_not_had_in_time_is_named(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await admin.execute("SELECT pg_advisory_lock($1::bigint)".replace("$1", str(LOCK_KEY)))
    with pytest.raises(DatabaseUnavailable, match=r"migrate: canceling statement due to lock timeout"):
        await migrate(empty_dsn, lock_timeout="100ms")
    assert await tables(admin) == set()


async def test_a_replica_refuses_a_schema_older_than_itself_and_leaves_no_session(
    empty_dsn: str, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with pytest.raises(SchemaMismatch, match=f"has schema 0, this release needs {NEWEST}: run `tocsin migrate`"):
        async with a_replica(empty_dsn, {"agent": no_agent}):
            pass

    async def is_gone() -> bool:
        return not await admin.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tocsin%'"
        )

    await eventually(is_gone)
    assert await tables(admin) == set()
