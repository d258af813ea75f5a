"""``tocsin doctor``: everything a hub needs, looked at, with what to do about what is wrong."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final

from tocsin.cli.connection import data_of, reached
from tocsin.cli.findings import FAIL, OK, WARN, Finding, of_this_process
from tocsin.cli.output import length
from tocsin.clock import host_now
from tocsin.domain.errors import BadInput, EmbeddedFailed, InvalidSetting, StoreError
from tocsin.settings import load_settings, unknown_variables
from tocsin.store.admin import Admin, Between
from tocsin.store.binaries import NEWEST, OLDEST, find_binaries

if TYPE_CHECKING:
    from tocsin.settings import Settings

NO_ROOM: Final = 0.8
"""Share of max_connections from which a hub may find none left."""

IDLE_TOO_LONG: Final = 60.0


async def examine() -> list[Finding]:
    """All findings; what cannot be looked at because of an earlier one is left out."""
    findings = of_this_process()
    try:
        settings = load_settings()
    except InvalidSetting as error:
        advice = "mend it in the environment or in tocsin.toml; the database was not looked at"
        return findings + [Finding("settings", FAIL, fault, advice) for fault in error.faults]
    findings += list(_settings(settings))
    findings.append(_binaries(settings))
    async for finding in _database(settings):
        findings.append(finding)
    return findings


def _settings(settings: "Settings") -> Iterator[Finding]:
    unknown = unknown_variables()
    for name in unknown:
        yield Finding("settings", WARN, f"{name} is no setting", "correct its name, or unset it")
    if not unknown:
        where = "TOCSIN_DATABASE_URL" if settings.database_url else f"embedded, TOCSIN_HOME={settings.home}"
        yield Finding("settings", OK, f"database: {where}; lease {length(settings.lease.total_seconds())}")


def _binaries(settings: "Settings") -> Finding:
    try:
        binaries = find_binaries(settings.pg_bin)
    except EmbeddedFailed as error:
        if settings.database_url is not None:
            return Finding("embedded", OK, "no PostgreSQL programs, and none needed: TOCSIN_DATABASE_URL is set")
        return Finding("embedded", FAIL, str(error), "install one of these, or set TOCSIN_DATABASE_URL")
    return Finding("embedded", OK, f"PostgreSQL {binaries.version} from {binaries.source} ({binaries.path})")


async def _database(settings: "Settings") -> AsyncIterator[Finding]:
    if settings.database_url is None and data_of(settings.home) is None:
        yield Finding(
            "database",
            WARN,
            f"none yet: {settings.home} holds no data",
            "`tocsin up APP` makes one; or set TOCSIN_DATABASE_URL",
            no_database=True,
        )
        return
    try:
        async with reached(settings) as dsn:
            admin = Admin(dsn, pooler=settings.pooled)
            probe = await admin.probe()
            now = host_now()
            for finding in _probed(probe, (now - probe["now"]).total_seconds()):
                yield finding
            between = await admin.between()
            yield _pooler(between, pooled=settings.pooled)
            async for finding in _schema(dsn, pooled=settings.pooled or between.by_transaction):
                yield finding
    except (StoreError, BadInput) as error:
        yield Finding(
            "database",
            FAIL,
            str(error),
            "check TOCSIN_DATABASE_URL, and that the server runs and lets this host in",
            no_database=True,
        )


def _probed(probe: dict[str, Any], offset: float) -> Iterator[Finding]:
    """What one statement told."""
    yield Finding("database", OK, f"{probe['database']} as {probe['user']}")
    yield _version(probe)
    if probe["in_recovery"]:
        yield Finding(
            "role", FAIL, "a standby, which takes no writes", "add target_session_attrs=read-write to the DSN"
        )
    if probe["can_create"]:
        yield Finding("privileges", OK, "may CREATE in the database")
    else:
        grant = f"GRANT CREATE ON DATABASE {probe['database']} TO {probe['user']}"
        yield Finding("privileges", WARN, "may not CREATE in the database, as migrations need", f"{grant}")
    yield Finding(
        "clock",
        OK if abs(offset) < 1 else WARN,
        f"this host is {length(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the database",
        "" if abs(offset) < 1 else "nothing depends on it but the reading of logs; run NTP on both",
    )
    yield from _durability(probe)
    yield from _connections(probe)


def _version(probe: dict[str, Any]) -> Finding:
    major = probe["version"] // 10_000
    if OLDEST <= major <= NEWEST:
        return Finding("version", OK, f"PostgreSQL {probe['version_text']}")
    advice = f"take PostgreSQL {OLDEST} to {NEWEST}"
    return Finding("version", FAIL if major < OLDEST else WARN, f"PostgreSQL {probe['version_text']}", advice)


def _durability(probe: dict[str, Any]) -> Iterator[Finding]:
    lost = {
        "fsync": "a crash may destroy the database",
        "full_page_writes": "a crash may destroy pages",
        "synchronous_commit": "a crash may forget the last settlements, and their runs are run again",
        "autovacuum": "tables grow without bound and claims slow down",
    }
    off = [name for name in lost if probe[name] == "off"]
    for name in off:
        status = WARN if name == "synchronous_commit" else FAIL
        yield Finding(name, status, f"is off: {lost[name]}", f"set {name} = on in postgresql.conf and reload")
    if not off:
        yield Finding("durability", OK, "fsync, full_page_writes, synchronous_commit and autovacuum are on")


def _connections(probe: dict[str, Any]) -> Iterator[Finding]:
    used, most = probe["connections"], probe["max_connections"]
    crowded = used > most * NO_ROOM
    yield Finding(
        "connections",
        WARN if crowded else OK,
        f"{used} of {most}; a replica takes up to 9",
        "raise max_connections, or put a pooler in front and set TOCSIN_DB_POOLER=transaction" if crowded else "",
    )
    idle = probe["idle_in_transaction"]
    if idle is not None and idle > IDLE_TOO_LONG:
        yield Finding(
            "idle transactions",
            WARN,
            f"a session has been idle in a transaction for {length(idle)}: rows that are gone stay on disk",
            "find it in pg_stat_activity, and set idle_in_transaction_session_timeout",
        )


def _pooler(between: Between, *, pooled: bool) -> Finding:
    if between.by_transaction and pooled:
        found = "a transaction pooler, as TOCSIN_DB_POOLER says: dead replicas are noticed by their lease only"
        return Finding("pooler", WARN, found, "for notice within 2 s, give hubs a direct or session-pooled DSN")
    if between.by_transaction:
        return Finding(
            "pooler",
            FAIL,
            "a transaction pooler stands before the server: prepared statements and LISTEN do not work through it",
            "set TOCSIN_DB_POOLER=transaction, or use the server's own address",
        )
    if pooled:
        return Finding(
            "pooler",
            WARN,
            "TOCSIN_DB_POOLER=transaction, and none of that kind: hints and fast detection are off for nothing",
            "unset TOCSIN_DB_POOLER",
        )
    return Finding("pooler", OK, "a session pooler, which is fine" if between.pooled else "none, sessions are our own")


async def _schema(dsn: str, *, pooled: bool) -> AsyncIterator[Finding]:
    from tocsin.clock import SystemClock  # noqa: PLC0415
    from tocsin.engine.control import Control  # noqa: PLC0415
    from tocsin.store.database import Database  # noqa: PLC0415
    from tocsin.store.migrate import schema_state  # noqa: PLC0415

    database = Database(dsn, pooler=pooled, size=1)
    try:
        async with database.session() as session:
            state = await schema_state(session.connection)
        if state.database < state.code:
            found = f"at {state.database}, this release needs {state.code}"
            yield Finding("schema", FAIL, found, "run `tocsin migrate`")
            return
        yield Finding("schema", OK, f"at {state.database}, as this release needs")
        control = Control(database=database, clock=SystemClock(), actor="doctor")
        alive = [row for row in await control.replicas(limit=1_000) if row["state"] in ("alive", "draining")]
        names = ", ".join(row["name"] for row in alive[:5])
        advice = "" if alive else "start one with `tocsin up APP` or `tocsin serve`"
        yield Finding("replicas", OK if alive else WARN, f"{len(alive)} alive{f': {names}' if names else ''}", advice)
    except StoreError as error:
        outside = "permission denied" in str(error)
        advice = "as its owner: GRANT the owner's role to this one, or connect as the owner"
        yield Finding("schema", FAIL, str(error), advice if outside else "see the server's log for this statement")
    finally:
        await database.close()
