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
           -- Of agent processes bury_instances is the judge.
           AND NOT EXISTS (SELECT FROM tocsin.instances i WHERE i.id = h.holder)
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
    RETURNING r.id, r.seq, r.fence, j.attempt, r.state, r.reason, r.trigger_id, r.agent, r.effective_at, r.started_at,
              j.holder
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT s.id, s.seq, s.state, s.attempt, s.fence, :actor, s.reason, instant.now
      FROM swept s, instant
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), past AS (
    INSERT INTO tocsin.past_transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT s.id, e.seq, e.from_state, e.to_state, s.attempt, s.fence, e.actor, e.reason, e.at
      FROM swept s
     CROSS JOIN instant
     CROSS JOIN LATERAL (
        VALUES (2 * s.fence, 'queued', 'running', tocsin.actor_of(s.holder), NULL, s.started_at),
               (2 * s.fence + 1, 'running', 'queued', :actor, s.reason, instant.now))
        AS e (seq, from_state, to_state, actor, reason, at)
     WHERE s.state = 'queued'
), told AS (
    INSERT INTO tocsin.attempts AS a (run_id, fence, attempt, error_kind, error_message)
    SELECT s.id, s.fence, s.attempt, 'Lost', 'its holder ' || s.holder || ' was lost'
      FROM swept s
    ON CONFLICT (run_id, fence) DO UPDATE
       SET error_kind = excluded.error_kind, error_message = excluded.error_message
), heard AS (
    INSERT INTO tocsin.events (source, id, type, subject, time, data, depth, received_at)
    SELECT 'tocsin', s.id::text, 'run.failed', t.name, instant.now,
           tocsin.told_of_run(r.id, t.name, r.agent, r.kind, s.attempt, s.reason, r.nominal_at, NULL,
                              'Lost: its holder ' || s.holder || ' was lost'),
           r.depth, instant.now
      FROM swept s
      JOIN tocsin.runs r ON r.id = s.id
      JOIN tocsin.triggers t ON t.id = s.trigger_id
     CROSS JOIN instant
     WHERE s.state = 'failed' AND tocsin.is_heard('run.failed', t.name)
     ORDER BY s.id
    ON CONFLICT DO NOTHING
    RETURNING pg_notify('tocsin', 'events settled')
)
SELECT s.id, s.fence, s.attempt, s.state, s.reason, s.agent, t.name AS trigger, s.holder, s.effective_at, s.started_at,
       instant.now AS at,
       CASE WHEN s.state = 'queued' THEN pg_notify('tocsin', 'runs ' || :actor) END AS hint
  FROM swept s
  JOIN tocsin.triggers t ON t.id = s.trigger_id
 CROSS JOIN instant

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
    RETURNING r.id, r.seq, r.fence, r.attempt, r.state, r.reason, r.trigger_id, r.agent, o.holder, r.effective_at,
              r.started_at, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT f.id, f.seq, 'cancelled', f.attempt, f.fence, :actor, f.reason, f.finished_at
      FROM fenced f
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
)
SELECT f.id, f.fence, f.attempt, f.state, f.reason, f.agent, t.name AS trigger, f.holder, f.effective_at, f.started_at,
       instant.now AS at
  FROM fenced f
  JOIN tocsin.triggers t ON t.id = f.trigger_id
 CROSS JOIN instant

-- name: enqueue
-- Runs asked for of one trigger, many at once. One row says how many are new; then one for each key seen before, with
-- the run it gave then.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), target AS MATERIALIZED (
    SELECT t.id, t.version, t.agent, t.input, a.deadline, a.max_attempts
      FROM tocsin.triggers t
      JOIN tocsin.agents a ON a.name = t.agent
     WHERE t.id = :trigger_id::uuid AND t.status <> 'deleted'
), asked AS MATERIALIZED (
    SELECT g.id, coalesce(g.nominal_at, :nominal::timestamptz, instant.now) AS nominal_at, g.key,
           coalesce(g.input::jsonb, t.input) AS input
      FROM unnest(:ids::uuid[], :nominals::timestamptz[], :keys::text[], :inputs::text[])
        AS g (id, nominal_at, key, input)
     CROSS JOIN target t
     CROSS JOIN instant
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
    SELECT :trigger_id, k.nominal_at, k.key, k.id FROM asked k
    ON CONFLICT DO NOTHING
    RETURNING run_id
), inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at,
                             occurrence_key, lane, priority, overlap, scope, available_at, deadline_at,
                             max_attempts, input, queued_at, asked_by)
    SELECT k.id, t.id, t.version, t.agent, :kind::text, k.nominal_at, k.nominal_at, k.key, :lane::text,
           :priority::smallint, :overlap::text,
           tocsin.scope_of(t.id, t.agent, :overlap, :overlap_scope::text, k.input),
           instant.now, instant.now + t.deadline, t.max_attempts, k.input, instant.now, :actor::text
      FROM asked k, target t, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id, queued_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT i.id, 1, 'queued', 0, 0, :actor, :kind, i.queued_at
      FROM inserted i
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), hint AS (
    SELECT count(*) AS created,
           CASE WHEN count(*) > 0 THEN pg_notify('tocsin', 'runs ' || :actor) END AS told
      FROM inserted
)
SELECT NULL::text AS key, NULL::uuid AS run_id, h.created, h.told FROM hint h
 UNION ALL
SELECT k.key, o.run_id, NULL, NULL
  FROM asked k
  JOIN tocsin.occurrences o ON o.trigger_id = :trigger_id AND o.key = k.key
 WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS NOT TRUE

-- name: fire
-- A run of a named trigger now, in one round trip; a key seen before gives the run it gave then. Where a slot was kept
-- here for :agent, and nothing stands in the run's way, it is begun in the same commit, as in materialise. No row
-- comes back for a trigger that is not there, is broken, or says of its overlap what only its reader can judge.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), asked AS MATERIALIZED (
    SELECT t.id AS trigger_id, t.name, t.version, t.agent, a.deadline, a.max_attempts, i.input, p.overlap,
           (t.policy ->> 'priority')::smallint AS priority,
           tocsin.scope_of(t.id, t.agent, p.overlap, t.policy ->> 'overlap_scope', i.input) AS scope,
           t.agent = :agent::text AND a.concurrency IS NULL
               AND EXISTS (SELECT FROM tocsin.leases l, instant
                            WHERE l.holder = :holder::uuid AND l.ended_at IS NULL AND l.expires_at > instant.now)
               AND NOT EXISTS (SELECT FROM tocsin.runs q, instant
                                WHERE q.state = 'queued' AND q.agent = t.agent AND q.lane = 'live'
                                  AND q.available_at <= instant.now) AS may_begin
      FROM tocsin.triggers t
      JOIN tocsin.agents a ON a.name = t.agent
     CROSS JOIN LATERAL (SELECT coalesce(:input::jsonb, t.input) AS input) i
     CROSS JOIN LATERAL (
        SELECT CASE WHEN t.policy ->> 'overlap' = 'allow' THEN 'allow' ELSE 'queue_one' END AS overlap) p
     WHERE t.name = :name::text AND t.status NOT IN ('deleted', 'broken')
       AND jsonb_typeof(t.policy -> 'overlap') = 'string' AND jsonb_typeof(t.policy -> 'overlap_scope') = 'string'
       AND t.policy -> 'priority' IN ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
), judged AS MATERIALIZED (
    SELECT k.*,
           CASE WHEN k.may_begin IS NOT TRUE THEN false
                WHEN k.scope IS NULL THEN true
                WHEN (SELECT h.scope FROM tocsin.runs h WHERE h.scope = k.scope AND h.state = 'running') IS NOT NULL
                THEN false
                ELSE pg_try_advisory_xact_lock(hashtextextended(k.scope, 0))
           END AS begun
      FROM asked k
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
    SELECT j.trigger_id, instant.now, :key::text, :id::uuid FROM judged j, instant
    ON CONFLICT DO NOTHING
    RETURNING run_id
), inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, occurrence_key,
                             lane, priority, overlap, scope, available_at, deadline_at, max_attempts, input,
                             queued_at, asked_by, state, holder, claimed_by, fence, attempt, seq, started_at)
    SELECT :id, j.trigger_id, j.version, j.agent, 'manual', instant.now, instant.now, :key, 'live', j.priority,
           j.overlap, j.scope, instant.now, instant.now + j.deadline, j.max_attempts, j.input, instant.now,
           :actor::text,
           CASE WHEN j.begun THEN 'running' ELSE 'queued' END,
           CASE WHEN j.begun THEN :holder END,
           CASE WHEN j.begun THEN :holder END,
           j.begun::integer, j.begun::integer, 1 + j.begun::integer,
           CASE WHEN j.begun THEN instant.now END
      FROM judged j, instant
     WHERE EXISTS (SELECT FROM fresh)
    RETURNING id, trigger_id, agent, kind, lane, fence, attempt, max_attempts, nominal_at, effective_at, started_at,
              deadline_at, input, occurrence_key, scope IS NOT NULL AS scoped, state, priority, available_at,
              queued_at, holder
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT i.id, e.seq, e.to_state, e.seq - 1, e.seq - 1, e.actor, e.reason, i.queued_at
      FROM inserted i
     CROSS JOIN LATERAL (
        VALUES (1, 'queued', :actor, 'manual'), (2, 'running', tocsin.actor_of(i.holder), NULL))
        AS e (seq, to_state, actor, reason)
     WHERE EXISTS (SELECT FROM tocsin.feed_switch) AND (e.seq = 1 OR i.state = 'running')
), hint AS (
    SELECT pg_notify('tocsin', CASE i.state WHEN 'queued' THEN 'runs ' ELSE 'begun ' END || :actor) AS told
      FROM inserted i
)
SELECT i.id, j.trigger_id, j.name AS trigger, j.agent, i.kind, i.lane, i.fence, i.attempt, i.max_attempts,
       i.nominal_at, i.effective_at, i.available_at, i.started_at, i.deadline_at, i.input, i.occurrence_key, i.scoped,
       false AS rearms,
       l.run_id AS last_id, l.nominal_at AS last_nominal_at, l.finished_at AS last_finished_at,
       lr.output AS last_output, i.state, i.priority, i.queued_at, i.holder,
       o.run_id AS former, h.told
  FROM judged j
  LEFT JOIN inserted i ON true
  LEFT JOIN hint h ON true
  LEFT JOIN tocsin.occurrences o ON i.id IS NULL AND o.trigger_id = j.trigger_id AND o.key = :key
  LEFT JOIN tocsin.last_successes l ON i.state = 'running' AND l.trigger_id = j.trigger_id
  LEFT JOIN tocsin.runs lr ON lr.id = l.run_id

-- name: cancel_run
-- Ask for the end of a run: at once when it is queued, by its holder when it is running.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), target AS MATERIALIZED (
    SELECT r.id, r.state, r.trigger_id, r.cancel_requested_at IS NOT NULL AS was_asked
      FROM tocsin.runs r
     WHERE r.id = :id::uuid
       FOR UPDATE
), ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = :reason::text, seq = r.seq + 1, ended_by = :actor::text,
           finished_at = instant.now
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'queued' AND r.state = 'queued'
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'cancelled', e.attempt, e.fence, :actor, :reason, e.finished_at
      FROM ended e
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), asked AS (
    UPDATE tocsin.runs r
       SET cancel_requested_at = coalesce(r.cancel_requested_at, instant.now),
           cancel_reason = coalesce(r.cancel_reason, :reason)
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'running' AND r.state = 'running'
    RETURNING r.id
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor, 'cancelled', 'run', n.name, t.id, jsonb_build_object('was', t.state)
      FROM target t
      JOIN tocsin.triggers n ON n.id = t.trigger_id
     CROSS JOIN instant
     WHERE t.id IN (SELECT e.id FROM ended e) OR NOT t.was_asked AND t.id IN (SELECT a.id FROM asked a)
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
     WHERE r.trigger_id = :trigger_id::uuid AND r.holder IS NULL AND r.finished_at IS NULL AND r.fence = 0
       AND r.kind = ANY (:kinds::text[])
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT w.id, w.seq, 'skipped', w.attempt, w.fence, :actor, :reason, w.finished_at
      FROM withdrawn w
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
)
SELECT count(*) AS count FROM withdrawn

-- name: cancel_backfill
-- Cancel what is still queued of one backfill; known: whether it has, or had, any run at all.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'cancelled', seq = r.seq + 1, ended_by = :actor::text,
           finished_at = instant.now
      FROM instant
     WHERE r.trigger_id = :trigger_id::uuid AND r.holder IS NULL AND r.finished_at IS NULL AND r.kind = 'backfill'
       AND starts_with(r.occurrence_key, :prefix::text)
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'cancelled', e.attempt, e.fence, :actor, 'cancelled', e.finished_at
      FROM ended e
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor, 'cancelled', 'backfill', t.name, :backfill::uuid, jsonb_build_object('runs', e.count)
      FROM (SELECT count(*) AS count FROM ended) e
      JOIN tocsin.triggers t ON t.id = :trigger_id AND e.count > 0
     CROSS JOIN instant
)
SELECT (SELECT count(*) FROM ended) AS count,
       EXISTS (SELECT FROM tocsin.occurrences o
                WHERE o.trigger_id = :trigger_id AND o.key IS NOT NULL AND starts_with(o.key, :prefix)) AS known

-- name: cancel_queued
-- Cancel every queued run of a trigger, retries included: it is taken out of service.
WITH ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'withdrawn', seq = r.seq + 1, ended_by = :actor::text,
           finished_at = coalesce(:now::timestamptz, now())
     WHERE r.trigger_id = :trigger_id::uuid AND r.holder IS NULL AND r.finished_at IS NULL
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'cancelled', e.attempt, e.fence, :actor, 'withdrawn', e.finished_at
      FROM ended e
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
)
SELECT count(*) AS count FROM ended

-- name: list_runs
-- Runs, newest first, before a given id. The filters stand in one CASE, which the planner holds to pass half of
-- what it sees: so it walks the ids in order until the page is full, where it would else collect and sort them all.
SELECT r.id, t.name AS trigger, r.agent, r.kind, r.state, r.reason, r.attempt, r.max_attempts, r.fence, r.lane,
       r.priority, r.overlap, r.nominal_at, r.effective_at, r.available_at, r.queued_at, r.started_at, r.finished_at,
       r.output, r.input, r.holder, r.lost, r.cancel_requested_at, a.error_kind, a.error_message, a.progress,
       a.fraction
  FROM tocsin.runs r
  JOIN tocsin.triggers t ON t.id = r.trigger_id
  LEFT JOIN tocsin.attempts a ON a.run_id = r.id AND a.fence = r.fence
 WHERE r.id < coalesce(:before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND r.id >= coalesce(:first::uuid, '00000000-0000-0000-0000-000000000000')
   AND CASE WHEN r.trigger_id <> :trigger_id::uuid THEN false
            WHEN r.agent <> :agent::text THEN false
            WHEN r.state <> ALL (:states::text[]) THEN false
            WHEN r.queued_at < :since::timestamptz THEN false
            WHEN r.queued_at > :until::timestamptz THEN false
            ELSE true END
 ORDER BY r.id DESC
 LIMIT :limit::bigint

-- name: list_unsuccessful_runs
-- The same of any states but succeeded: few runs are in them, and each state is gone through by an index of its own.
-- Queued ones are collected while there are fewer than a thousand; of more, the newest are found as in list_runs.
WITH bounds AS (
    SELECT coalesce(:before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS below,
           coalesce(:first::uuid, '00000000-0000-0000-0000-000000000000') AS lowest
), queue AS MATERIALIZED (
    SELECT count(*) < 1000 AS is_short
      FROM (SELECT FROM tocsin.runs r
             WHERE 'queued' = ANY (:states::text[]) AND r.holder IS NULL AND r.finished_at IS NULL
             LIMIT 1000) q
), found AS MATERIALIZED (
    SELECT e.id
      FROM unnest(:states) AS s (state)
     CROSS JOIN LATERAL (
        SELECT r.id
          FROM tocsin.runs r
         WHERE r.state = s.state AND r.state IN ('failed', 'cancelled', 'skipped')
           AND r.id < (SELECT b.below FROM bounds b) AND r.id >= (SELECT b.lowest FROM bounds b)
           AND CASE WHEN r.trigger_id <> :trigger_id::uuid THEN false
                    WHEN r.agent <> :agent::text THEN false
                    WHEN r.queued_at < :since::timestamptz THEN false
                    WHEN r.queued_at > :until::timestamptz THEN false
                    ELSE true END
         ORDER BY r.id DESC
         LIMIT :limit::bigint) e
     UNION ALL
    SELECT r.id
      FROM tocsin.runs r
     WHERE 'running' = ANY (:states) AND r.holder IS NOT NULL
     UNION ALL
    SELECT r.id
      FROM tocsin.runs r
     WHERE 'queued' = ANY (:states) AND (SELECT q.is_short FROM queue q)
       AND r.holder IS NULL AND r.finished_at IS NULL
     UNION ALL
    (SELECT r.id
       FROM tocsin.runs r
      WHERE 'queued' = ANY (:states) AND NOT (SELECT q.is_short FROM queue q)
        AND r.id < (SELECT b.below FROM bounds b) AND r.id >= (SELECT b.lowest FROM bounds b)
        AND CASE WHEN r.state <> 'queued' THEN false
                 WHEN r.trigger_id <> :trigger_id THEN false
                 WHEN r.agent <> :agent THEN false
                 WHEN r.queued_at < :since THEN false
                 WHEN r.queued_at > :until THEN false
                 ELSE true END
      ORDER BY r.id DESC
      LIMIT :limit)
)
SELECT r.id, t.name AS trigger, r.agent, r.kind, r.state, r.reason, r.attempt, r.max_attempts, r.fence, r.lane,
       r.priority, r.overlap, r.nominal_at, r.effective_at, r.available_at, r.queued_at, r.started_at, r.finished_at,
       r.output, r.input, r.holder, r.lost, r.cancel_requested_at, a.error_kind, a.error_message, a.progress,
       a.fraction
  FROM found f
  JOIN tocsin.runs r ON r.id = f.id
  JOIN tocsin.triggers t ON t.id = r.trigger_id
  LEFT JOIN tocsin.attempts a ON a.run_id = r.id AND a.fence = r.fence
 WHERE f.id < (SELECT b.below FROM bounds b) AND f.id >= (SELECT b.lowest FROM bounds b)
   AND CASE WHEN r.trigger_id <> :trigger_id THEN false
            WHEN r.agent <> :agent THEN false
            WHEN r.state <> ALL (:states) THEN false
            WHEN r.queued_at < :since THEN false
            WHEN r.queued_at > :until THEN false
            ELSE true END
 ORDER BY r.id DESC
 LIMIT :limit

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
