-- name: claim
-- Take what is ready, within quotas, lanes, limits and overlap: claimed runs come back with fence + 1.
-- One snapshot judges, the two unique indexes on running rows have the last word: a claim that lost a
-- race raises unique_violation as a whole and is tried again. passed_over: candidates that used up quota
-- for nothing, because one of their scope or key was taken; the next claim does not see them as ready.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), mine AS (
    SELECT l.holder
      FROM tocsin.leases l, instant
     WHERE l.holder = :holder::uuid AND l.ended_at IS NULL AND l.expires_at > instant.now
), wanted AS (
    SELECT w.agent, w.lane, w.turn, a.concurrency, a.concurrency_key,
           CASE WHEN a.concurrency IS NULL OR a.concurrency_key IS NOT NULL THEN w.quota
                ELSE least(w.quota, a.concurrency - (
                    SELECT count(*) FROM tocsin.runs h
                     WHERE h.permit_scope = a.name AND h.permit IS NOT NULL AND h.state = 'running'))
           END AS quota
      FROM mine
     CROSS JOIN unnest(:agents::text[], :lanes::text[], :quotas::bigint[]) WITH ORDINALITY
           AS w (agent, lane, quota, turn)
      JOIN tocsin.agents a ON a.name = w.agent
), candidates AS MATERIALIZED (
    SELECT c.row, c.id, c.kind, c.priority, c.lane, c.available_at, c.nominal_at, c.not_after, c.deadline_at,
           c.overlap, c.scope, c.fence, c.permit_scope, w.concurrency,
           c.scope IS NULL AND w.concurrency IS NULL AND c.deadline_at IS NULL AND c.not_after IS NULL AS is_free
      FROM (SELECT * FROM wanted WHERE quota > 0 ORDER BY turn) w
     CROSS JOIN LATERAL (
        SELECT r.ctid AS row, r.id, r.kind, r.priority, r.lane, r.available_at, r.nominal_at, r.not_after,
               r.deadline_at, r.overlap, r.scope, r.fence,
               CASE WHEN w.concurrency IS NULL THEN NULL
                    WHEN w.concurrency_key IS NULL THEN w.agent
                    ELSE w.agent || '/' || tocsin.key_of(r.input, w.concurrency_key)
               END AS permit_scope
          FROM tocsin.runs r
         WHERE r.state = 'queued'
           AND r.agent = w.agent
           AND r.lane = w.lane
           AND r.available_at <= (SELECT now FROM instant)
           AND (r.scope IS NULL
                OR r.not_after < (SELECT now FROM instant)
                OR NOT EXISTS (
                    SELECT FROM tocsin.runs h
                     WHERE h.scope = r.scope AND h.state = 'running'
                       AND (r.fence > 0 OR h.kind = 'backfill'
                            OR r.overlap IN ('queue_one', 'queue_all')
                            OR r.overlap = 'cancel_previous' AND h.cancel_requested_at IS NOT NULL)))
           AND (w.concurrency_key IS NULL OR w.concurrency > (
                    SELECT count(*) FROM tocsin.runs h
                     WHERE h.permit IS NOT NULL AND h.state = 'running' AND h.permit_scope = w.agent || '/'
                           || tocsin.key_of(r.input, w.concurrency_key)))
         ORDER BY r.priority DESC, r.available_at, r.id
         LIMIT w.quota
           FOR UPDATE OF r SKIP LOCKED
     ) c
     LIMIT :free::bigint
), taken AS (
    UPDATE tocsin.runs r
       SET state = 'running', reason = NULL, holder = :holder, fence = r.fence + 1, attempt = r.attempt + 1,
           seq = r.seq + 1, started_at = (SELECT now FROM instant), cancel_requested_at = NULL, cancel_reason = NULL
     WHERE r.ctid = ANY (ARRAY(SELECT c.row FROM candidates c WHERE c.is_free))
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.started_at, r.deadline_at, r.input, r.seq, r.state, r.reason,
              r.occurrence_key, r.lane, false AS scoped
), weighed AS (
    SELECT c.id, c.overlap, c.scope, c.permit_scope, c.concurrency,
           CASE
               WHEN c.deadline_at <= instant.now OR c.fence = 0 AND c.not_after < instant.now THEN 'expired'
               WHEN c.scope IS NULL THEN 'claim'
               WHEN busy.id IS NOT NULL AND (c.fence > 0 OR busy.kind = 'backfill') THEN 'wait'
               WHEN busy.id IS NOT NULL AND c.overlap = 'skip' THEN 'overlap'
               WHEN busy.id IS NOT NULL AND c.overlap = 'cancel_previous' THEN 'supersede'
               WHEN busy.id IS NOT NULL THEN 'wait'
               WHEN c.fence = 0 AND c.overlap IN ('queue_one', 'cancel_previous') AND EXISTS (
                    SELECT FROM tocsin.runs n
                     WHERE n.scope = c.scope AND n.state = 'queued' AND n.kind = c.kind
                       AND n.overlap IN ('queue_one', 'cancel_previous')
                       AND n.available_at <= instant.now
                       AND (n.nominal_at, n.id) > (c.nominal_at, c.id)) THEN 'overlap'
               WHEN NOT pg_try_advisory_xact_lock(hashtextextended(c.scope, 0)) THEN 'wait'
               ELSE 'claim'
           END AS verdict,
           c.priority, c.lane, c.available_at, c.fence
      FROM candidates c
     CROSS JOIN instant
      LEFT JOIN tocsin.runs busy ON c.scope IS NOT NULL AND busy.scope = c.scope AND busy.state = 'running'
     WHERE NOT c.is_free
), ranked AS (
    SELECT w.*,
           CASE WHEN w.verdict = 'claim' AND w.scope IS NOT NULL THEN row_number() OVER (
               PARTITION BY w.scope, w.verdict ORDER BY w.lane DESC, w.priority DESC, w.available_at, w.id)
           END AS place
      FROM weighed w
), ruled AS (
    SELECT r.id, r.scope, r.permit_scope, r.concurrency,
           CASE WHEN r.place > 1 AND r.overlap = 'skip' AND r.fence = 0 THEN 'overlap'
                WHEN r.place > 1 THEN 'behind'
                ELSE r.verdict END AS verdict,
           r.priority, r.available_at
      FROM ranked r
), placed AS (
    SELECT r.id, r.permit_scope, r.concurrency,
           CASE WHEN r.permit_scope IS NOT NULL THEN row_number() OVER (
               PARTITION BY r.permit_scope ORDER BY r.priority DESC, r.available_at, r.id)
           END AS place
      FROM ruled r
     WHERE r.verdict = 'claim'
), free_permits AS (
    SELECT s.permit_scope, p.permit, row_number() OVER (PARTITION BY s.permit_scope ORDER BY p.permit) AS place
      FROM (SELECT n.permit_scope, n.concurrency,
                   least(max(n.place), n.concurrency - (
                       SELECT count(*) FROM tocsin.runs h
                        WHERE h.permit_scope = n.permit_scope AND h.permit IS NOT NULL AND h.state = 'running')) AS needed
              FROM placed n
             WHERE n.permit_scope IS NOT NULL
             GROUP BY n.permit_scope, n.concurrency) s
     CROSS JOIN LATERAL (
        SELECT g.permit
          FROM generate_series(0, s.concurrency - 1) AS g (permit)
         WHERE NOT EXISTS (
            SELECT FROM tocsin.runs h
             WHERE h.permit_scope = s.permit_scope AND h.permit = g.permit AND h.state = 'running')
         LIMIT greatest(s.needed, 0)) p
), granted AS (
    SELECT r.id, r.permit_scope, p.permit
      FROM placed r
      LEFT JOIN free_permits p ON p.permit_scope = r.permit_scope AND p.place = r.place
     WHERE r.permit_scope IS NULL OR p.permit IS NOT NULL
), claimed AS (
    UPDATE tocsin.runs r
       SET state = 'running', reason = NULL, holder = :holder, fence = r.fence + 1, attempt = r.attempt + 1,
           seq = r.seq + 1, permit_scope = g.permit_scope, permit = g.permit, started_at = instant.now,
           cancel_requested_at = NULL, cancel_reason = NULL
      FROM granted g, instant
     WHERE r.id = g.id
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.started_at, r.deadline_at, r.input, r.seq, r.state, r.reason,
              r.occurrence_key, r.lane, r.scope IS NOT NULL OR g.permit IS NOT NULL AS scoped
), skipped AS (
    UPDATE tocsin.runs r
       SET state = 'skipped', reason = d.verdict, seq = r.seq + 1, finished_at = instant.now
      FROM ruled d, instant
     WHERE r.id = d.id AND d.verdict IN ('overlap', 'expired')
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.started_at, r.deadline_at, r.input, r.seq, r.state, r.reason,
              r.occurrence_key, r.lane, false AS scoped
), superseded AS (
    UPDATE tocsin.runs p
       SET cancel_requested_at = instant.now, cancel_reason = 'superseded'
      FROM (SELECT DISTINCT d.scope FROM ruled d WHERE d.verdict = 'supersede') d, instant
     WHERE p.scope = d.scope AND p.state = 'running' AND p.cancel_requested_at IS NULL
    RETURNING pg_notify('tocsin', 'cancel ' || :actor::text)
), decided AS (
    SELECT * FROM taken UNION ALL SELECT * FROM claimed UNION ALL SELECT * FROM skipped
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT d.id, d.seq, 'queued', d.state, d.attempt, d.fence, :actor::text, d.reason, instant.now
      FROM decided d, instant
)
SELECT d.id, d.trigger_id, t.name AS trigger, d.agent, d.kind, d.lane, d.fence, d.attempt, d.max_attempts,
       d.nominal_at, d.effective_at, d.started_at, d.deadline_at, d.input, d.occurrence_key, d.scoped,
       t.status = 'waiting' AS rearms, l.run_id AS last_id, l.nominal_at AS last_nominal_at,
       l.finished_at AS last_finished_at, lr.output AS last_output, d.state, d.reason, p.passed_over
  FROM (SELECT (SELECT count(*) FROM candidates c WHERE c.is_free)
               + (SELECT count(*) FROM ruled r WHERE r.verdict <> 'wait') - (SELECT count(*) FROM decided)
               AS passed_over) p
  LEFT JOIN decided d ON true
  LEFT JOIN tocsin.triggers t ON t.id = d.trigger_id
  LEFT JOIN tocsin.last_successes l ON l.trigger_id = d.trigger_id AND d.state = 'running'
  LEFT JOIN tocsin.runs lr ON lr.id = l.run_id

-- name: settle
-- Close attempts, or queue their runs again; a row comes back for each that was still ours.
-- A fenced result is kept apart. Sending the same settlement twice changes nothing and answers the same.
-- Only running rows have a holder. IS NOT DISTINCT FROM keeps the partial indexes on running rows out of
-- the plan: each row is found by its key, however many are running.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), given AS (
    SELECT g.id, g.fence, g.state, g.reason, coalesce(g.delay, interval '0') AS delay,
           g.uncounted IS NULL AS counted, g.output::jsonb AS output,
           g.error_kind, g.error_message, g.usage::jsonb AS usage, g.log
      FROM unnest(:ids::uuid[], :fences::bigint[], :states::text[], :reasons::text[], :delays::interval[],
                  :uncounted::boolean[], :outputs::text[], :error_kinds::text[], :error_messages::text[],
                  :usages::text[], :logs::text[])
        AS g (id, fence, state, reason, delay, uncounted, output, error_kind, error_message, usage, log)
), closed AS (
    UPDATE tocsin.runs r
       -- Somebody asked for the end of it while the attempt was failing by itself: it is not begun again.
       SET state = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NOT NULL THEN 'cancelled'
                        ELSE g.state END,
           reason = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NOT NULL
                         THEN coalesce(r.cancel_reason, 'cancelled') ELSE g.reason END,
           holder = NULL, permit = NULL, permit_scope = NULL, seq = r.seq + 1, output = g.output,
           attempt = CASE WHEN g.counted THEN r.attempt ELSE r.attempt - 1 END,
           available_at = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NULL
                               THEN instant.now + g.delay ELSE r.available_at END,
           finished_at = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NULL
                              THEN NULL ELSE instant.now END
      FROM given g, instant
     WHERE r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
    RETURNING r.id, r.fence, r.seq, r.state, r.reason, r.trigger_id, r.nominal_at, r.finished_at, r.attempt,
              CASE WHEN g.counted THEN r.attempt ELSE r.attempt + 1 END AS tried,
              g.error_kind, g.error_message, g.usage, g.log
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT c.id, c.seq, 'running', c.state, c.tried, c.fence, :actor::text, c.reason, instant.now
      FROM closed c, instant
), told AS (
    INSERT INTO tocsin.attempts AS a (run_id, fence, attempt, error_kind, error_message, usage, log)
    SELECT c.id, c.fence, c.tried, c.error_kind, c.error_message, c.usage, c.log
      FROM closed c
     WHERE c.error_kind IS NOT NULL OR c.usage IS NOT NULL OR c.log IS NOT NULL
    ON CONFLICT (run_id, fence) DO UPDATE
       SET error_kind = excluded.error_kind, error_message = excluded.error_message,
           usage = coalesce(excluded.usage, a.usage), log = coalesce(excluded.log, a.log)
), remembered AS (
    INSERT INTO tocsin.last_successes AS l (trigger_id, run_id, nominal_at, finished_at)
    SELECT DISTINCT ON (c.trigger_id) c.trigger_id, c.id, c.nominal_at, c.finished_at
      FROM closed c
     WHERE c.state = 'succeeded'
     ORDER BY c.trigger_id, c.nominal_at DESC
    ON CONFLICT (trigger_id) DO UPDATE
       SET run_id = excluded.run_id, nominal_at = excluded.nominal_at, finished_at = excluded.finished_at
), asked AS (
    SELECT f.id, f.key, f.input, w.at, p.trigger_id, p.trigger_version, p.agent, p.priority, p.scope, a.deadline,
           a.max_attempts
      FROM unnest(:follow_ids::uuid[], :follow_parents::uuid[], :follow_keys::text[], :follow_ats::timestamptz[],
                  :follow_afters::interval[], :follow_inputs::text[])
        AS f (id, parent, key, at, after, input)
     CROSS JOIN instant
     CROSS JOIN LATERAL (SELECT greatest(instant.now, coalesce(f.at, instant.now + f.after)) AS at) w
      JOIN closed c ON c.id = f.parent AND c.state <> 'queued'
      JOIN tocsin.runs p ON p.id = c.id
      JOIN tocsin.agents a ON a.name = p.agent
      JOIN tocsin.triggers t ON t.id = p.trigger_id AND t.status <> 'deleted'
     WHERE cardinality(:follow_ids) > 0
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
    SELECT k.trigger_id, k.at, k.key, k.id FROM asked k
    ON CONFLICT DO NOTHING
    RETURNING run_id
), woken AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at,
                             occurrence_key, lane, priority, overlap, scope, available_at, deadline_at,
                             max_attempts, input, queued_at)
    SELECT k.id, k.trigger_id, k.trigger_version, k.agent, 'follow_up', k.at, k.at, k.key, 'live', k.priority,
           CASE WHEN k.scope IS NULL THEN 'allow' ELSE 'queue_all' END, k.scope, k.at, k.at + k.deadline,
           k.max_attempts, k.input::jsonb, instant.now
      FROM asked k, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id, queued_at
), woken_trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT w.id, 1, NULL, 'queued', 0, 0, :actor::text, 'follow_up', w.queued_at
      FROM woken w
), missed AS MATERIALIZED (
    SELECT g.*
      FROM given g
     WHERE (SELECT count(*) FROM closed) < cardinality(:ids)
       AND NOT EXISTS (SELECT FROM closed c WHERE c.id = g.id)
), ours_before AS MATERIALIZED (
    SELECT m.id, m.fence
      FROM missed m
      JOIN tocsin.transitions t
        ON t.run_id = m.id AND t.fence = m.fence AND t.from_state = 'running' AND t.actor = :actor
       AND t.to_state = m.state AND t.reason IS NOT DISTINCT FROM m.reason
), kept_apart AS (
    INSERT INTO tocsin.late_results (run_id, fence, holder, state, output, error, received_at)
    SELECT m.id, m.fence, :holder, m.state, m.output, m.error_message, instant.now
      FROM missed m, instant
     WHERE NOT EXISTS (SELECT FROM ours_before o WHERE o.id = m.id AND o.fence = m.fence)
       AND m.state IN ('succeeded', 'failed')
    ON CONFLICT DO NOTHING
)
SELECT c.id, c.fence,
       CASE WHEN c.state = 'queued' THEN pg_notify('tocsin', 'runs ' || :actor) END AS hint
  FROM closed c
 UNION ALL
SELECT o.id, o.fence, NULL FROM ours_before o

-- name: report
-- Progress and usage of attempts in hand, fenced; a row comes back for each that was still ours.
INSERT INTO tocsin.attempts AS a (run_id, fence, attempt, progress, fraction, progress_at, usage)
SELECT r.id, r.fence, r.attempt, g.progress, g.fraction, coalesce(:now::timestamptz, now()), g.usage::jsonb
  FROM unnest(:ids::uuid[], :fences::bigint[], :progress::text[], :fractions::double precision[], :usages::text[])
    AS g (id, fence, progress, fraction, usage)
  JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
ON CONFLICT (run_id, fence) DO UPDATE
   SET progress = coalesce(excluded.progress, a.progress),
       fraction = coalesce(excluded.fraction, a.fraction),
       progress_at = excluded.progress_at,
       usage = coalesce(excluded.usage, a.usage)
RETURNING a.run_id

-- name: sweep
-- Take running runs from holders that have no live lease: queued again, or closed by their policy.
-- A lost attempt is not counted; what bounds them is :poisoned_after. A lease that was ended is a verdict:
-- what is left of its runs, when there were more than a batch, needs no other.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), suspect AS MATERIALIZED (
    SELECT h.holder
      FROM (SELECT DISTINCT r.holder FROM tocsin.runs r WHERE r.state = 'running') h
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
      JOIN tocsin.runs r ON r.holder = d.holder AND r.state = 'running'
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
           attempt = CASE WHEN j.state = 'queued' THEN r.attempt - 1 ELSE r.attempt END,
           available_at = CASE WHEN j.state = 'queued' THEN instant.now ELSE r.available_at END,
           finished_at = CASE WHEN j.state = 'queued' THEN NULL ELSE instant.now END
      FROM judged j, instant
     WHERE r.id = j.id AND r.fence = j.fence AND r.holder IS NOT DISTINCT FROM j.holder
    RETURNING r.id, r.fence, r.seq, j.attempt, r.state, r.reason, r.trigger_id, r.agent, j.holder
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT s.id, s.seq, 'running', s.state, s.attempt, s.fence, :actor::text, s.reason, instant.now
      FROM swept s, instant
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
           permit_scope = NULL, seq = r.seq + 1, finished_at = instant.now
      FROM overdue o, instant
     WHERE r.id = o.id AND r.fence = o.fence AND r.holder IS NOT DISTINCT FROM o.holder
    RETURNING r.id, r.fence, r.seq, r.attempt, r.reason, r.trigger_id
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT f.id, f.seq, 'running', 'cancelled', f.attempt, f.fence, :actor::text, f.reason, instant.now
      FROM fenced f, instant
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
                             max_attempts, input, queued_at)
    SELECT k.id, k.trigger_id, k.version, k.agent, :kind::text, k.nominal_at, k.nominal_at, k.key, :lane::text,
           :priority::smallint, :overlap, k.scope, instant.now, instant.now + k.deadline, k.max_attempts, k.input,
           instant.now
      FROM asked k, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id, queued_at
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT i.id, 1, NULL, 'queued', 0, 0, :actor::text, :kind, i.queued_at
      FROM inserted i
), hint AS (
    SELECT pg_notify('tocsin', 'runs ' || :actor::text) FROM inserted LIMIT 1
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
       SET state = 'cancelled', reason = :reason::text, seq = r.seq + 1, finished_at = instant.now
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'queued' AND r.state = 'queued'
    RETURNING r.id, r.seq, r.attempt, r.fence
), asked AS (
    UPDATE tocsin.runs r
       SET cancel_requested_at = coalesce(r.cancel_requested_at, instant.now),
           cancel_reason = coalesce(r.cancel_reason, :reason)
      FROM target t, instant
     WHERE r.id = t.id AND t.state = 'running' AND r.state = 'running'
    RETURNING r.id
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'queued', 'cancelled', e.attempt, e.fence, :actor::text, :reason, instant.now
      FROM ended e, instant
), hint AS (
    SELECT pg_notify('tocsin', 'cancel ' || :actor::text) FROM asked
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
       SET state = 'skipped', reason = :reason::text, seq = r.seq + 1, finished_at = instant.now
      FROM instant
     WHERE r.trigger_id = :trigger_id::uuid AND r.state = 'queued' AND r.fence = 0
       AND r.kind = ANY (:kinds::text[])
    RETURNING r.id, r.seq, r.attempt, r.fence
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT w.id, w.seq, 'queued', 'skipped', w.attempt, w.fence, :actor::text, :reason, instant.now
      FROM withdrawn w, instant
)
SELECT count(*) AS count FROM withdrawn

-- name: cancel_backfill
-- Cancel what is still queued of one backfill.
WITH ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'cancelled', seq = r.seq + 1,
           finished_at = coalesce(:now::timestamptz, now())
     WHERE r.trigger_id = :trigger_id::uuid AND r.kind = 'backfill' AND r.state = 'queued'
       AND starts_with(r.occurrence_key, :prefix::text)
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'queued', 'cancelled', e.attempt, e.fence, :actor::text, 'cancelled', e.finished_at
      FROM ended e
)
SELECT count(*) AS count FROM ended

-- name: cancel_queued
-- Cancel every queued run of a trigger, retries included: it is taken out of service.
WITH ended AS (
    UPDATE tocsin.runs r
       SET state = 'cancelled', reason = 'withdrawn', seq = r.seq + 1,
           finished_at = coalesce(:now::timestamptz, now())
     WHERE r.trigger_id = :trigger_id::uuid AND r.state = 'queued'
    RETURNING r.id, r.seq, r.attempt, r.fence, r.finished_at
), trail AS (
    INSERT INTO tocsin.transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT e.id, e.seq, 'queued', 'cancelled', e.attempt, e.fence, :actor::text, 'withdrawn', e.finished_at
      FROM ended e
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
    DELETE FROM tocsin.transitions t USING old o WHERE t.run_id = o.id
), tellings AS (
    DELETE FROM tocsin.attempts a USING old o WHERE a.run_id = o.id
), late AS (
    DELETE FROM tocsin.late_results l USING old o WHERE l.run_id = o.id
)
SELECT count(*) AS count FROM gone
