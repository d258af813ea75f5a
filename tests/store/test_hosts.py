"""A DSN with several hosts: the one that takes writes is found, however the others behave."""

import asyncio
import time
from urllib.parse import urlsplit

import pytest

from tests.chaos.faults.proxy import Proxy
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.store import database as databases
from tocsin.store.database import Database, connect


def both(first: str, second: str) -> str:
    """One DSN for the hosts of two, of which the one that takes writes is meant."""
    one, two = urlsplit(first), urlsplit(second)
    hosts = f"{one.netloc},{two.netloc.rpartition('@')[2]}"
    return one._replace(netloc=hosts, query="target_session_attrs=read-write").geturl()


async def test_a_host_that_swallows_everything_does_not_hide_the_next(dsn: str) -> None:
    """A machine that was switched off resets nothing: a connection to it just gets no answer."""
    with Proxy(dsn) as dead, Proxy(dsn) as alive:
        dead.freeze()
        database = Database(both(dead.dsn, alive.dsn))
        began = time.monotonic()
        await database.open()
        assert await database.fetchrow("transaction_now", now=None)
        assert time.monotonic() - began < 3
        await database.close()
        listener = await connect(database.dsn, pooler=False, application_name="test")
        await listener.close()
        assert dead.counts.connections == 2


async def test_the_first_host_is_preferred_while_it_answers(dsn: str) -> None:
    with Proxy(dsn) as first, Proxy(dsn) as second:
        database = Database(both(first.dsn, second.dsn))
        await database.open()
        assert (first.counts.connections, second.counts.connections) == (1, 0)
        first.refuse()
        with pytest.raises(DatabaseUnavailable):
            await database.fetchrow("transaction_now", now=None)
        assert await database.fetchrow("transaction_now", now=None)
        assert second.counts.connections >= 1
        await database.close()


async def test_when_no_host_answers_the_database_is_unavailable(dsn: str) -> None:
    with Proxy(dsn) as first, Proxy(dsn) as second:
        first.refuse()
        second.refuse()
        with pytest.raises(DatabaseUnavailable):
            await Database(both(first.dsn, second.dsn)).open()
        assert first.counts.refused == second.counts.refused == 1


async def test_of_sessions_that_lie_half_open_only_the_first_is_waited_for(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "STATEMENT_TIMEOUT", 1.0)
    with Proxy(dsn) as proxy:
        database = Database(proxy.dsn)

        async def ask() -> None:
            async with database.session() as session:
                await session.fetchrow("transaction_now", now=None)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(ask() for _ in range(4)))
        assert proxy.forget() == 4
        refused = 0
        for _ in range(5):
            try:
                await ask()
            except DatabaseUnavailable:
                refused += 1
        assert refused == 1
        await database.close()
