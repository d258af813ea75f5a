"""Behind a transaction pooler: no prepared statements, LISTEN or session locks, and everything fires all the same."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.engine.building import a_replica, a_trigger, an_app, eventually
from tocsin import cron
from tocsin.clock import SystemClock
from tocsin.domain.errors import StoreError
from tocsin.engine.control import Control
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.isolation import choose_isolation, spawn
from tocsin.store.migrate import migrate, migrations

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "pgbouncer is not installed: apt install pgbouncer"

OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"

pytestmark = pytest.mark.skipif(PGBOUNCER is None and not os.environ.get("CI"), reason=MISSING)


@asynccontextmanager
async def pooled(dsn: str) -> AsyncIterator[str]:
    """The same database through pgbouncer in transaction mode, with two server sessions for everybody."""
    assert PGBOUNCER is not None, MISSING
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    target = (
        f"host={query['host'][0]} port={query.get('port', ['5432'])[0]}"
        if "host" in query
        else f"host={parts.hostname} port={parts.port or 5432} password={parts.password or ''}"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tocsin-pooler-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        ini = directory / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = {target} user={parts.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n{_without_prepared_statements()}"
        )
        program = Path(PGBOUNCER)
        # It refuses to be root, as PostgreSQL does, and must reach the same socket.
        process = spawn(
            [program, str(ini)],
            choose_isolation(directory, program, owner=None),
            directory=directory,
            env=os.environ,
            output=subprocess.DEVNULL,
        )
        try:
            through = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
            await eventually(lambda: _answers(through), what="an answer of pgbouncer")
            yield through
        finally:
            process.kill()
            process.wait()


def _without_prepared_statements() -> str:
    """Since 1.21 it can follow prepared statements from session to session, which is not to be relied upon."""
    told = subprocess.run([PGBOUNCER or "pgbouncer", "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in told.split()[1].split(".")[:2])
    return "max_prepared_statements = 0\n" if version >= (1, 21) else ""


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=2, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def test_hubs_behind_a_transaction_pooler_fire_and_settle_everything(dsn: str) -> None:
    marks: Counter[str] = Counter()
    let_go = asyncio.Event()

    async def agent(run: Run) -> int:
        run.progress("on", 0.5)
        marks[run.trigger] += 1
        return run.fence

    async def waits() -> None:
        await let_go.wait()

    functions: dict[str, Callable[..., Any]] = {"agent": agent, "waits": waits}
    ticks = [a_trigger(f"t{n}", cron("* * * * * *")) for n in range(10)]
    app = an_app(*ticks, a_trigger("waits", agent="waits"), agents=functions)
    admin = await asyncpg.connect(dsn)
    try:
        async with pooled(dsn) as through:
            database = Database(through, pooler=True)
            control = Control(database=database, clock=SystemClock(), actor="test")
            await control.declare(app)
            settings: dict[str, Any] = {"db_pooler": "transaction"}
            async with a_replica(through, functions, **settings), a_replica(through, functions, **settings) as two:
                await control.fire("waits")
                await eventually(lambda: sum(marks.values()) > 30 and len(marks) == 10)
                told = await control.replicas(limit=5)
                assert [(row["state"], row["locked"]) for row in told] == [("alive", False)] * 2
                assert await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
                for what in ("query ILIKE 'listen%'", "application_name = 'tocsin-listen'"):
                    assert await admin.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS} AND {what}") == 0
                assert await admin.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}") <= 2
                assert two.ready
                let_go.set()
            await database.close()
        runs = await admin.fetch("SELECT state, fence, lost FROM tocsin.runs WHERE state <> 'queued'")
        assert {(row["state"], row["fence"], row["lost"]) for row in runs} == {("succeeded", 1, 0)}
        assert len(runs) == sum(marks.values()) + 1
    finally:
        await admin.close()


async def test_migrating_through_a_transaction_pooler_works(empty_dsn: str) -> None:
    async with pooled(empty_dsn) as through:
        states = await asyncio.gather(*(migrate(through, pooler=True) for _ in range(3)))
        assert sorted(len(state.applied) for state in states) == [0, 0, len(migrations())]


async def test_a_hub_that_was_not_told_of_the_pooler_is_refused_at_once(dsn: str) -> None:
    """It never gets so far as to leave its locks and settings on somebody else's session."""
    async with pooled(dsn) as through:
        with pytest.raises(StoreError, match="unsupported startup parameter"):
            await Database(through).open()
