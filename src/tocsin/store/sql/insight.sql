-- name: list_decisions
-- Occurrences that became no run, and runs that were skipped, in a range; the latest decision first, after a cursor.
SELECT d.trigger, d.at, d.until, d.reason, d.count, d.run_id, d.decided_at, d.actor, d.key
  FROM (SELECT t.name AS trigger, s.first_at AS at, s.last_at AS until, s.reason, s.count, NULL::uuid AS run_id,
               s.decided_at, s.actor, s.trigger_id || ' ' || s.first_at || ' ' || s.reason AS key
          FROM tocsin.skips s
          JOIN tocsin.triggers t ON t.id = s.trigger_id
         WHERE s.decided_at BETWEEN :since::timestamptz AND :until::timestamptz
           AND (:trigger_id::uuid IS NULL OR s.trigger_id = :trigger_id)
           AND (:reason::text IS NULL OR s.reason = :reason)
         UNION ALL
        SELECT t.name, r.nominal_at, r.nominal_at, r.reason, 1::bigint, r.id, r.finished_at,
               coalesce(r.ended_by, tocsin.actor_of(r.claimed_by)), r.id::text
          FROM tocsin.runs r
          JOIN tocsin.triggers t ON t.id = r.trigger_id
         WHERE r.id >= :first::uuid AND r.state = 'skipped' AND r.finished_at BETWEEN :since AND :until
           AND (:trigger_id IS NULL OR r.trigger_id = :trigger_id)
           AND (:reason IS NULL OR r.reason = :reason)) d
 WHERE (d.decided_at, d.key) < (coalesce(:before_at::timestamptz, 'infinity'), coalesce(:before_key::text, ''))
 ORDER BY d.decided_at DESC, d.key DESC
 LIMIT :limit::bigint

-- name: sum_usage
-- What attempts have told of their usage, in runs that began in a range: every number added up, by what is asked for.
-- What is beyond a double, which is what JSON's readers have, is told as the largest one.
WITH told AS (
    SELECT r.id AS run_id, a.fence,
           CASE WHEN 'agent' = ANY (:by::text[]) THEN r.agent END AS agent,
           CASE WHEN 'trigger' = ANY (:by) THEN t.name END AS trigger,
           CASE WHEN 'model' = ANY (:by) THEN coalesce(u.row ->> 'model', '') END AS model,
           CASE WHEN 'day' = ANY (:by) THEN to_char(r.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS day,
           u.row
      FROM tocsin.runs r
      JOIN tocsin.triggers t ON t.id = r.trigger_id
      JOIN tocsin.attempts a ON a.run_id = r.id
     CROSS JOIN LATERAL jsonb_array_elements(
        CASE WHEN jsonb_typeof(a.usage) = 'array' THEN a.usage ELSE '[]' END) AS u (row)
     WHERE r.id >= :first::uuid AND r.started_at BETWEEN :since::timestamptz AND :until::timestamptz
       AND (:agent::text IS NULL OR r.agent = :agent)
       AND (:trigger_id::uuid IS NULL OR r.trigger_id = :trigger_id)
       AND jsonb_typeof(u.row) = 'object'
), counted AS (
    SELECT s.agent, s.trigger, s.model, s.day, count(DISTINCT s.run_id) AS runs,
           count(DISTINCT (s.run_id, s.fence)) AS attempts
      FROM told s
     GROUP BY s.agent, s.trigger, s.model, s.day
), summed AS (
    SELECT s.agent, s.trigger, s.model, s.day, e.key,
           least(greatest(sum(e.value::text::numeric), -1.7976931348623157e308), 1.7976931348623157e308) AS total
      FROM told s
     CROSS JOIN LATERAL jsonb_each(s.row) AS e (key, value)
     WHERE jsonb_typeof(e.value) = 'number'
     GROUP BY s.agent, s.trigger, s.model, s.day, e.key
)
SELECT c.agent, c.trigger, c.model, c.day, c.runs, c.attempts,
       coalesce((SELECT jsonb_object_agg(x.key, x.total) FROM summed x
                  WHERE (x.agent, x.trigger, x.model, x.day) IS NOT DISTINCT FROM (c.agent, c.trigger, c.model, c.day)),
                '{}') AS sums
  FROM counted c
 ORDER BY c.day, c.agent, c.trigger, c.model
 LIMIT :limit::bigint
