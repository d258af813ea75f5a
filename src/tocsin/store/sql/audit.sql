-- name: list_audit
-- Who did what, the latest first, before a given record; one that is forgotten has none before it. The filters stand
-- in one CASE, as in list_runs.
WITH last AS (
    SELECT coalesce(max(o.at), '-infinity') AS at FROM tocsin.audit o WHERE o.id = :before::bigint
)
SELECT a.id, a.at, a.actor, a.action, a.kind, a.target, a.target_id, a.detail
  FROM tocsin.audit a
 WHERE a.at BETWEEN coalesce(:since::timestamptz, '-infinity')
                AND least(:until::timestamptz, 'infinity',
                          CASE WHEN :before IS NOT NULL THEN (SELECT l.at FROM last l) END)
   AND CASE WHEN a.at = (SELECT l.at FROM last l) AND a.id >= :before THEN false
            WHEN a.actor <> :actor::text THEN false
            WHEN a.action <> :action::text THEN false
            ELSE true END
 ORDER BY a.at DESC, a.id DESC
 LIMIT :limit::bigint

-- name: list_audit_of
-- The same of one trigger, its runs and its backfills.
WITH last AS (
    SELECT coalesce(max(o.at), '-infinity') AS at FROM tocsin.audit o WHERE o.id = :before::bigint
)
SELECT a.id, a.at, a.actor, a.action, a.kind, a.target, a.target_id, a.detail
  FROM tocsin.audit a
 WHERE a.target = :trigger::text
   AND a.at BETWEEN coalesce(:since::timestamptz, '-infinity')
                AND least(:until::timestamptz, 'infinity',
                          CASE WHEN :before IS NOT NULL THEN (SELECT l.at FROM last l) END)
   AND CASE WHEN a.kind NOT IN ('trigger', 'run', 'backfill') THEN false
            WHEN a.at = (SELECT l.at FROM last l) AND a.id >= :before THEN false
            WHEN a.actor <> :actor::text THEN false
            WHEN a.action <> :action::text THEN false
            ELSE true END
 ORDER BY a.at DESC, a.id DESC
 LIMIT :limit::bigint

-- name: list_changes
-- What was done to one trigger in [since, until], the latest first; and the pauses that stood when that began.
SELECT a.id, a.at, a.actor, a.action, a.kind, a.target, a.target_id, a.detail
  FROM tocsin.audit a
 WHERE a.target = :trigger::text AND a.target_id = :trigger_id::uuid AND a.at <= :until::timestamptz
   AND CASE WHEN a.at >= :since::timestamptz THEN true
            WHEN a.action <> 'paused' THEN false
            ELSE NOT EXISTS (
                SELECT FROM tocsin.audit e
                 WHERE e.target = a.target AND e.target_id = a.target_id AND e.at < :since
                   AND (e.at, e.id) > (a.at, a.id)
                   AND CASE WHEN e.action IN ('resumed', 'pause_ended')
                            THEN e.detail -> 'reasons' ? (a.detail ->> 'reason')
                            WHEN e.action = 'paused' THEN e.detail -> 'reason' = a.detail -> 'reason'
                            ELSE false END)
            END
 ORDER BY a.at DESC, a.id DESC
 LIMIT :limit::bigint

-- name: prune_audit
-- Forget what was done before an instant, a batch.
DELETE FROM tocsin.audit a
 WHERE a.id IN (
    SELECT o.id FROM tocsin.audit o
     WHERE o.at < :before::timestamptz
     ORDER BY o.at
     LIMIT :batch::bigint)
RETURNING a.id
