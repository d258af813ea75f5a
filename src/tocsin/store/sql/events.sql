-- name: insert_events
-- Events that were not known: a row with key and seq for each; and one row, without a key, with the version of what
-- listens. In the order of their keys, so that two who tell the same do not wait for each other.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), inserted AS (
    INSERT INTO tocsin.events (source, id, type, subject, time, extensions, data, received_at, matched_at, body, size,
                               media, digest)
    SELECT g.source, g.id, g.type, g.subject, g.time, g.extensions::jsonb, g.data::jsonb, instant.now,
           CASE WHEN :matched::boolean THEN instant.now END, g.body, g.size, g.media, g.digest
      FROM unnest(:sources::text[], :ids::text[], :types::text[], :subjects::text[], :times::timestamptz[],
                  :extensions::text[], :datas::text[], :bodies::bytea[], :sizes::integer[], :medias::text[],
                  :digests::bytea[])
        AS g (source, id, type, subject, time, extensions, data, body, size, media, digest), instant
     ORDER BY g.source, g.id
    ON CONFLICT DO NOTHING
    RETURNING source, id, seq, CASE WHEN matched_at IS NULL THEN pg_notify('tocsin', 'events told') END
)
SELECT i.source, i.id, i.seq, NULL::text AS version, NULL::timestamptz AS now FROM inserted i
 UNION ALL
SELECT NULL, NULL, NULL, tocsin.listening_version(), instant.now FROM instant

-- name: take_events
-- Events for which no triggers were looked for yet, oldest first, locked until the transaction ends.
SELECT e.seq, e.source, e.id, e.type, e.subject, e.time, e.extensions, e.data, e.depth, tocsin.listening_version() AS version,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.events e
 WHERE e.matched_at IS NULL
 ORDER BY e.seq
 LIMIT :batch::bigint
   FOR UPDATE SKIP LOCKED

-- name: list_listening
-- Every trigger that listens, and the version of the whole.
SELECT t.id, t.name, t.agent, t.policy, t.version, v.version AS whole
  FROM (SELECT tocsin.listening_version() AS version) v
  LEFT JOIN tocsin.triggers t ON t.status = 'listening'

-- name: hold_listening
-- Of these triggers those that listen still: until the transaction ends nobody edits, pauses or deletes them. One whose
-- pauses are all over rests no more, whether or not somebody has cleared them.
SELECT t.id, t.version,
       CASE WHEN t.paused_until = '{}'
                 OR EXISTS (SELECT FROM unnest(t.paused_until) AS e (until)
                             WHERE (e.until <= coalesce(:now::timestamptz, now())) IS NOT TRUE)
            THEN t.paused_at END AS paused_at
  FROM tocsin.triggers t
 WHERE t.id = ANY (:ids::uuid[]) AND t.status = 'listening'
 ORDER BY t.id
   FOR KEY SHARE

-- name: hold_windows
-- These windows as they stand, opened if need be, and ours until the transaction ends.
INSERT INTO tocsin.event_windows AS w (trigger_id, key, touched_at)
SELECT g.trigger_id, g.key, coalesce(:now::timestamptz, now())
  FROM unnest(:trigger_ids::uuid[], :keys::text[]) AS g (trigger_id, key)
 ORDER BY g.trigger_id, g.key
ON CONFLICT (trigger_id, key) DO UPDATE SET touched_at = excluded.touched_at
RETURNING w.trigger_id, w.key, w.run_id, w.opened_at, w.count, w.size, w.free_at

-- name: hold_window_runs
-- Of these runs those that nobody has claimed yet, and until when they wait; nobody claims them meanwhile. One of a
-- former version of its trigger is left to itself.
SELECT r.id, r.available_at
  FROM tocsin.runs r
  JOIN tocsin.triggers t ON t.id = r.trigger_id AND t.version = r.trigger_version
 WHERE r.id = ANY (:ids::uuid[]) AND r.state IS NOT DISTINCT FROM 'queued' AND r.fence = 0
 ORDER BY r.id
   FOR UPDATE OF r

-- name: fire_events
-- Write what events came to: new runs, further input of runs that wait, windows, accounts of skips. A row comes back
-- for each run that was written, and for each that had been there before.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), asked AS MATERIALIZED (
    SELECT g.id, g.trigger_id, g.key, g.input::jsonb AS input, g.at, g.depth, g.priority, g.overlap,
           g.at + g.expires_after AS not_after, t.version, t.agent, a.deadline, a.max_attempts,
           tocsin.scope_of(t.id, t.agent, g.overlap, g.overlap_scope, g.input::jsonb) AS scope
      FROM unnest(:ids::uuid[], :trigger_ids::uuid[], :keys::text[], :inputs::text[], :ats::timestamptz[],
                  :depths::smallint[], :priorities::smallint[], :overlaps::text[], :overlap_scopes::text[],
                  :expiries::interval[])
        AS g (id, trigger_id, key, input, at, depth, priority, overlap, overlap_scope, expires_after)
      JOIN tocsin.triggers t ON t.id = g.trigger_id AND t.status = 'listening'
      JOIN tocsin.agents a ON a.name = t.agent
), fresh AS (
    INSERT INTO tocsin.occurrences (trigger_id, nominal_at, key, run_id)
    SELECT k.trigger_id, instant.now, k.key, k.id FROM asked k, instant
    ON CONFLICT DO NOTHING
    RETURNING run_id
), inserted AS (
    INSERT INTO tocsin.runs (id, trigger_id, trigger_version, agent, kind, nominal_at, effective_at, occurrence_key,
                             lane, priority, overlap, scope, available_at, not_after, deadline_at, max_attempts,
                             depth, input, queued_at, asked_by)
    SELECT k.id, k.trigger_id, k.version, k.agent, 'event', instant.now, k.at, k.key, 'live', k.priority, k.overlap,
           k.scope, k.at, k.not_after, k.at + k.deadline, k.max_attempts, k.depth, k.input, instant.now, :actor::text
      FROM asked k, instant
     WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS TRUE
    RETURNING id, available_at, queued_at
), fed AS (
    INSERT INTO tocsin.feed (run_id, seq, to_state, attempt, fence, actor, reason, at)
    SELECT i.id, 1, 'queued', 0, 0, :actor, 'event', i.queued_at
      FROM inserted i
     WHERE EXISTS (SELECT FROM tocsin.feed_switch)
), extended AS (
    UPDATE tocsin.runs r
       SET input = x.input, depth = greatest(r.depth, x.depth), available_at = x.at, effective_at = x.at,
           deadline_at = x.at + a.deadline, not_after = x.at + (r.not_after - r.effective_at),
           scope = tocsin.scope_of(r.trigger_id, r.agent, r.overlap, x.overlap_scope, x.input)
      FROM (SELECT e.id, e.at, e.depth, e.overlap_scope, p.agent,
                   CASE WHEN e.appends THEN p.input || e.input::jsonb ELSE e.input::jsonb END AS input
              FROM unnest(:more_ids::uuid[], :more_inputs::text[], :more_ats::timestamptz[], :more_depths::smallint[],
                          :more_appends::boolean[], :more_scopes::text[])
                AS e (id, input, at, depth, appends, overlap_scope)
              JOIN tocsin.runs p ON p.id = e.id) x
      JOIN tocsin.agents a ON a.name = x.agent
     WHERE r.id = x.id AND r.fence = 0 AND r.state IS NOT DISTINCT FROM 'queued'
    RETURNING r.id, r.available_at
), windows AS (
    UPDATE tocsin.event_windows w
       SET run_id = g.run_id, opened_at = g.opened_at, count = g.count, size = g.size, free_at = g.free_at
      FROM unnest(:window_triggers::uuid[], :window_keys::text[], :window_runs::uuid[], :window_opened::timestamptz[],
                  :window_counts::integer[], :window_sizes::integer[], :window_free::timestamptz[])
        AS g (trigger_id, key, run_id, opened_at, count, size, free_at)
     WHERE w.trigger_id = g.trigger_id AND w.key = g.key
), accounted AS (
    INSERT INTO tocsin.skips AS s (trigger_id, first_at, reason, last_at, count, decided_at, actor)
    SELECT k.trigger_id, k.first_at, k.reason,
           CASE WHEN k.count = 1 THEN k.first_at ELSE greatest(k.first_at, instant.now) END, k.count, instant.now,
           :actor
      FROM unnest(:skip_triggers::uuid[], :skip_firsts::timestamptz[], :skip_reasons::text[], :skip_counts::bigint[])
        AS k (trigger_id, first_at, reason, count), instant
     ORDER BY k.trigger_id, k.first_at, k.reason
    ON CONFLICT (trigger_id, first_at, reason) DO UPDATE
       SET last_at = greatest(s.last_at, excluded.decided_at), count = s.count + excluded.count,
           decided_at = excluded.decided_at
)
SELECT n.id, n.id AS run_id,
       pg_notify('tocsin', CASE WHEN n.available_at <= instant.now THEN 'runs ' ELSE 'later ' END || :actor) AS told
  FROM (SELECT i.id, i.available_at FROM inserted i UNION ALL SELECT x.id, x.available_at FROM extended x) n, instant
 UNION ALL
SELECT k.id, o.run_id, NULL
  FROM asked k
  JOIN tocsin.occurrences o ON o.trigger_id = k.trigger_id AND o.key = k.key
 WHERE (k.id IN (SELECT f.run_id FROM fresh f)) IS NOT TRUE

-- name: note_events
-- What events came to, trigger by trigger.
INSERT INTO tocsin.event_calls (event_seq, trigger_id, run_id, reason)
SELECT g.event_seq, g.trigger_id, g.run_id, g.reason
  FROM unnest(:seqs::bigint[], :trigger_ids::uuid[], :run_ids::uuid[], :reasons::text[])
    AS g (event_seq, trigger_id, run_id, reason)
ON CONFLICT DO NOTHING
RETURNING event_seq

-- name: mark_events
-- These events are done with; the one with a fault could not be read. Whoever marks them has them locked, so nothing is
-- asked of matched_at: it would have them looked for among all that wait.
UPDATE tocsin.events e
   SET matched_at = coalesce(:now::timestamptz, now()), fault = g.fault
  FROM unnest(:sources::text[], :ids::text[], :faults::text[]) AS g (source, id, fault)
 WHERE e.source = g.source AND e.id = g.id
RETURNING e.seq

-- name: quarantine_listening
-- A listening trigger that cannot be read or written to fires nothing more.
UPDATE tocsin.triggers t
   SET status = 'broken', broken_reason = :reason::text, wake_at = NULL
 WHERE t.id = :id::uuid AND t.status = 'listening' AND t.version = :version::bigint
RETURNING t.id

-- name: tell_broken
-- That triggers were quarantined is an event, if somebody listens. The caller's transaction has written it.
INSERT INTO tocsin.events (source, id, type, subject, time, data, received_at)
SELECT 'tocsin', t.id || ':' || t.version, 'trigger.broken', t.name, i.now,
       jsonb_build_object('trigger', t.name, 'agent', t.agent, 'version', t.version, 'reason', t.broken_reason), i.now
  FROM tocsin.triggers t
 CROSS JOIN (SELECT coalesce(:now::timestamptz, now()) AS now) i
 WHERE t.id = ANY (:ids::uuid[]) AND t.status = 'broken' AND tocsin.is_heard('trigger.broken', t.name)
 ORDER BY t.id
ON CONFLICT DO NOTHING
RETURNING pg_notify('tocsin', 'events broken')

-- name: prune_events
-- Drop events that were received, and matched, before an instant, a batch, and what is known of their calls.
WITH gone AS (
    DELETE FROM tocsin.events e
     WHERE (e.source, e.id) IN (
        SELECT o.source, o.id FROM tocsin.events o
         WHERE o.received_at < :before::timestamptz AND o.matched_at IS NOT NULL
         ORDER BY o.received_at
         LIMIT :batch::bigint)
    RETURNING e.seq
), forgotten AS (
    DELETE FROM tocsin.event_calls c
     WHERE c.event_seq = ANY (ARRAY(SELECT g.seq FROM gone g))
)
SELECT g.seq FROM gone g

-- name: prune_windows
-- Drop windows into which nothing has fallen since an instant.
DELETE FROM tocsin.event_windows w
 WHERE w.touched_at < :before::timestamptz AND (w.free_at IS NULL OR w.free_at < :before)
   AND NOT EXISTS (SELECT FROM tocsin.runs r WHERE r.id = w.run_id AND r.state = 'queued')
RETURNING w.key

-- name: list_events
-- Events before a given number, the latest first, with what each came to; the filters stand in one CASE, as in list_runs.
-- An EXISTS among them would be answered from a table of all calls that there are.
SELECT e.seq AS number, e.source, e.id, e.type, e.subject, e.time, e.received_at, e.matched_at, e.fault, e.depth, e.size,
       (SELECT jsonb_agg(jsonb_build_object('trigger', t.name, 'run_id', c.run_id, 'state', r.state, 'reason', c.reason))
          FROM tocsin.event_calls c
          JOIN tocsin.triggers t ON t.id = c.trigger_id
          LEFT JOIN tocsin.runs r ON r.id = c.run_id
         WHERE c.event_seq = e.seq) AS calls
  FROM tocsin.events e
 WHERE e.seq < coalesce(:before::bigint, 9223372036854775807)
   AND CASE WHEN e.received_at < :since::timestamptz THEN false
            WHEN e.received_at > :until::timestamptz THEN false
            WHEN e.type NOT LIKE :type::text THEN false
            WHEN e.source NOT LIKE :source::text THEN false
            WHEN e.id <> :id::text THEN false
            WHEN :trigger_id::uuid IS NOT NULL
                 AND (SELECT bool_or(c.trigger_id = :trigger_id) FROM tocsin.event_calls c
                       WHERE c.event_seq = e.seq) IS NOT TRUE THEN false
            WHEN :called::boolean <> ((SELECT bool_or(c.run_id IS NOT NULL) FROM tocsin.event_calls c
                                        WHERE c.event_seq = e.seq) IS TRUE) THEN false
            ELSE true END
 ORDER BY e.seq DESC
 LIMIT :limit::bigint

-- name: get_event
-- What is kept of one event besides.
SELECT e.data, e.extensions, e.body, e.media
  FROM tocsin.events e
 WHERE e.seq = :number::bigint
