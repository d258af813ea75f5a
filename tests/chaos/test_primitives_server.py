"""A server of the test's own is what it claims to be: killed whole, copied, in step, promoted."""

import asyncpg
import pytest

from tests.chaos.faults.pair import Pair
from tests.engine.building import eventually


async def test_what_a_pair_acknowledges_outlives_its_primary() -> None:
    async with Pair() as pair:
        await eventually(pair.in_step)
        client = await asyncpg.connect(pair.dsn)
        await client.execute("CREATE TABLE marks (mark int)")
        await client.execute("INSERT INTO marks SELECT * FROM generate_series(1, 1000)")
        assert await client.fetchval("SELECT inet_server_port()") == pair.primary.port
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pair.standby.fetch("INSERT INTO marks VALUES (0)")
        await pair.primary.kill()
        await eventually(client.is_closed)
        assert not pair.primary.alive
        seconds = await pair.standby.promote()
        assert seconds < 30
        again = await asyncpg.connect(pair.dsn)
        assert await again.fetchval("SELECT count(*) FROM marks") == 1000
        await again.execute("INSERT INTO marks VALUES (0)")
        await again.close()


async def test_without_its_standby_a_primary_acknowledges_nothing() -> None:
    async with Pair() as pair:
        await eventually(pair.in_step)
        await pair.primary.fetch("CREATE TABLE marks (mark int)")
        await pair.standby.kill()
        client = await asyncpg.connect(pair.primary.dsn)
        with pytest.raises(TimeoutError):
            await client.execute("INSERT INTO marks VALUES (1)", timeout=1)
        client.terminate()
