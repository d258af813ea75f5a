-- name: register
-- A new incarnation has a lease and is listed. Sent again because its answer was lost, it changes nothing.
-- A row comes back for each live replica that reads its instants from another release of the zones.
WITH lease AS (
    INSERT INTO tocsin.leases (holder, expires_at, renewed_at)
    SELECT :holder::uuid, i.now + :lease::interval, i.now
      FROM (SELECT coalesce(:now::timestamptz, now()) AS now) i
    ON CONFLICT (holder) DO NOTHING
    RETURNING expires_at
), listed AS (
    INSERT INTO tocsin.replicas (id, name, version, tzdata, agents, slots, started_at)
    SELECT :holder, :name::text, :version::text, :tzdata::text, :agents::text[], :slots::integer, coalesce(:now, now())
      FROM lease
)
SELECT r.name, r.tzdata
  FROM tocsin.leases l
  JOIN tocsin.replicas r ON r.id = l.holder
 WHERE l.ended_at IS NULL AND l.expires_at > coalesce(:now, now()) AND r.id <> :holder AND r.tzdata <> :tzdata

-- name: renew
-- The holder's lease runs on, unless it was ended; says which of the runs in hand are to stop, and why.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), renewed AS (
    UPDATE tocsin.leases l
       SET expires_at = instant.now + :lease::interval, renewed_at = instant.now
      FROM instant
     WHERE l.holder = :holder::uuid AND l.ended_at IS NULL
    RETURNING l.expires_at
), strays AS MATERIALIZED (
    SELECT r.id, r.fence
      FROM tocsin.runs r, instant
     WHERE r.holder = :holder
       AND r.started_at < instant.now - interval '10 seconds'
       AND r.id <> ALL (:ids::uuid[])
)
SELECT (SELECT n.expires_at FROM renewed n) AS expires_at,
       array(SELECT g.id
               FROM unnest(:ids::uuid[], :fences::bigint[]) AS g (id, fence)
               LEFT JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder
              WHERE r.id IS NULL) AS fenced,
       array(SELECT r.id
               FROM unnest(:ids::uuid[], :fences::bigint[]) AS g (id, fence)
               JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder
              WHERE r.cancel_reason = 'superseded') AS superseded,
       array(SELECT r.id
               FROM unnest(:ids::uuid[], :fences::bigint[]) AS g (id, fence)
               JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder
              WHERE r.cancel_requested_at IS NOT NULL AND r.cancel_reason <> 'superseded') AS cancelled,
       coalesce((SELECT array_agg(y.id ORDER BY y.id) FROM strays y), '{}') AS stray_ids,
       coalesce((SELECT array_agg(y.fence ORDER BY y.id) FROM strays y), '{}') AS stray_fences

-- name: hold_lock
-- This session holds the incarnation's lock; the server drops it when the process dies. While another
-- session still has it, none is advertised: a lock that is not ours must not speak for us. The key is of
-- this life of the server: one that was restarted, or a standby that was promoted, has forgotten every lock.
WITH life AS (
    SELECT hashtextextended(:holder::uuid::text || extract(epoch FROM pg_postmaster_start_time())::text
                            || left(pg_walfile_name(pg_current_wal_lsn()), 8), 0) AS key
), held AS (
    SELECT f.key, pg_try_advisory_lock(f.key) AS held FROM life f
)
UPDATE tocsin.leases l
   SET lock_key = CASE WHEN h.held THEN h.key END,
       locked_at = CASE WHEN h.held THEN clock_timestamp() END
  FROM held h
 WHERE l.holder = :holder AND l.ended_at IS NULL
RETURNING h.held

-- name: free_locks
-- Live incarnations with work in hand whose lock nobody holds, taken in this life of the server: its start,
-- and its timeline, which a promotion changes.
SELECT l.holder, l.locked_at
  FROM tocsin.leases l
 WHERE l.ended_at IS NULL
   AND l.holder <> :holder::uuid
   AND l.lock_key = hashtextextended(l.holder::text || extract(epoch FROM pg_postmaster_start_time())::text
                                     || left(pg_walfile_name(pg_current_wal_lsn()), 8), 0)
   AND l.holder IN (SELECT r.holder FROM tocsin.runs r WHERE r.holder IS NOT NULL)
   AND NOT EXISTS (
        SELECT FROM pg_locks k
         WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
           AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
           AND (k.classid::bigint << 32 | k.objid::bigint) = l.lock_key)

-- name: release_lease
-- The incarnation has left of its own accord.
UPDATE tocsin.leases l
   SET ended_at = coalesce(:now::timestamptz, now()), end_reason = 'released'
 WHERE l.holder = :holder::uuid AND l.ended_at IS NULL
RETURNING l.holder

-- name: mark_draining
-- The replica takes no new work.
UPDATE tocsin.replicas p SET draining = true WHERE p.id = :holder::uuid RETURNING p.id

-- name: look
-- One look for every loop: when the planner is needed, whether work waits for these agents, and who is silent.
SELECT coalesce(:now::timestamptz, clock_timestamp()) AS now,
       (SELECT t.wake_at FROM tocsin.triggers t
         WHERE t.wake_at IS NOT NULL ORDER BY t.wake_at LIMIT 1) AS wake_at,
       (SELECT min(f.at)
          FROM unnest(:agents::text[]) AS g (agent)
         CROSS JOIN (VALUES ('live'), ('late')) AS n (lane)
         CROSS JOIN generate_series(0, 9) AS p (priority)
         CROSS JOIN LATERAL (
            SELECT r.available_at AS at FROM tocsin.runs r
             WHERE r.state = 'queued' AND r.agent = g.agent AND r.lane = n.lane AND r.priority = p.priority
             ORDER BY r.available_at LIMIT 1) f) AS ready_at,
       (SELECT min(f.at)
          FROM unnest(:agents::text[]) AS g (agent)
         CROSS JOIN (VALUES ('live'), ('late')) AS n (lane)
         CROSS JOIN generate_series(0, 9) AS p (priority)
         CROSS JOIN LATERAL (
            SELECT r.available_at AS at FROM tocsin.runs r
             WHERE r.state = 'queued' AND r.agent = g.agent AND r.lane = n.lane AND r.priority = p.priority
               AND r.available_at > coalesce(:now::timestamptz, now())
             ORDER BY r.available_at LIMIT 1) f) AS next_ready_at,
       EXISTS (SELECT FROM tocsin.runs r WHERE r.holder <> :holder::uuid) AS others_run,
       EXISTS (SELECT FROM tocsin.triggers t WHERE t.status = 'waiting') AS waiting,
       EXISTS (SELECT FROM tocsin.runs r
                WHERE r.state = 'running' AND r.cancel_requested_at IS NOT NULL) AS cancelling,
       EXISTS (SELECT FROM tocsin.events e WHERE e.matched_at IS NULL) AS unmatched

-- name: list_replicas
-- Replicas, newest first, after a given one, with what they hold.
SELECT p.id, p.name, p.version, p.agents, p.slots, p.started_at, p.draining, l.expires_at, l.renewed_at,
       l.ended_at, l.end_reason, l.lock_key IS NOT NULL AS locked,
       (SELECT count(*) FROM tocsin.runs r WHERE r.holder = p.id) AS running,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.replicas p
  JOIN tocsin.leases l ON l.holder = p.id
 WHERE (:all::boolean OR l.ended_at IS NULL)
   AND (:name::text IS NULL OR p.name = :name OR p.id::text = :name)
   AND (:before_at::timestamptz IS NULL OR (p.started_at, p.id) < (:before_at, :before_id::uuid))
 ORDER BY p.started_at DESC, p.id DESC
 LIMIT :limit::bigint

-- name: prune_replicas
-- Drop incarnations that ended, or fell silent, before an instant.
WITH gone AS (
    DELETE FROM tocsin.leases l
     WHERE (l.ended_at < :before::timestamptz OR l.expires_at < :before)
       AND NOT EXISTS (SELECT FROM tocsin.runs r WHERE r.holder = l.holder)
    RETURNING l.holder
)
DELETE FROM tocsin.replicas p USING gone g WHERE p.id = g.holder

-- name: prune_instances
-- Drop agent processes whose lease has been dropped.
DELETE FROM tocsin.instances i WHERE NOT EXISTS (SELECT FROM tocsin.leases l WHERE l.holder = i.id)
