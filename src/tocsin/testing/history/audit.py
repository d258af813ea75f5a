"""Log (d): triggers of the database's own, which note every change of the rows that promises are about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tocsin.store.database import Database, Record
from tocsin.testing.history import TABLE_QUERIES, Row
from tocsin.testing.history.logs import Change

TABLES: Final = ("runs", "triggers", "leases", "skips")

INSTALL: Final = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.audit (
    id bigserial PRIMARY KEY,
    txid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    began timestamptz NOT NULL DEFAULT now(),
    tab text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.audit (tab, before, after)
    VALUES (TG_TABLE_NAME,
            CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - ARRAY['input', 'output'] END,
            CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - ARRAY['input', 'output'] END);
    RETURN NULL;
END $$;
"""


async def install(database: Database) -> None:
    """From now on every change of the tables is in chaos.audit, in the transaction that makes it."""
    async with database.session() as session:
        await session.connection.execute(INSTALL)
        for table in TABLES:
            await session.connection.execute(
                f"CREATE TRIGGER chaos_note AFTER INSERT OR UPDATE OR DELETE ON tocsin.{table}"
                " FOR EACH ROW EXECUTE FUNCTION chaos.note()"
            )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Tables and changes of one moment, which lies between two instants of the database's clock."""

    since: datetime
    until: datetime
    tables: dict[str, list[Row]]
    changes: list[Change]


async def snapshot(database: Database) -> Snapshot:
    async with database.session() as session:
        connection = session.connection
        since: datetime = await connection.fetchval("SELECT clock_timestamp()")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            until: datetime = await connection.fetchval("SELECT clock_timestamp()")
            tables: dict[str, list[Row]] = {
                name: [dict(row) for row in await connection.fetch(query)] for name, query in _ALL.items()
            }
            changes = [_change(row) for row in await connection.fetch(_CHANGES)]
    return Snapshot(since, until, tables, changes)


_CHANGES: Final = (
    "SELECT a.id, a.txid, a.at, a.began, a.tab, a.before::text AS before, a.after::text AS after"
    " FROM chaos.audit a ORDER BY a.id"
)
_FURTHER: Final = {
    "replicas": "SELECT p.id, p.name, p.started_at FROM tocsin.replicas p",
    "instances": "SELECT i.id, i.name, i.key FROM tocsin.instances i",
    "keys": "SELECT k.name, k.agents FROM tocsin.keys k WHERE 'agent' = ANY (k.scopes)",
    "late_results": "SELECT l.run_id, l.fence, l.holder, l.state FROM tocsin.late_results l",
    "sessions": "SELECT a.pid, a.application_name, a.state, a.xact_start, clock_timestamp() AS now"
    " FROM pg_stat_activity a WHERE a.datname = current_database() AND a.backend_type = 'client backend'",
}
_ALL: Final = {**TABLE_QUERIES, **_FURTHER}


def _change(row: Record) -> Change:
    return Change(
        id=row["id"],
        txid=row["txid"],
        at=row["at"],
        began=row["began"],
        table=row["tab"],
        before=_read(row["before"]),
        after=_read(row["after"]),
    )


def _read(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    row: dict[str, Any] = json.loads(text)
    return {name: _instant(name, value) for name, value in row.items()}


def _instant(name: str, value: Any) -> Any:
    is_instant = isinstance(value, str) and (name.endswith("_at") or name in _INSTANTS)
    return datetime.fromisoformat(value) if is_instant else value


_INSTANTS: Final[Sequence[str]] = ("gap_from", "not_after")
