-- name: claim
-- Take what is ready, within quotas, lanes, limits and overlap: claimed runs come back with fence + 1.
-- One snapshot judges, the two unique indexes on running rows have the last word: a claim that lost a
-- race raises unique_violation as a whole and is tried again. passed_over: candidates that used up quota
-- for nothing, because one of their scope or key was taken; the next claim does not see them as ready.
-- all_plain: claim_plain could have taken the same; NULL when nothing was ready.
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
                -- A scalar, so that it stays a probe for each.
                OR (SELECT h.id FROM tocsin.runs h
                     WHERE h.scope = r.scope AND h.state = 'running'
                       AND (r.fence > 0 OR h.kind = 'backfill'
                            OR r.overlap IN ('queue_one', 'queue_all')
                            OR r.overlap = 'cancel_previous' AND h.cancel_requested_at IS NOT NULL)) IS NULL)
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
       SET state = 'running', reason = NULL, holder = :holder, claimed_by = :holder, fence = r.fence + 1,
           attempt = r.attempt + 1, seq = r.seq + 1, started_at = (SELECT now FROM instant),
           cancel_requested_at = NULL, cancel_reason = NULL
     WHERE r.ctid = ANY (ARRAY(SELECT c.row FROM candidates c WHERE c.is_free))
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.available_at, r.started_at, r.deadline_at, r.input, r.state, r.reason,
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
      -- The limit keeps it a probe for each: a join may turn into a walk over all that runs.
      LEFT JOIN LATERAL (
        SELECT b.id, b.kind FROM tocsin.runs b WHERE b.scope = c.scope AND b.state = 'running' LIMIT 1) busy ON true
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
       SET state = 'running', reason = NULL, holder = :holder, claimed_by = :holder, fence = r.fence + 1,
           attempt = r.attempt + 1, seq = r.seq + 1, permit_scope = g.permit_scope, permit = g.permit,
           started_at = instant.now, cancel_requested_at = NULL, cancel_reason = NULL
      FROM granted g, instant
     WHERE r.id = g.id
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.available_at, r.started_at, r.deadline_at, r.input, r.state, r.reason,
              r.occurrence_key, r.lane, r.scope IS NOT NULL OR g.permit IS NOT NULL AS scoped
), skipped AS (
    UPDATE tocsin.runs r
       SET state = 'skipped', reason = d.verdict, seq = r.seq + 1, ended_by = :actor, finished_at = instant.now
      FROM ruled d, instant
     WHERE r.id = d.id AND d.verdict IN ('overlap', 'expired')
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.available_at, r.started_at, r.deadline_at, r.input, r.state, r.reason,
              r.occurrence_key, r.lane, false AS scoped
), superseded AS (
    UPDATE tocsin.runs p
       SET cancel_requested_at = instant.now, cancel_reason = 'superseded'
      FROM (SELECT DISTINCT (SELECT h.id FROM tocsin.runs h WHERE h.scope = d.scope AND h.state = 'running') AS id
              FROM ruled d
             WHERE d.verdict = 'supersede') d, instant
     WHERE p.id = d.id AND p.state = 'running' AND p.cancel_requested_at IS NULL
    RETURNING pg_notify('tocsin', 'cancel ' || :actor::text)
), decided AS (
    SELECT * FROM taken UNION ALL SELECT * FROM claimed UNION ALL SELECT * FROM skipped
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT d.id, CASE WHEN d.state = 'running' THEN 2 * d.fence ELSE 2 * d.fence + 2 END, d.state, d.attempt, d.fence,
           :actor, d.reason, instant.now
      FROM decided d, instant
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
)
SELECT d.id, d.trigger_id, t.name AS trigger, d.agent, d.kind, d.lane, d.fence, d.attempt, d.max_attempts,
       d.nominal_at, d.effective_at, d.available_at, d.started_at, d.deadline_at, d.input, d.occurrence_key, d.scoped,
       t.status = 'waiting' AS rearms, l.run_id AS last_id, l.nominal_at AS last_nominal_at,
       l.finished_at AS last_finished_at, lr.output AS last_output, d.state, d.reason, p.passed_over, p.all_plain
  FROM (SELECT (SELECT count(*) FROM candidates c WHERE c.is_free)
               + (SELECT count(*) FROM ruled r WHERE r.verdict <> 'wait') - (SELECT count(*) FROM decided)
               AS passed_over,
               (SELECT bool_and(c.is_free) FROM candidates c) AS all_plain) p
  LEFT JOIN decided d ON true
  LEFT JOIN tocsin.triggers t ON t.id = d.trigger_id
  LEFT JOIN tocsin.last_successes l ON l.trigger_id = d.trigger_id AND d.state = 'running'
  LEFT JOIN tocsin.runs lr ON lr.id = l.run_id

-- name: claim_plain
-- Take what is ready where its turn alone decides: none of the first has a scope, a limit or an expiry.
-- If one of them has, nothing is taken, all_plain is false, and the whole of claim is needed. NULL: nothing is ready.
-- A row for each run, without what is its trigger's; and one, without an id, for each of their triggers. That all is
-- plain stands in the latter, of which there is always one.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), wanted AS (
    SELECT w.agent, w.lane, w.quota, w.turn, a.concurrency IS NULL AS is_unlimited
      FROM unnest(:agents::text[], :lanes::text[], :quotas::bigint[]) WITH ORDINALITY
           AS w (agent, lane, quota, turn)
      JOIN tocsin.agents a ON a.name = w.agent
     WHERE EXISTS (
        SELECT FROM tocsin.leases l, instant
         WHERE l.holder = :holder::uuid AND l.ended_at IS NULL AND l.expires_at > instant.now)
), candidates AS MATERIALIZED (
    SELECT c.row, c.is_plain
      FROM (SELECT * FROM wanted ORDER BY turn) w
     CROSS JOIN LATERAL (
        SELECT r.ctid AS row,
               w.is_unlimited AND r.scope IS NULL AND r.deadline_at IS NULL AND r.not_after IS NULL AS is_plain
          FROM tocsin.runs r
         WHERE r.state = 'queued'
           AND r.agent = w.agent
           AND r.lane = w.lane
           AND r.available_at <= (SELECT now FROM instant)
         ORDER BY r.priority DESC, r.available_at, r.id
         LIMIT w.quota
           FOR UPDATE OF r SKIP LOCKED
     ) c
     LIMIT :free::bigint
), verdict AS (
    SELECT bool_and(c.is_plain) AS all_plain FROM candidates c
), taken AS (
    UPDATE tocsin.runs r
       SET state = 'running', reason = NULL, holder = :holder, claimed_by = :holder, fence = r.fence + 1,
           attempt = r.attempt + 1, seq = r.seq + 1, started_at = (SELECT now FROM instant),
           cancel_requested_at = NULL, cancel_reason = NULL
     WHERE r.ctid = ANY (ARRAY(SELECT c.row FROM candidates c)) AND (SELECT all_plain FROM verdict)
    RETURNING r.id, r.trigger_id, r.agent, r.kind, r.lane, r.fence, r.attempt, r.max_attempts, r.nominal_at,
              r.effective_at, r.available_at, r.started_at, r.input, r.occurrence_key
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT d.id, 2 * d.fence, 'running', d.attempt, d.fence, :actor::text, NULL, d.started_at
      FROM taken d
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), known AS (
    SELECT d.trigger_id AS id, t.name, t.status = 'waiting' AS rearms, l.run_id, l.nominal_at, l.finished_at, lr.output
      FROM (SELECT DISTINCT d.trigger_id FROM taken d) d
      LEFT JOIN tocsin.triggers t ON t.id = d.trigger_id
      LEFT JOIN tocsin.last_successes l ON l.trigger_id = d.trigger_id
      LEFT JOIN tocsin.runs lr ON lr.id = l.run_id
)
SELECT d.id, d.trigger_id, NULL AS trigger, d.agent, d.kind, d.lane, d.fence, d.attempt, d.max_attempts, d.nominal_at,
       d.effective_at, d.available_at, d.started_at, NULL::timestamptz AS deadline_at, d.input, d.occurrence_key, false AS scoped,
       NULL AS rearms, NULL AS last_id, NULL AS last_nominal_at, NULL AS last_finished_at, NULL AS last_output,
       NULL AS all_plain
  FROM taken d
 UNION ALL
SELECT NULL, k.id, k.name, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, k.rearms,
       k.run_id, k.nominal_at, k.finished_at, k.output, v.all_plain
  FROM verdict v
  LEFT JOIN known k ON true

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
           attempt = CASE WHEN g.counted OR r.cancel_requested_at IS NOT NULL THEN r.attempt ELSE r.attempt - 1 END,
           available_at = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NULL
                               THEN instant.now + g.delay ELSE r.available_at END,
           finished_at = CASE WHEN g.state = 'queued' AND r.cancel_requested_at IS NULL
                              THEN NULL ELSE instant.now END
      FROM given g, instant
     WHERE r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
    RETURNING r.id, r.seq, r.fence, r.state, r.reason, r.trigger_id, r.nominal_at, r.started_at, r.finished_at,
              r.claimed_by, CASE WHEN g.counted OR r.state <> 'queued' THEN r.attempt ELSE r.attempt + 1 END AS tried,
              g.error_kind, g.error_message, g.usage, g.log
), past AS (
    -- Its next claim writes over what its row says of this one.
    INSERT INTO tocsin.past_transitions (run_id, seq, from_state, to_state, attempt, fence, actor, reason, at)
    SELECT c.id, e.seq, e.from_state, e.to_state, c.tried, c.fence, e.actor, e.reason, e.at
      FROM closed c
     CROSS JOIN instant
     CROSS JOIN LATERAL (
        VALUES (2 * c.fence, 'queued', 'running', tocsin.actor_of(c.claimed_by), NULL, c.started_at),
               (2 * c.fence + 1, 'running', 'queued', :actor::text, c.reason, instant.now))
        AS e (seq, from_state, to_state, actor, reason, at)
     WHERE c.state = 'queued'
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT c.id, c.seq, c.state, c.tried, c.fence, :actor, c.reason, instant.now
      FROM closed c, instant
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
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
), heard AS (
    INSERT INTO tocsin.events (source, id, type, subject, time, data, depth, received_at)
    SELECT 'tocsin', c.id::text, 'run.' || c.state, t.name, c.finished_at,
           tocsin.told_of_run(r.id, t.name, r.agent, r.kind, c.tried, c.reason, r.nominal_at, g.output,
                              c.error_kind || ': ' || c.error_message),
           r.depth, c.finished_at
      FROM closed c
      JOIN given g ON g.id = c.id
      JOIN tocsin.runs r ON r.id = c.id
      JOIN tocsin.triggers t ON t.id = c.trigger_id
     WHERE (SELECT EXISTS (SELECT FROM tocsin.triggers h
                            WHERE h.status = 'listening' AND h.policy -> 'event' ? 'hears'))
       AND c.state IN ('succeeded', 'failed')
       AND tocsin.is_heard('run.' || c.state, t.name)
     ORDER BY c.id
    ON CONFLICT DO NOTHING
    RETURNING pg_notify('tocsin', 'events settled')
), asked AS (
    SELECT f.id, f.key, f.input, w.at, p.trigger_id, p.trigger_version, p.agent, p.priority, p.scope, p.depth,
           a.deadline, a.max_attempts
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
                             max_attempts, input, queued_at, asked_by, depth)
    SELECT k.id, k.trigger_id, k.trigger_version, k.agent, 'follow_up', k.at, k.at, k.key, 'live', k.priority,
           CASE WHEN k.scope IS NULL THEN 'allow' ELSE 'queue_all' END, k.scope, k.at, k.at + k.deadline,
           k.max_attempts, k.input::jsonb, instant.now, :actor, k.depth
      FROM asked k, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id
), fed_woken AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT w.id, 1, 'queued', 0, 0, :actor, 'follow_up', instant.now
      FROM woken w, instant
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), missed AS MATERIALIZED (
    SELECT g.*
      FROM given g
     WHERE (SELECT count(*) FROM closed) < cardinality(:ids)
       AND NOT EXISTS (SELECT FROM closed c WHERE c.id = g.id)
), ours_before AS MATERIALIZED (
    SELECT m.id, m.fence
      FROM missed m
     CROSS JOIN LATERAL (
        -- The limit keeps the trail on the inner side: nearly always there is nothing to look for in it.
        SELECT
          FROM tocsin.transitions t
         WHERE t.run_id = m.id AND t.fence = m.fence AND t.from_state = 'running' AND t.actor = :actor
           AND t.to_state = m.state AND t.reason IS NOT DISTINCT FROM m.reason
         LIMIT 1) t
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

-- name: settle_plain
-- Close attempts that succeeded and have nothing to tell but their output. Where fewer were ours than were
-- given, the ids of those that were: settle answers for the others. For its WHERE see settle.
WITH closed AS (
    UPDATE tocsin.runs r
       SET state = 'succeeded', reason = NULL, holder = NULL, permit = NULL, permit_scope = NULL, seq = r.seq + 1,
           output = g.output::jsonb, finished_at = coalesce(:now::timestamptz, now())
      FROM unnest(:ids::uuid[], :fences::bigint[], :outputs::text[]) AS g (id, fence, output)
     WHERE r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
    RETURNING r.id, r.seq, r.attempt, r.fence, r.trigger_id, r.nominal_at, r.finished_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT c.id, c.seq, 'succeeded', c.attempt, c.fence, :actor::text, NULL, c.finished_at
      FROM closed c
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), remembered AS (
    INSERT INTO tocsin.last_successes AS l (trigger_id, run_id, nominal_at, finished_at)
    SELECT DISTINCT ON (c.trigger_id) c.trigger_id, c.id, c.nominal_at, c.finished_at
      FROM closed c
     ORDER BY c.trigger_id, c.nominal_at DESC
    ON CONFLICT (trigger_id) DO UPDATE
       SET run_id = excluded.run_id, nominal_at = excluded.nominal_at, finished_at = excluded.finished_at
), heard AS (
    INSERT INTO tocsin.events (source, id, type, subject, time, data, depth, received_at)
    SELECT 'tocsin', c.id::text, 'run.succeeded', t.name, c.finished_at,
           tocsin.told_of_run(r.id, t.name, r.agent, r.kind, r.attempt, NULL, r.nominal_at, g.output::jsonb, NULL),
           r.depth, c.finished_at
      FROM closed c
      JOIN tocsin.runs r ON r.id = c.id
      JOIN tocsin.triggers t ON t.id = c.trigger_id
      JOIN unnest(:ids, :outputs) AS g (id, output) ON g.id = c.id
     -- Spelled out: a function would be planned anew with each execution, and nearly always nobody listens.
     WHERE (SELECT EXISTS (SELECT FROM tocsin.triggers h
                            WHERE h.status = 'listening' AND h.policy -> 'event' ? 'hears'))
       AND tocsin.is_heard('run.succeeded', t.name)
     ORDER BY c.id
    ON CONFLICT DO NOTHING
    RETURNING pg_notify('tocsin', 'events settled')
)
SELECT CASE WHEN count(*) < cardinality(:ids) THEN coalesce(array_agg(c.id), '{}') END AS ours
  FROM closed c

-- name: report
-- Progress, usage and new lines of attempts in hand, fenced; a row comes back for each that was still ours.
-- A log's new text comes with the number of characters before it, so that twice sent it is once written. A log only
-- grows: a report that a settlement overtakes changes nothing of what that has written, nor does one that leaves a gap.
INSERT INTO tocsin.attempts AS a (run_id, fence, attempt, progress, fraction, progress_at, usage, log)
SELECT r.id, r.fence, r.attempt, g.progress, g.fraction,
       CASE WHEN g.progress IS NOT NULL OR g.fraction IS NOT NULL THEN coalesce(:now::timestamptz, now()) END,
       g.usage::jsonb,
       CASE WHEN length(coalesce(o.log, '')) >= g.log_from
            THEN left(coalesce(o.log, ''), g.log_from) || g.log END
  FROM unnest(:ids::uuid[], :fences::bigint[], :progress::text[], :fractions::double precision[], :usages::text[],
              :log_froms::integer[], :logs::text[])
    AS g (id, fence, progress, fraction, usage, log_from, log)
  JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
  LEFT JOIN tocsin.attempts o ON o.run_id = g.id AND o.fence = g.fence
ON CONFLICT (run_id, fence) DO UPDATE
   SET progress = coalesce(excluded.progress, a.progress),
       fraction = coalesce(excluded.fraction, a.fraction),
       progress_at = coalesce(excluded.progress_at, a.progress_at),
       usage = coalesce(excluded.usage, a.usage),
       log = CASE WHEN length(excluded.log) > coalesce(length(a.log), -1) THEN excluded.log ELSE a.log END
RETURNING a.run_id, coalesce(length(a.log), 0) AS stored
