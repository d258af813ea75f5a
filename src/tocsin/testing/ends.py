"""A second memory of how runs ended: the run's row keeps its latest end, this keeps every one."""

from typing import Final

from tocsin.store.database import Database
from tocsin.testing.history import Row

_INSTALL: Final = """
CREATE SCHEMA simulated;
CREATE TABLE simulated.ends (run_id uuid, was text, state text, fence bigint, at timestamptz);
CREATE FUNCTION simulated.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO simulated.ends VALUES (NEW.id, OLD.state, NEW.state, NEW.fence, NEW.finished_at);
    RETURN NULL;
END $$;
CREATE TRIGGER simulated_note AFTER UPDATE ON tocsin.runs
   FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION simulated.note();
"""


async def install(database: Database) -> None:
    """From now on every write that leaves a run ended is remembered, in the transaction that makes it."""
    async with database.session() as session:
        await session.connection.execute(_INSTALL)


async def read(database: Database) -> list[Row]:
    async with database.session() as session:
        return [dict(row) for row in await session.connection.fetch("SELECT e.* FROM simulated.ends e ORDER BY e.at")]
