-- name: probe
-- What the doctor asks of a database.
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('server_version') AS version_text,
       clock_timestamp() AS now,
       current_user::text AS "user",
       current_database()::text AS database,
       has_database_privilege(current_database(), 'CREATE') AS can_create,
       current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('autovacuum') AS autovacuum,
       current_setting('max_connections')::integer AS max_connections,
       (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend') AS connections,
       pg_is_in_recovery() AS in_recovery,
       pg_backend_pid() AS pid,
       (SELECT max(extract(epoch FROM clock_timestamp() - a.xact_start))::double precision
          FROM pg_stat_activity a
         WHERE a.state = 'idle in transaction' AND a.datname = current_database()) AS idle_in_transaction

-- name: backend
-- Which server process answers: another one for each transaction behind a transaction pooler.
SELECT pg_backend_pid() AS pid

-- name: notify_self
-- A notification to our own session, which a transaction pooler drops.
SELECT pg_notify(:channel::text, 'ping')

-- name: upcoming
-- The triggers that are due next, soonest first.
SELECT t.name, t.agent, t.next_at, t.wake_at, cardinality(t.paused) > 0 AS paused
  FROM tocsin.triggers t
 WHERE t.wake_at IS NOT NULL
 ORDER BY t.wake_at
 LIMIT :limit::bigint
