-- name: sweep
-- Take running runs from holders that have no live lease: queued again, or closed by their policy.
-- A lost attempt is not counted; what bounds them is :poisoned_after. A lease that was ended is a verdict:
-- what is left of its runs, when there were more than a batch, needs no other.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), suspect AS MATERIALIZED (
    SELECT h.holder
      FROM (SELECT DISTINCT r.holder FROM tocsin.runs r WHERE r.holder IS NOT NULL) h
     CROSS JOIN instant
     WHERE h.holder = ANY (:dead_holders::uuid[])
        OR EXISTS (SELECT FROM tocsin.leases l WHERE l.holder = h.holder AND l.ended_at IS NOT NULL)
        OR :by_lease::boolean AND NOT EXISTS (
            SELECT FROM tocsin.leases l
             WHERE l.holder = h.holder AND l.ended_at IS NULL AND l.expires_at >= instant.now)
), buried AS (
    -- Looked at again under its row's lock: a renewal may have come since.
    UPDATE tocsin.leases l
       SET ended_at = instant.now, end_reason = 'lost'
      FROM suspect s, instant
     WHERE l.holder = s.holder AND l.ended_at IS NULL
       AND (l.expires_at < instant.now OR l.holder = ANY (:dead_holders))
    RETURNING l.holder
), dead AS (
    SELECT b.holder FROM buried b
     UNION ALL
    SELECT s.holder FROM suspect s
     WHERE NOT EXISTS (SELECT FROM tocsin.leases l WHERE l.holder = s.holder AND l.ended_at IS NULL)
), orphans AS MATERIALIZED (
    SELECT r.id, a.on_lost
      FROM dead d
      JOIN tocsin.runs r ON r.holder = d.holder
      JOIN tocsin.agents a ON a.name = r.agent
     ORDER BY r.id
     LIMIT :batch::bigint
       FOR UPDATE OF r SKIP LOCKED
), judged AS (
    SELECT r.id, r.fence, r.attempt, r.holder,
           CASE WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN o.on_lost = 'fail' THEN 'failed'
                WHEN r.lost + 1 >= :poisoned_after::integer THEN 'failed'
                WHEN r.deadline_at <= instant.now THEN 'failed'
                ELSE 'queued' END AS state,
           CASE WHEN r.cancel_requested_at IS NOT NULL THEN coalesce(r.cancel_reason, 'cancelled')
                WHEN o.on_lost = 'fail' THEN 'lost'
                WHEN r.lost + 1 >= :poisoned_after::integer THEN 'poisoned'
                WHEN r.deadline_at <= instant.now THEN 'deadline'
                ELSE 'lost' END AS reason
      FROM orphans o
      JOIN tocsin.runs r ON r.id = o.id
     CROSS JOIN instant
), swept AS (
    UPDATE tocsin.runs r
       SET state = j.state, reason = j.reason, holder = NULL, permit = NULL, permit_scope = NULL,
           seq = r.seq + 1, lost = r.lost + 1,
           ended_by = CASE WHEN j.state = 'queued' THEN NULL ELSE :actor::text END,
           attempt = CASE WHEN j.state = 'queued' THEN r.attempt - 1 ELSE r.attempt END,
           available_at = CASE WHEN j.state = 'queued' THEN instant.now ELSE r.available_at END,
           finished_at = CASE WHEN j.state = 'queued' THEN NULL ELSE instant.now END
      FROM judged j, instant
     WHERE r.id = j.id AND r.fence = j.fence AND r.holder IS NOT DISTINCT FROM j.holder
    RETURNING r.id, r.fence, j.attempt, r.state, r.reason, r.trigger_id, r.agent, r.started_at, j.holder
), past AS (
    INSERT INTO tocsin.past_transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT s.id, e.seq, e.from_state, e.to_state, s.attempt, s.fence, e.actor, e.reason, e.at
      FROM swept s
     CROSS JOIN instant
     CROSS JOIN LATERAL (
        VALUES (2 * s.fence, 'queued', 'running', 'replica:' || s.holder, NULL, s.started_at),
               (2 * s.fence + 1, 'running', 'queued', :actor, s.reason, instant.now))
        AS e (seq, from_state, to_state, actor, reason, at)
     WHERE s.state = 'queued'
), told AS (
    INSERT INTO tocsin.attempts AS a (run_id, fence, attempt, error_kind, error_message)
    SELECT s.id, s.fence, s.attempt, 'Lost', 'its holder ' || s.holder || ' was lost'
      FROM swept s
    ON CONFLICT (run_id, fence) DO UPDATE
       SET error_kind = excluded.error_kind, error_message = excluded.error_message
)
SELECT s.id, s.fence, s.state, s.reason, s.agent, t.name AS trigger, s.holder,
       CASE WHEN s.state = 'queued' THEN pg_notify('tocsin', 'runs ' || :actor) END AS hint
  FROM swept s
  JOIN tocsin.triggers t ON t.id = s.trigger_id

-- name: fence_uncancelled
-- Close running runs that were asked to stop and did not within the agent's limit.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), overdue AS MATERIALIZED (
    SELECT r.id, r.fence, r.holder
      FROM tocsin.runs r
      JOIN tocsin.agents a ON a.name = r.agent
     CROSS JOIN instant
     WHERE r.state = 'running' AND r.cancel_requested_at IS NOT NULL
       AND r.cancel_requested_at + (a.spec ->> 'cancel_within')::interval + interval '5 seconds' < instant.now
     ORDER BY r.cancel_requested_at
     LIMIT :batch::bigint
       FOR UPDATE OF r SKIP LOCKED
), fenced AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = coalesce(r.cancel_reason, 'cancelled'), holder = NULL, permit = NULL,
           permit_scope = NULL, seq = r.seq + 1, ended_by = :actor::text, finished_at = instant.now
      FROM overdue o, instant
     WHERE r.id = o.id AND r.fence = o.fence AND r.holder IS NOT DISTINCT FROM o.holder
    RETURNING r.id, r.fence, r.reason, r.trigger_id
)
SELECT f.id, f.fence, f.reason, t.name AS trigger
  FROM fenced f
  JOIN tocsin.triggers t ON t.id = f.trigger_id

-- name: enqueue
-- Runs asked for by hand, by an edge or as a backfill; a key seen before gives the run it gave then.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), given AS (
    SELECT g.id, g.nominal_at, g.key, g.input
      FROM unnest(:ids::uuid[], :nominals::timestamptz[], :keys::text[], :inputs::text[])
        AS g (id, nominal_at, key, input)
), asked AS MATERIALIZED (
    SELECT g.id, t.id AS trigger_id, t.version, t.agent, coalesce(g.nominal_at, instant.now) AS nominal_at, g.key,
           s.scope, a.deadline, a.max_attempts, i.input
      FROM given g
      JOIN tocsin.triggers t ON t.id = :trigger_id::uuid AND t.status <> 'deleted'
      JOIN tocsin.agents a ON a.name = t.agent
     CROSS JOIN instant
     CROSS JOIN LATERAL (SELECT coalesce(g.input::jsonb, t.input) AS input) i
     CROSS JOIN LATERAL (
        SELECT CASE WHEN :overlap::text = 'allow' THEN NULL
                    WHEN :overlap_scope LIKE 'backfill:%' THEN :overlap_scope
                    WHEN :overlap_scope::text = 'agent' THEN 'agent:' || t.agent
                    WHEN :overlap_scope = 'trigger' THEN t.id::text
                    ELSE 'agent:' || t.agent || ':' || :overlap_scope || '='
                         || tocsin.key_of(i.input, substr(:overlap_scope, 7))
               END AS scope) s
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
    SELECT k.trigger_id, k.nominal_at, k.key, k.id FROM asked k
    ON CONFLICT DO NOTHING
    RETURNING run_id
), inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at,
                             occurrence_key, lane, priority, overlap, scope, available_at, deadline_at,
                             max_attempts, input, queued_at, asked_by)
    SELECT k.id, k.trigger_id, k.version, k.agent, :kind::text, k.nominal_at, k.nominal_at, k.key, :lane::text,
           :priority::smallint, :overlap, k.scope, instant.now, instant.now + k.deadline, k.max_attempts, k.input,
           instant.now, :actor::text
      FROM asked k, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id
), hint AS (
    SELECT pg_notify('tocsin', 'runs ' || :actor) FROM inserted LIMIT 1
)
SELECT g.id, true AS created FROM inserted g LEFT JOIN hint ON true
 UNION ALL
SELECT o.run_id, false
  FROM given g
  JOIN tocsin.occurrences o ON o.trigger_id = :trigger_id AND o.key = g.key
 WHERE (g.id IN (SELECT f.run_id FROM fresh f)) IS NOT TRUE

-- name: cancel_run
-- Ask for the end of a run: at once when it is queued, by its holder when it is running.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), target AS MATERIALIZED (
    SELECT r.id, r.state FROM tocsin.runs r WHERE r.id = :id::uuid FOR UPDATE
), ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = :reason::text, seq = r.seq + 1, ended_by = :actor::text,
           finished_at = instant.now
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'queued' AND r.state = 'queued'
    RETURNING r.id
), asked AS (
    UPDATE tocsin.runs r
       SET cancel_requested_at = coalesce(r.cancel_requested_at, instant.now),
           cancel_reason = coalesce(r.cancel_reason, :reason)
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'running' AND r.state = 'running'
    RETURNING r.id
), hint AS (
    SELECT pg_notify('tocsin', 'cancel ' || :actor) FROM asked
)
SELECT t.id, t.state AS was,
       CASE WHEN EXISTS (SELECT FROM ended) THEN 'cancelled' ELSE t.state END AS state
  FROM target t
  LEFT JOIN hint ON true

-- name: withdraw
-- Skip every queued, never claimed scheduled run of a trigger.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), withdrawn AS (
    UPDATE tocsin.runs r
       SET state = 'skipped', reason = :reason::text, seq = r.seq + 1, ended_by = :actor::text,
           finished_at = instant.now
      FROM instant
     WHERE r.trigger_id = :trigger_id::uuid AND r.state = 'queued' AND r.fence = 0
       AND r.kind = ANY (:kinds::text[])
    RETURNING r.id
)
SELECT count(*) AS count FROM withdrawn

-- name: cancel_backfill
-- Cancel what is still queued of one backfill.
WITH ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'cancelled', seq = r.seq + 1, ended_by = :actor::text,
           finished_at = coalesce(:now::timestamptz, now())
     WHERE r.trigger_id = :trigger_id::uuid AND r.kind = 'backfill' AND r.state = 'queued'
       AND starts_with(r.occurrence_key, :prefix::text)
    RETURNING r.id
)
SELECT count(*) AS count FROM ended

-- name: cancel_queued
-- Cancel every queued run of a trigger, retries included: it is taken out of service.
WITH ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'withdrawn', seq = r.seq + 1, ended_by = :actor::text,
           finished_at = coalesce(:now::timestamptz, now())
     WHERE r.trigger_id = :trigger_id::uuid AND r.state = 'queued'
    RETURNING r.id
)
SELECT count(*) AS count FROM ended

-- name: list_runs
-- Runs, newest first, before a given id.
SELECT r.id, t.name AS trigger, r.agent, r.kind, r.state, r.reason, r.attempt, r.max_attempts, r.fence, r.lane,
       r.priority, r.overlap, r.nominal_at, r.effective_at, r.available_at, r.queued_at, r.started_at, r.finished_at,
       r.output, r.input, r.holder, r.lost, r.cancel_requested_at, a.error_kind, a.error_message, a.progress,
       a.fraction
  FROM tocsin.runs r
  JOIN tocsin.triggers t ON t.id = r.trigger_id
  LEFT JOIN tocsin.attempts a ON a.run_id = r.id AND a.fence = r.fence
 WHERE (:trigger_id::uuid IS NULL OR r.trigger_id = :trigger_id)
   AND (:agent::text IS NULL OR r.agent = :agent)
   AND (:states::text[] IS NULL OR r.state = ANY (:states))
   AND (:before::uuid IS NULL OR r.id < :before)
   AND (:since::timestamptz IS NULL OR r.queued_at >= :since AND r.id >= :first::uuid)
 ORDER BY r.id DESC
 LIMIT :limit::bigint

-- name: get_run
-- One run by its id.
SELECT r.id, t.name AS trigger, r.agent, r.kind, r.state, r.reason, r.attempt, r.max_attempts, r.fence, r.lane,
       r.priority, r.overlap, r.nominal_at, r.effective_at, r.available_at, r.queued_at, r.started_at, r.finished_at,
       r.output, r.input, r.holder, r.lost, r.cancel_requested_at, a.error_kind, a.error_message, a.progress,
       a.fraction
  FROM tocsin.runs r
  JOIN tocsin.triggers t ON t.id = r.trigger_id
  LEFT JOIN tocsin.attempts a ON a.run_id = r.id AND a.fence = r.fence
 WHERE r.id = :id::uuid

-- name: get_trail
-- The transitions of one run, in order.
SELECT t.seq, t.from_state, t.to_state, t.attempt, t.fence, t.actor, t.reason, t.at
  FROM tocsin.transitions t
 WHERE t.run_id = :id::uuid
 ORDER BY t.seq

-- name: get_attempts
-- What the attempts of one run had to tell, in order.
SELECT a.fence, a.attempt, a.error_kind, a.error_message, a.progress, a.fraction, a.progress_at, a.usage, a.log
  FROM tocsin.attempts a
 WHERE a.run_id = :id::uuid
 ORDER BY a.fence

-- name: get_late_results
-- Results that came after the fence had risen.
SELECT l.fence, l.holder, l.state, l.output, l.error, l.received_at
  FROM tocsin.late_results l
 WHERE l.run_id = :id::uuid
 ORDER BY l.fence

-- name: summary
-- How runs that were queued, begun or ended since an instant stand. :first bounds the walk by id.
SELECT count(*) AS occurrences,
       count(*) FILTER (WHERE r.state = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE r.state = 'failed') AS failed,
       count(*) FILTER (WHERE r.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE r.state = 'queued') AS queued,
       count(*) FILTER (WHERE r.state = 'running') AS running
  FROM tocsin.runs r
 WHERE r.id >= :first::uuid
   AND greatest(r.queued_at, r.started_at, r.finished_at) >= :since::timestamptz

-- name: summary_skips
-- Skipped occurrences since an instant, by reason.
SELECT s.reason, sum(s.count)::bigint AS count
  FROM (SELECT r.reason, count(*) AS count FROM tocsin.runs r
         WHERE r.id >= :first::uuid AND r.finished_at >= :since::timestamptz AND r.state = 'skipped'
         GROUP BY r.reason
         UNION ALL
        SELECT k.reason, k.count FROM tocsin.skips k WHERE k.decided_at >= :since) s
 GROUP BY s.reason
 ORDER BY s.reason

-- name: summary_lateness
-- First begin minus effective instant of scheduled live runs since an instant, in seconds.
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY l.late) AS p50,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY l.late) AS p99,
       max(l.late) AS max
  FROM (SELECT extract(epoch FROM t.at - r.effective_at)::double precision AS late
          FROM tocsin.runs r
          JOIN tocsin.transitions t ON t.run_id = r.id AND t.to_state = 'running' AND t.fence = 1
         WHERE r.id >= :first::uuid AND t.at >= :since::timestamptz
           AND r.kind = 'schedule' AND r.lane = 'live') l

-- name: prune_runs
-- Drop runs that ended before an instant, a batch, with all that hangs on them.
WITH old AS MATERIALIZED (
    SELECT r.id
      FROM tocsin.runs r
     WHERE r.id < :below::uuid AND r.finished_at < :before::timestamptz
       AND NOT EXISTS (SELECT FROM tocsin.last_successes l WHERE l.trigger_id = r.trigger_id AND l.run_id = r.id)
     ORDER BY r.id
     LIMIT :batch::bigint
       FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM tocsin.runs r USING old o WHERE r.id = o.id
    RETURNING r.id, r.trigger_id, r.nominal_at, r.occurrence_key
), instants AS (
    DELETE FROM tocsin.occurrences x USING gone g
     WHERE x.trigger_id = g.trigger_id AND x.nominal_at = g.nominal_at AND x.key IS NULL AND x.run_id = g.id
), keys AS (
    DELETE FROM tocsin.occurrences x USING gone g
     WHERE x.trigger_id = g.trigger_id AND x.key = g.occurrence_key AND x.run_id = g.id
), trails AS (
    DELETE FROM tocsin.past_transitions t USING old o WHERE t.run_id = o.id
), tellings AS (
    DELETE FROM tocsin.attempts a USING old o WHERE a.run_id = o.id
), late AS (
    DELETE FROM tocsin.late_results l USING old o WHERE l.run_id = o.id
)
SELECT count(*) AS count FROM gone
