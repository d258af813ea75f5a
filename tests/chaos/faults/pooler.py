"""F15: pgbouncer in transaction mode between replicas and their database."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.faults.moving import moved
from tests.chaos.fleet import Fleet
from tests.engine.building import eventually
from tocsin.store.isolation import choose_isolation, spawn

PGBOUNCER: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING: Final = "pgbouncer is not installed: apt install pgbouncer"


@asynccontextmanager
async def pooled(dsn: str, *, sessions: int = 2) -> AsyncIterator[str]:
    """The same database through pgbouncer in transaction mode, with so many server sessions for everybody."""
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
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {sessions}\n"
            f"{_without_prepared_statements()}"
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


async def through_pooler(fleet: Fleet, rng: Random) -> int:
    """F15: all replicas behind a transaction pooler, one of them killed there, then PostgreSQL restarted there."""
    async with (
        pooled(fleet.postgres.dsn, sessions=6) as dsn,
        moved(fleet, fleet.members, dsn=dsn, env={"TOCSIN_DB_POOLER": "transaction"}),
    ):
        begun = await _begun(fleet)
        await fleet.for_a_while(3)
        victim = rng.choice(fleet.members)
        await victim.kill()
        # Only the lease speaks of its death here.
        await fleet.for_a_while(fleet.lease * 2)
        await fleet.start(victim)
        if rng.random() < 0.5:
            await fleet.postgres.restart("immediate")
        await fleet.for_a_while(3)
        frozen = rng.choice(fleet.members)
        frozen.send(signal.SIGSTOP)
        await fleet.for_a_while(fleet.lease * 1.5)
        frozen.send(signal.SIGCONT)
        await fleet.for_a_while(2)
        through = await _begun(fleet) - begun
        if not through:
            raise DidNothing("nothing was begun through the pooler")
        return 1


async def _begun(fleet: Fleet) -> int:
    return int(await fleet.value("SELECT coalesce(sum(fence), 0) FROM tocsin.runs"))


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


FAULTS: Catalogue = (
    {"F15": lambda: Simple("F15", through_pooler, excuses=frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND}))}
    if PGBOUNCER
    else {}
)
ABSENT: Final = {} if PGBOUNCER else {"F15": MISSING}
