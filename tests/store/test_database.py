"""The pool: sessions go back, errors come out as ours, statements are counted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.engine.building import eventually
from tocsin.domain.errors import BadInput, Contended, DatabaseUnavailable, StatementRefused
from tocsin.store.database import Database, connect
from tocsin.store.signals import Signals
from tocsin.store.statements import Statement, Statements, load

EXTRA = Statements(
    dict(load())
    | {
        "one": Statement("one", "SELECT 1 AS one", ()),
        "sleep": Statement("sleep", "SELECT pg_sleep(60)", ()),
        "twice": Statement("twice", "INSERT INTO tocsin.migrations SELECT * FROM tocsin.migrations", ()),
        "wrong": Statement("wrong", "SELECT 1 / 0", ()),
        "text": Statement("text", "SELECT $1::text", ("text",)),
        "setting": Statement("setting", "SELECT current_setting($1) AS value", ("name",)),
        "tell": Statement("tell", "SELECT pg_notify('tocsin', 'runs somebody')", ()),
        "end_me": Statement("end_me", "SELECT pg_terminate_backend(pg_backend_pid())", ()),
    }
)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, size=2, statements=EXTRA)
    try:
        yield database
    finally:
        await database.close()


async def sessions(dsn: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT application_name, state FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return [dict(row) for row in rows]
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("twice", {}, Contended),
        ("wrong", {}, StatementRefused),
        ("text", {"text": "\0"}, StatementRefused),
        ("text", {"text": 5}, StatementRefused),
        ("end_me", {}, DatabaseUnavailable),
    ],
)
async def test_the_drivers_errors_come_out_as_ours_and_name_the_statement(
    database: Database, name: str, values: dict[str, object], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=name) as caught:
        await database.fetch(name, **values)
    assert type(caught.value) is kind
    assert await database.fetchrow("one") is not None


async def test_statements_are_counted_and_a_transaction_is_two_more(database: Database) -> None:
    await database.fetchrow("one")
    assert database.calls == 1
    async with database.transaction() as session:
        await session.fetch("one")
        await session.fetchrow("one")
    assert database.calls == 5


async def test_a_transaction_that_raises_is_rolled_back_and_its_session_goes_back(database: Database, dsn: str) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            await session.fetch("one")
            await session.fetch("wrong")

    for _ in range(5):
        with pytest.raises(StatementRefused):
            await fail()
    assert await database.fetchrow("one") is not None
    assert {row["state"] for row in await sessions(dsn)} == {"idle"}


async def test_a_cancelled_statement_leaves_no_session_behind(database: Database, dsn: str) -> None:
    for _ in range(4):
        task = asyncio.create_task(database.fetch("sleep"))

        async def sleeps() -> bool:
            return any(row["state"] == "active" for row in await sessions(dsn))

        await eventually(sleeps)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await database.fetchrow("one") is not None
    assert {row["state"] for row in await sessions(dsn)} == {"idle"}


async def test_a_session_keeps_to_indexes_and_forgets_nobody(database: Database) -> None:
    for name, expected in (
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("TimeZone", "UTC"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("application_name", "tocsin"),
    ):
        row = await database.fetchrow("setting", name=name)
        assert row is not None
        assert row["value"] == expected, name


async def test_closing_leaves_no_session_and_opening_again_is_allowed(database: Database, dsn: str) -> None:
    await database.fetchrow("one")
    await database.close()
    await database.close()

    async def is_gone() -> bool:
        return await sessions(dsn) == []

    await eventually(is_gone)
    assert await database.fetchrow("one") is not None


@pytest.mark.parametrize("dsn_given", ["nonsense", "postgresql://localhost:port/x", "mysql://x"])
async def test_a_dsn_that_cannot_be_read_is_bad_input(dsn_given: str) -> None:
    with pytest.raises(BadInput, match="TOCSIN_DATABASE_URL"):
        await Database(dsn_given).open()
    with pytest.raises(BadInput, match="TOCSIN_DATABASE_URL"):
        await connect(dsn_given, pooler=False, application_name="x")


async def test_no_error_tells_the_password() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await Database("postgresql://somebody:hush-hush@127.0.0.1:1/x").open()
    assert "hush" not in str(caught.value)


async def test_a_listener_hears_hints_and_is_opened_again_after_it_was_cut(database: Database, dsn: str) -> None:
    heard: list[str] = []
    signals = Signals(database=database, hear=heard.append)
    try:
        assert await signals.session() is not None
        await database.fetch("tell")
        await eventually(lambda: heard == ["runs somebody"])
        admin = await asyncpg.connect(dsn)
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'tocsin-listen' AND datname = current_database()"
            )
        finally:
            await admin.close()
        await eventually(lambda: not signals.listening)
        assert await signals.session() is not None
        await database.fetch("tell")
        await eventually(lambda: len(heard) == 2)
    finally:
        await signals.close()


async def test_a_session_that_the_server_has_just_ended_is_a_database_that_did_not_answer(database: Database) -> None:
    """Between the server's last word and the end of the connection, the driver knows neither state."""
    fatal = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    async with database.session() as session:
        await session.fetch("one")
        session.connection._con._protocol.data_received(b"E" + (len(fatal) + 4).to_bytes(4, "big") + fatal)
        with pytest.raises(DatabaseUnavailable, match="one"):
            await session.fetch("one")
        session.connection._con.terminate()
    assert await database.fetchrow("one") is not None
