"""The port in front of the database does what it says, and counts it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from tests.chaos.faults.proxy import Proxy
from tests.engine.building import eventually


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy(dsn) as proxy:
        yield proxy


@pytest.fixture
async def table(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session past the proxy, with a table to write to."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("CREATE TABLE marks (mark int)")
    yield admin
    await admin.close()


async def test_whole_conversations_pass(proxy: Proxy, table: "asyncpg.Connection[asyncpg.Record]") -> None:
    client = await asyncpg.connect(proxy.dsn)
    assert await client.fetchval("SELECT sum(n) FROM generate_series(1, $1::int) n", 10_000) == 50_005_000
    assert len(await client.fetchval("SELECT repeat('x', 3000000)")) == 3_000_000
    await client.execute("INSERT INTO marks VALUES ($1)", 1)
    assert await client.fetchval("SELECT length($1::text)", "y" * 3_000_000) == 3_000_000
    await client.close()
    await eventually(lambda: proxy.open_sessions == 0)
    assert await table.fetchval("SELECT count(*) FROM marks") == 1


async def test_refused_is_cut_and_let_in_no_more_until_restored(proxy: Proxy, dsn: str) -> None:
    client = await asyncpg.connect(proxy.dsn)
    proxy.refuse()
    with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await client.fetchval("SELECT 1")
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        await asyncpg.connect(proxy.dsn)
    assert proxy.counts.refused > 0
    assert proxy.counts.cut == 1
    proxy.restore()
    await (await asyncpg.connect(proxy.dsn)).close()


async def test_only_the_chosen_sessions_are_met(proxy: Proxy) -> None:
    victim = await asyncpg.connect(proxy.dsn, server_settings={"application_name": "victim"})
    other = await asyncpg.connect(proxy.dsn, server_settings={"application_name": "other"})
    assert proxy.cut(lambda name: name == "victim") == 1
    await eventually(victim.is_closed)
    assert await other.fetchval("SELECT 1") == 1
    proxy.freeze(lambda name: name == "other")
    with pytest.raises(TimeoutError):
        await other.fetchval("SELECT 1", timeout=0.2)
    await (await asyncpg.connect(proxy.dsn, server_settings={"application_name": "victim"})).close()
    other.terminate()


async def test_frozen_nothing_comes_through_and_nobody_is_told(proxy: Proxy) -> None:
    client = await asyncpg.connect(proxy.dsn)
    proxy.freeze()
    asked = asyncio.ensure_future(client.fetchval("SELECT 7"))
    await eventually(lambda: proxy.counts.held > 0)
    _, waiting = await asyncio.wait([asked], timeout=0.3)
    assert waiting
    assert not client.is_closed()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.dsn, timeout=0.3)
    proxy.restore()
    assert await asked == 7
    await client.close()


async def test_forgotten_sessions_stay_dead_and_new_ones_work(proxy: Proxy) -> None:
    client = await asyncpg.connect(proxy.dsn)
    assert proxy.forget() == 1
    with pytest.raises(TimeoutError):
        await client.fetchval("SELECT 1", timeout=0.3)
    proxy.restore()
    again = await asyncpg.connect(proxy.dsn)
    assert await again.fetchval("SELECT 7") == 7
    await again.close()
    assert not client.is_closed()
    client.terminate()


async def test_frozen_a_long_message_fills_the_sockets(proxy: Proxy) -> None:
    """What is not read by us stays with the sender, whose send blocks in the end."""
    client = await asyncpg.connect(proxy.dsn)
    proxy.freeze()
    asked = asyncio.ensure_future(client.fetchval("SELECT length($1::text)", "x" * 50_000_000))
    _, waiting = await asyncio.wait([asked], timeout=0.3)
    assert waiting
    proxy.restore()
    assert await asked == 50_000_000
    await client.close()


async def test_answers_are_later_by_what_was_asked(proxy: Proxy) -> None:
    client = await asyncpg.connect(proxy.dsn)
    await client.fetchval("SELECT 1")
    proxy.delay(0.2)
    began = time.monotonic()
    await client.fetchval("SELECT 1")
    assert time.monotonic() - began >= 0.2
    assert proxy.counts.delayed >= 1
    proxy.restore()
    await client.close()


@pytest.mark.parametrize("how", ["statement", "parameters", "transaction"])
async def test_what_was_committed_is_not_answered(
    proxy: Proxy, table: "asyncpg.Connection[asyncpg.Record]", how: str
) -> None:
    client = await asyncpg.connect(proxy.dsn)
    proxy.cut_answers()
    lost = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
    assert await client.fetchval("SELECT 1") == 1, "what only reads is answered"

    async def write() -> None:
        match how:
            case "statement":
                await client.execute("INSERT INTO marks VALUES (1)")
            case "parameters":
                await client.fetch("INSERT INTO marks VALUES ($1) RETURNING mark", 1)
            case _:
                async with client.transaction():
                    await client.execute("INSERT INTO marks VALUES (1)")
                    assert proxy.counts.cut_answers == [], "nothing is committed yet"

    with pytest.raises(lost):
        await write()
    assert len(proxy.counts.cut_answers) == 1
    assert await table.fetchval("SELECT count(*) FROM marks") == 1
    again = await asyncpg.connect(proxy.dsn)
    await again.execute("INSERT INTO marks VALUES (2)")
    await again.close()


async def test_a_refused_write_is_answered_and_the_next_is_cut(
    proxy: Proxy, table: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    client = await asyncpg.connect(proxy.dsn)
    proxy.cut_answers()
    with pytest.raises(asyncpg.UndefinedTableError):
        await client.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        await client.execute("INSERT INTO marks VALUES (1)")
    assert await table.fetchval("SELECT count(*) FROM marks") == 1


async def test_a_test_that_blocks_its_loop_does_not_stall_the_network(proxy: Proxy) -> None:
    """A client on another thread is served while ours is busy."""

    async def ask() -> object:
        client = await asyncpg.connect(proxy.dsn)
        answer = await client.fetchval("SELECT 1")
        await client.close()
        return answer

    with ThreadPoolExecutor(1) as elsewhere:
        asked = elsewhere.submit(lambda: asyncio.run(ask()))
        until = time.monotonic() + 20
        while not asked.done() and time.monotonic() < until:
            pass  # our loop does not get its turn
        assert asked.done()
        assert asked.result() == 1
