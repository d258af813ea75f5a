-- name: read_gauges
-- How the whole stands, for whoever watches: one row for each figure. Bounded: of so many agents, by name, and of each
-- lane and priority no more runs are counted than :most. value: a count; seconds: for how long the first has waited.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), ready AS (
    SELECT a.name, n.lane, q.count, q.first_at
      FROM (SELECT a.name FROM tocsin.agents a ORDER BY a.name LIMIT :agents::bigint) a
     CROSS JOIN (VALUES ('live'), ('late')) AS n (lane)
     CROSS JOIN generate_series(0, 9) AS p (priority)
     CROSS JOIN LATERAL (
        SELECT count(*) AS count, min(w.available_at) AS first_at
          FROM (SELECT r.available_at
                  FROM tocsin.runs r
                 WHERE r.state = 'queued' AND r.agent = a.name AND r.lane = n.lane AND r.priority = p.priority
                   AND r.available_at <= (SELECT now FROM instant)
                 ORDER BY r.available_at
                 LIMIT :most::bigint) w) q
)
SELECT 'queued' AS what, y.name AS name, y.lane AS detail, sum(y.count)::double precision AS value,
       coalesce(extract(epoch FROM instant.now - min(y.first_at)), 0)::double precision AS seconds
  FROM ready y, instant
 GROUP BY y.name, y.lane, instant.now
 UNION ALL
SELECT 'running', r.agent, NULL, count(*)::double precision, 0
  FROM tocsin.runs r
 WHERE r.holder IS NOT NULL
 GROUP BY r.agent
 UNION ALL
-- As engine.views.replica_view and domain.instance.state_of have them; who is gone for an hour is not told of any more.
SELECT 'replicas',
       CASE WHEN l.ended_at IS NOT NULL THEN 'lost'
            WHEN l.expires_at < instant.now THEN 'silent'
            WHEN p.draining THEN 'draining'
            ELSE 'alive' END,
       NULL, count(*), 0
  FROM tocsin.replicas p
  JOIN tocsin.leases l ON l.holder = p.id
 CROSS JOIN instant
 WHERE l.end_reason IS DISTINCT FROM 'released'
   AND least(l.expires_at, l.ended_at) > instant.now - interval '1 hour'
 GROUP BY 2
 UNION ALL
SELECT 'instances',
       CASE WHEN l.ended_at IS NOT NULL OR l.expires_at < instant.now THEN 'lost'
            WHEN i.replica IS NULL OR instant.now - l.renewed_at > i.suspect_after THEN 'suspect'
            WHEN i.stalled_at IS NOT NULL THEN 'stalled'
            WHEN i.draining THEN 'draining'
            ELSE 'alive' END,
       NULL, count(*), 0
  FROM tocsin.instances i
  JOIN tocsin.leases l ON l.holder = i.id
 CROSS JOIN instant
 WHERE l.end_reason IS DISTINCT FROM 'released'
   AND least(l.expires_at, l.ended_at) > instant.now - interval '1 hour'
 GROUP BY 2
 UNION ALL
SELECT 'overdue', NULL, NULL, 0,
       greatest(0, coalesce((SELECT extract(epoch FROM instant.now - d.wake_at)
                               FROM (SELECT t.wake_at FROM tocsin.triggers t
                                      WHERE t.wake_at IS NOT NULL ORDER BY t.wake_at LIMIT 1) d), 0))
  FROM instant
 UNION ALL
SELECT 'unmatched', NULL, NULL, count(*), 0
  FROM (SELECT FROM tocsin.events e WHERE e.matched_at IS NULL LIMIT :most) e
