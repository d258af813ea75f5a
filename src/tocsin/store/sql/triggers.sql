-- name: lock_due
-- Due triggers, oldest first, locked until the transaction ends. A holder of the locks that stands still
-- for longer than it takes to decide loses them, so that its peers go on.
SELECT t.id, t.name, t.agent, t.schedule, t.policy, t.next_at, t.wake_at, t.paused <> '{}' AS paused, t.gap_reason,
       t.gap_from,
       CASE WHEN t.paused_until <> '{}' THEN (SELECT min(e.until) FROM unnest(t.paused_until) AS e (until))
       END AS resumes_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.triggers t
 WHERE t.wake_at <= coalesce(:now::timestamptz, now())
   AND (SELECT set_config('idle_in_transaction_session_timeout', '1500ms', true)) IS NOT NULL
 ORDER BY t.wake_at
 LIMIT :batch::bigint
   FOR UPDATE SKIP LOCKED

-- name: materialise
-- Write what was decided for locked triggers: runs, skips, cursors. One statement, so all of it or nothing.
-- A run whose slot was kept for it here, and that nothing stands in the way of, is begun at once: inserted
-- and claimed in one commit. The indexes on running rows have the last word, as in claim.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), mine AS (
    SELECT l.holder
      FROM tocsin.leases l, instant
     WHERE l.holder = :holder::uuid AND l.ended_at IS NULL AND l.expires_at > instant.now
), due AS (
    SELECT o.id, o.trigger_id, o.nominal_at, coalesce(o.effective_at, o.nominal_at) AS effective_at, o.lane,
           o.priority, o.overlap, o.not_after, o.wants_to_begin, t.version, t.agent, t.input, a.deadline,
           a.max_attempts, a.concurrency,
           tocsin.scope_of(o.trigger_id, t.agent, o.overlap, o.overlap_scope, t.input) AS scope
      FROM (SELECT g.id, g.trigger_id, coalesce(g.nominal_at, :nominal::timestamptz) AS nominal_at, g.effective_at,
                   coalesce(g.lane, :lane::text) AS lane, coalesce(g.priority, :priority::smallint) AS priority,
                   coalesce(g.overlap, :overlap::text) AS overlap,
                   coalesce(g.overlap_scope, :overlap_scope::text) AS overlap_scope, g.not_after,
                   coalesce(g.wants_to_begin, :begin::boolean) AS wants_to_begin
              FROM unnest(:ids::uuid[], :trigger_ids::uuid[], :nominals::timestamptz[], :effectives::timestamptz[],
                          :lanes::text[], :priorities::smallint[], :overlaps::text[], :overlap_scopes::text[],
                          :not_afters::timestamptz[], :begins::boolean[])
                AS g (id, trigger_id, nominal_at, effective_at, lane, priority, overlap, overlap_scope, not_after,
                      wants_to_begin)) o
      JOIN tocsin.triggers t ON t.id = o.trigger_id
      JOIN tocsin.agents a ON a.name = t.agent
), ranked AS (
    SELECT d.*,
           CASE WHEN d.scope IS NOT NULL THEN row_number() OVER (PARTITION BY d.scope ORDER BY d.nominal_at, d.id)
           END AS place
      FROM due d
), judged AS MATERIALIZED (
    SELECT r.*,
           CASE WHEN NOT r.wants_to_begin OR r.concurrency IS NOT NULL OR r.place > 1 THEN false
                WHEN NOT EXISTS (SELECT FROM mine) THEN false
                WHEN EXISTS (SELECT FROM tocsin.runs q
                              WHERE q.state = 'queued' AND q.agent = r.agent AND q.lane = 'live'
                                AND q.available_at <= instant.now) THEN false
                WHEN r.scope IS NULL THEN true
                -- A scalar, so that it stays a probe for each: EXISTS may turn into a walk over all that runs.
                WHEN (SELECT h.scope FROM tocsin.runs h WHERE h.scope = r.scope AND h.state = 'running') IS NOT NULL
                THEN false
                ELSE pg_try_advisory_xact_lock(hashtextextended(r.scope, 0))
           END AS begun
      FROM ranked r, instant
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, run_id)
    SELECT j.trigger_id, j.nominal_at, j.id FROM judged j
    ON CONFLICT (trigger_id, nominal_at) WHERE key IS NULL DO NOTHING
    RETURNING run_id
), inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, lane,
                             priority, overlap, scope, available_at, not_after, deadline_at, max_attempts, input,
                             queued_at, asked_by, state, holder, claimed_by, fence, attempt, seq, started_at)
    SELECT j.id, j.trigger_id, j.version, j.agent, 'schedule', j.nominal_at, j.effective_at, j.lane, j.priority,
           j.overlap, j.scope, j.effective_at, j.not_after, greatest(j.effective_at, instant.now) + j.deadline,
           j.max_attempts, j.input, instant.now, :actor::text,
           CASE WHEN j.begun THEN 'running' ELSE 'queued' END,
           CASE WHEN j.begun THEN :holder END,
           CASE WHEN j.begun THEN :holder END,
           j.begun::integer, j.begun::integer, 1 + j.begun::integer,
           CASE WHEN j.begun THEN instant.now END
      FROM judged j, instant
     WHERE (j.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id, trigger_id, state, lane, holder, max_attempts, queued_at, started_at, deadline_at, input,
              scope IS NOT NULL AS scoped
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT i.id, e.seq, e.to_state, e.seq - 1, e.seq - 1, e.actor, e.reason, i.queued_at
      FROM inserted i
     CROSS JOIN LATERAL (
        VALUES (1, 'queued', :actor, CASE i.lane WHEN 'late' THEN 'caught_up' ELSE 'due' END),
               (2, 'running', tocsin.actor_of(i.holder), NULL))
        AS e (seq, to_state, actor, reason)
     WHERE EXISTS (SELECT FROM tocsin.feed_switch) AND (e.seq = 1 OR i.state = 'running')
), extended AS (
    UPDATE tocsin.skips s
       SET last_at = k.last_at, count = s.count + k.count, decided_at = instant.now
      FROM unnest(:skip_trigger_ids::uuid[], :skip_firsts::timestamptz[], :skip_reasons::text[],
                  :skip_lasts::timestamptz[], :skip_counts::bigint[])
        AS k (trigger_id, first_at, reason, last_at, count), instant
     WHERE s.trigger_id = k.trigger_id AND s.first_at = k.first_at AND s.reason = k.reason
    RETURNING s.trigger_id, s.first_at, s.reason
), accounted AS (
    INSERT INTO tocsin.skips (trigger_id, first_at, reason, last_at, count, decided_at, actor)
    SELECT k.trigger_id, CASE WHEN k.count = 1 THEN k.last_at ELSE k.first_at END, k.reason, k.last_at, k.count,
           instant.now, :actor
      FROM unnest(:skip_trigger_ids, :skip_firsts, :skip_reasons, :skip_lasts, :skip_counts)
        AS k (trigger_id, first_at, reason, last_at, count), instant
     WHERE (k.trigger_id, k.first_at, k.reason) NOT IN (SELECT e.trigger_id, e.first_at, e.reason FROM extended e)
), moved AS (
    UPDATE tocsin.triggers t
       SET status = coalesce(c.status, :status::text), next_at = c.next_at, wake_at = c.wake_at, broken_reason = c.broken_reason,
           gap_reason = c.gap_reason, gap_from = c.gap_from
      FROM unnest(:cursor_ids::uuid[], :olds::timestamptz[], :statuses::text[], :nexts::timestamptz[],
                  :wakes::timestamptz[], :broken_reasons::text[], :gap_reasons::text[], :gap_froms::timestamptz[])
        AS c (id, old, status, next_at, wake_at, broken_reason, gap_reason, gap_from)
     WHERE t.id = c.id AND t.next_at = coalesce(c.old, :old::timestamptz)
    RETURNING t.id
), hint AS (
    -- Whether a peer has something to claim, or only somebody to keep an eye on.
    SELECT pg_notify('tocsin', CASE WHEN count(*) FILTER (WHERE i.state = 'queued') > 0 THEN 'runs ' ELSE 'begun ' END
                               || :actor)
      FROM inserted i
    HAVING count(*) > 0
)
SELECT i.id, i.started_at, i.deadline_at, i.max_attempts, i.input, i.scoped, l.run_id AS last_id,
       l.nominal_at AS last_nominal_at, l.finished_at AS last_finished_at, lr.output AS last_output
  FROM inserted i
  LEFT JOIN tocsin.last_successes l ON l.trigger_id = i.trigger_id
  LEFT JOIN tocsin.runs lr ON lr.id = l.run_id
 WHERE i.state = 'running'
 UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM hint

-- name: next_wake
-- When the planner is needed next, and the database's instant.
SELECT (SELECT t.wake_at FROM tocsin.triggers t
         WHERE t.wake_at IS NOT NULL ORDER BY t.wake_at LIMIT 1) AS wake_at,
       coalesce(:now::timestamptz, clock_timestamp()) AS now

-- name: lock_waiting
-- Triggers that count from the end of the run in hand, once it has ended; locked until the transaction ends.
WITH ready AS MATERIALIZED (
    SELECT t.id, t.name, t.agent, t.schedule, t.policy
      FROM tocsin.triggers t
     WHERE t.status = 'waiting'
       AND NOT EXISTS (
            SELECT FROM (SELECT o.run_id FROM tocsin.occurrences o
                          WHERE o.trigger_id = t.id AND o.key IS NULL
                          ORDER BY o.nominal_at DESC LIMIT 1) newest
              JOIN tocsin.runs r ON r.id = newest.run_id AND r.finished_at IS NULL)
     ORDER BY t.id
     LIMIT :batch::bigint
       FOR UPDATE SKIP LOCKED
)
SELECT y.id, y.name, y.agent, y.schedule, y.policy,
       coalesce((SELECT r.finished_at FROM tocsin.occurrences o JOIN tocsin.runs r ON r.id = o.run_id
                  WHERE o.trigger_id = y.id AND o.key IS NULL
                  ORDER BY o.nominal_at DESC LIMIT 1),
                :now::timestamptz, now()) AS ended_at
  FROM ready y

-- name: rearm
-- Give locked waiting triggers the instant that follows the end of their run, if there is one.
UPDATE tocsin.triggers t
   SET status = g.status, next_at = g.next_at, wake_at = g.next_at, broken_reason = g.broken_reason
  FROM unnest(:ids::uuid[], :statuses::text[], :nexts::timestamptz[], :broken_reasons::text[])
    AS g (id, status, next_at, broken_reason)
 WHERE t.id = g.id AND t.status = 'waiting'
RETURNING t.id

-- name: lock_trigger
-- One trigger by its name, locked until the transaction ends.
SELECT t.id, t.name, t.agent, t.schedule, t.policy, t.input, t.source, t.version, t.status, t.broken_reason,
       t.paused, t.paused_at, t.paused_until, t.next_at, t.wake_at, t.gap_reason, t.gap_from, t.created_at, t.changed_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.triggers t
 WHERE t.name = :name::text AND t.status <> 'deleted'
   FOR UPDATE

-- name: get_trigger
-- One trigger by its name.
SELECT t.id, t.name, t.agent, t.schedule, t.policy, t.input, t.source, t.version, t.status, t.broken_reason,
       t.paused, t.paused_at, t.paused_until, t.next_at, t.wake_at, t.gap_reason, t.gap_from, t.created_at, t.changed_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.triggers t
 WHERE t.name = :name::text AND t.status <> 'deleted'

-- name: get_trigger_ever
-- One trigger by its name, the one in service or else the one that was deleted last.
SELECT t.id
  FROM tocsin.triggers t
 WHERE t.name = :name::text
 ORDER BY t.status = 'deleted', t.changed_at DESC
 LIMIT 1

-- name: list_triggers
-- Triggers by name, after a given name; the filters stand in one CASE, as in list_runs.
SELECT t.id, t.name, t.agent, t.schedule, t.policy, t.input, t.source, t.version, t.status, t.broken_reason,
       t.paused, t.paused_at, t.paused_until, t.next_at, t.wake_at, t.gap_reason, t.gap_from, t.created_at, t.changed_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.triggers t
 WHERE t.status <> 'deleted'
   AND t.name > coalesce(:after::text, '')
   AND CASE WHEN CASE WHEN t.status IN ('armed', 'listening') AND t.paused <> '{}' THEN 'paused' ELSE t.status END
                 <> :status::text
            THEN false
            WHEN t.source <> :source::text THEN false
            WHEN t.agent <> :agent::text THEN false
            ELSE true END
 ORDER BY t.name
 LIMIT :limit::bigint

-- name: lock_named
-- The triggers of these names, locked in one order until the transaction ends.
SELECT t.id, t.name, t.agent, t.schedule, t.policy, t.input, t.source, t.version, t.status, t.broken_reason,
       t.paused, t.paused_at, t.paused_until, t.next_at, t.wake_at, t.gap_reason, t.gap_from, t.created_at, t.changed_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.triggers t
 WHERE t.status <> 'deleted' AND t.name = ANY (:names::text[])
 ORDER BY t.id
   FOR UPDATE

-- name: insert_triggers
-- Declare triggers that are not there yet.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), created AS (
    INSERT INTO tocsin.triggers (id, name, agent, schedule, policy, input, source, status, next_at, wake_at,
                                 created_at, changed_at)
    SELECT g.id, g.name, g.agent, g.schedule::jsonb, g.policy::jsonb, g.input::jsonb, :source::text, g.status,
           g.next_at, g.wake_at, instant.now, instant.now
      FROM unnest(:ids::uuid[], :names::text[], :agents::text[], :schedules::text[], :policies::text[],
                  :inputs::text[], :statuses::text[], :nexts::timestamptz[], :wakes::timestamptz[])
        AS g (id, name, agent, schedule, policy, input, status, next_at, wake_at)
     CROSS JOIN instant
    RETURNING id, name, agent, source, version
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor::text, 'created', 'trigger', c.name, c.id,
           jsonb_build_object('version', c.version, 'agent', c.agent, 'source', c.source)
      FROM created c, instant
)
SELECT c.id, c.name FROM created c

-- name: change_triggers
-- Give triggers a new version and the cursor that goes with it. The caller holds their locks.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), was AS MATERIALIZED (
    SELECT t.id, t.input, tocsin.audited(t.agent, t.source, t.schedule, t.policy) AS told
      FROM unnest(:ids::uuid[]) AS g (id)
      JOIN tocsin.triggers t ON t.id = g.id
), changed AS (
    UPDATE tocsin.triggers t
       SET agent = g.agent, schedule = g.schedule::jsonb, policy = g.policy::jsonb, input = g.input::jsonb,
           source = :source::text, status = g.status, next_at = g.next_at, wake_at = g.wake_at, broken_reason = NULL,
           gap_reason = NULL, gap_from = NULL, version = t.version + 1, changed_at = instant.now
      FROM unnest(:ids, :agents::text[], :schedules::text[], :policies::text[], :inputs::text[],
                  :statuses::text[], :nexts::timestamptz[], :wakes::timestamptz[])
        AS g (id, agent, schedule, policy, input, status, next_at, wake_at), instant
     WHERE t.id = g.id AND t.status <> 'deleted'
    RETURNING t.id, t.name, t.version, t.input, tocsin.audited(t.agent, t.source, t.schedule, t.policy) AS told
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor::text, 'changed', 'trigger', c.name, c.id,
           jsonb_build_object('version', c.version, 'input_changed', c.input IS DISTINCT FROM w.input)
           || tocsin.audited_change(w.told, c.told)
      FROM changed c
      JOIN was w ON w.id = c.id
     CROSS JOIN instant
)
SELECT c.id, c.version FROM changed c

-- name: set_paused
-- Set the reasons for which a trigger rests, when they end, and where its cursor stands. The caller holds its lock.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), was AS MATERIALIZED (
    SELECT t.paused, t.paused_until FROM tocsin.triggers t WHERE t.id = :id::uuid
), changed AS (
    UPDATE tocsin.triggers t
       SET paused = :paused::text[], paused_until = :paused_until::timestamptz[],
           paused_at = CASE WHEN :paused = '{}' THEN NULL ELSE coalesce(t.paused_at, instant.now) END,
           status = :status::text, next_at = :next_at::timestamptz, wake_at = :wake_at::timestamptz,
           gap_reason = :gap_reason::text, gap_from = :gap_from::timestamptz, changed_at = instant.now
      FROM instant
     WHERE t.id = :id AND t.status <> 'deleted'
    RETURNING t.id, t.name, t.version, t.paused, t.paused_until
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor::text, :action::text, 'trigger', c.name, c.id, :detail::jsonb
      FROM changed c, was w, instant
     WHERE (c.paused, c.paused_until) IS DISTINCT FROM (w.paused, w.paused_until)
)
SELECT c.version FROM changed c

-- name: add_skips
-- Account for occurrences that became no run: an account that is open grows, any other is begun.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), extended AS (
    UPDATE tocsin.skips s
       SET last_at = k.last_at, count = s.count + k.count, decided_at = instant.now
      FROM unnest(:trigger_ids::uuid[], :firsts::timestamptz[], :reasons::text[], :lasts::timestamptz[],
                  :counts::bigint[])
        AS k (trigger_id, first_at, reason, last_at, count), instant
     WHERE s.trigger_id = k.trigger_id AND s.first_at = k.first_at AND s.reason = k.reason
    RETURNING s.trigger_id, s.first_at, s.reason
)
INSERT INTO tocsin.skips (trigger_id, first_at, reason, last_at, count, decided_at, actor)
SELECT k.trigger_id, CASE WHEN k.count = 1 THEN k.last_at ELSE k.first_at END, k.reason, k.last_at, k.count,
       instant.now, :actor::text
  FROM unnest(:trigger_ids, :firsts, :reasons, :lasts, :counts) AS k (trigger_id, first_at, reason, last_at, count),
       instant
 WHERE (k.trigger_id, k.first_at, k.reason) NOT IN (SELECT e.trigger_id, e.first_at, e.reason FROM extended e)

-- name: last_skip
-- The last occurrence since an instant that was skipped for a reason.
SELECT max(s.last_at) AS at
  FROM tocsin.skips s
 WHERE s.trigger_id = :trigger_id::uuid AND s.reason = :reason::text AND s.last_at >= :since::timestamptz

-- name: take_back_skip
-- The last occurrence of an account is run after all: the account is one shorter, or gone.
WITH gone AS (
    DELETE FROM tocsin.skips s
     WHERE s.trigger_id = :trigger_id::uuid AND s.reason = :reason::text AND s.last_at = :at::timestamptz
       AND s.count = 1
)
UPDATE tocsin.skips s
   SET count = s.count - 1, last_at = CASE WHEN s.count = 2 THEN s.first_at ELSE s.last_at END
 WHERE s.trigger_id = :trigger_id AND s.reason = :reason AND s.last_at = :at AND s.count > 1
RETURNING s.count

-- name: delete_trigger
-- Take a trigger out of service; its row stays while runs point to it.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), gone AS (
    UPDATE tocsin.triggers t
       SET status = 'deleted', next_at = NULL, wake_at = NULL, broken_reason = NULL, changed_at = instant.now
      FROM instant
     WHERE t.id = :id::uuid AND t.status <> 'deleted'
    RETURNING t.id, t.name, t.version
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, target_id, detail)
    SELECT instant.now, :actor::text, :action::text, 'trigger', g.name, g.id, jsonb_build_object('version', g.version)
      FROM gone g, instant
)
SELECT g.id FROM gone g

-- name: prune_successes
-- Forget the last successes of triggers that were deleted before an instant, so that nothing keeps their runs.
DELETE FROM tocsin.last_successes l
 USING tocsin.triggers t
 WHERE t.id = l.trigger_id AND t.status = 'deleted' AND t.changed_at < :before::timestamptz

-- name: prune_triggers
-- Drop deleted triggers that no run points to any more.
DELETE FROM tocsin.triggers t
 WHERE t.status = 'deleted'
   AND t.changed_at < :before::timestamptz
   AND NOT EXISTS (SELECT FROM tocsin.occurrences o WHERE o.trigger_id = t.id AND o.key IS NULL)
   AND NOT EXISTS (SELECT FROM tocsin.occurrences o WHERE o.trigger_id = t.id AND o.key IS NOT NULL)

-- name: prune_skips
-- Drop accounts of skipped occurrences that were decided before an instant.
DELETE FROM tocsin.skips s
 WHERE (s.trigger_id, s.first_at, s.reason) IN (
    SELECT k.trigger_id, k.first_at, k.reason FROM tocsin.skips k
     WHERE k.decided_at < :before::timestamptz
     LIMIT :batch::bigint)
RETURNING s.reason

-- name: why
-- Every recorded decision on a trigger's occurrences in [since, until], newest first.
SELECT w.at, w.until, w.kind, w.decision, w.reason, w.count, w.run_id, w.decided_at, w.actor
  FROM (SELECT r.nominal_at AS at, r.nominal_at AS until, r.kind, r.state AS decision,
               coalesce(r.reason, '') AS reason, 1::bigint AS count, r.id AS run_id,
               coalesce(r.finished_at, r.started_at, r.queued_at) AS decided_at,
               coalesce((SELECT t.actor FROM tocsin.transitions t
                          WHERE t.run_id = r.id AND t.seq = r.seq), '') AS actor
          FROM (SELECT o.run_id FROM tocsin.occurrences o
                 WHERE o.trigger_id = :trigger_id::uuid AND o.key IS NULL
                   AND o.nominal_at BETWEEN :since::timestamptz AND :until::timestamptz
                 UNION ALL
                SELECT o.run_id FROM tocsin.occurrences o
                 WHERE o.trigger_id = :trigger_id::uuid AND o.key IS NOT NULL
                   AND o.nominal_at BETWEEN :since::timestamptz AND :until::timestamptz) o
          JOIN tocsin.runs r ON r.id = o.run_id
         UNION ALL
        SELECT s.first_at, s.last_at,
               CASE WHEN EXISTS (SELECT FROM tocsin.triggers t WHERE t.id = s.trigger_id AND t.policy ? 'event')
                    THEN 'event' ELSE 'schedule' END,
               'skipped', s.reason, s.count, NULL, s.decided_at, s.actor
          FROM tocsin.skips s
         WHERE s.trigger_id = :trigger_id AND s.last_at >= :since AND s.first_at <= :until) w
 ORDER BY w.at DESC
 LIMIT :limit::bigint

-- name: hint
-- Tell every replica that triggers have changed.
SELECT pg_notify('tocsin', 'triggers ' || :actor::text)

-- name: transaction_now
-- The instant that this transaction's statements go by.
SELECT coalesce(:now::timestamptz, now()) AS now

-- name: wall_now
-- The instant at which this statement began, which is later than the transaction's.
SELECT coalesce(:now::timestamptz, clock_timestamp()) AS now
