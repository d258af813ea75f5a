"""The ceiling: the reference's loop with what is known to make it faster.

The index on what waits has a column of its own and the pages have room, so that completing a run is a
HOT update. Two connections claim, in batches of 500.
"""

from benchmarks.peers.adapters.frame import act
from benchmarks.peers.adapters.reference import Reference, Shape

SCHEMA = """
CREATE TABLE runs (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ready   boolean NOT NULL DEFAULT true,
    state   smallint NOT NULL DEFAULT 0,
    fire_at timestamptz NOT NULL DEFAULT now(),
    input   jsonb NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX runs_ready ON runs (fire_at, id) WHERE ready;
CREATE TABLE schedules (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due   timestamptz,
    input jsonb NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX schedules_due ON schedules (due) WHERE due IS NOT NULL;
"""
NEXT = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
)
UPDATE runs SET ready = false, state = 1
 WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM runs WHERE ready AND fire_at <= now() ORDER BY fire_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, input
"""
FIRE = """
WITH done AS (
    UPDATE runs SET state = 2 WHERE id = ANY ($1::bigint[])
), due AS (
    UPDATE schedules SET due = NULL
     WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM schedules WHERE due <= clock_timestamp() ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING input
)
INSERT INTO runs (ready, state, input) SELECT false, 1, input FROM due RETURNING id, input
"""
HISTORY = "INSERT INTO runs (ready, state, input) SELECT false, 2, '{}' FROM generate_series(1, $1::int) g"

TUNED = Shape(schema=SCHEMA, next=NEXT, fire=FIRE, history=HISTORY, batch=500, claimers=2)


if __name__ == "__main__":
    act(Reference(TUNED))
