-- name: agent_policies
-- What the agents of these names are told to be.
SELECT a.name, a.spec FROM tocsin.agents a WHERE a.name = ANY (:names::text[])

-- name: list_instance
-- An agent process is known, with a lease; for one that is known already this changes nothing.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), lease AS (
    INSERT INTO tocsin.leases (holder, expires_at, renewed_at)
    SELECT :id::uuid, i.now + :dead_after::interval, i.now FROM instant i
    ON CONFLICT (holder) DO NOTHING
    RETURNING holder
)
INSERT INTO tocsin.instances (id, name, version, agents, labels, slots, key, suspect_after, dead_after, started_at)
SELECT :id, :name::text, :version::text, :agents::text[], :labels::jsonb, :slots::integer, :key::text,
       :suspect_after::interval, :dead_after, i.now
  FROM instant i, lease
ON CONFLICT (id) DO NOTHING

-- name: lock_instance
-- How the process stands, and nobody else decides upon it meanwhile. silent: since its last beat.
SELECT i.key, i.stream, i.replica, l.ended_at, coalesce(:now::timestamptz, clock_timestamp()) - l.renewed_at AS silent
  FROM tocsin.instances i
  JOIN tocsin.leases l ON l.holder = i.id
 WHERE i.id = :id::uuid
   FOR UPDATE OF i, l

-- name: connect_instance
-- From now on its word is what comes over its newest stream, which is this replica's. The number of that stream.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), renewed AS (
    UPDATE tocsin.leases l
       SET expires_at = instant.now + :dead_after::interval, renewed_at = instant.now
      FROM instant
     WHERE l.holder = :id::uuid AND l.ended_at IS NULL
    RETURNING l.holder
)
UPDATE tocsin.instances i
   SET stream = i.stream + 1, replica = :replica::uuid, connected_at = instant.now, disconnected_at = NULL,
       name = :name::text, version = :version::text, agents = :agents::text[], labels = :labels::jsonb,
       slots = :slots::integer, suspect_after = :suspect_after::interval, dead_after = :dead_after,
       draining = false, stalled_at = NULL, culprit = NULL
  FROM instant, renewed
 WHERE i.id = renewed.holder
RETURNING i.stream

-- name: adopt
-- Of the runs that a process presents, those that are still its own, as its claim handed them out.
SELECT r.id, r.trigger_id, t.name AS trigger, r.agent, r.kind, r.lane, r.fence, r.attempt, r.max_attempts, r.nominal_at,
       r.effective_at, r.available_at, r.started_at, r.deadline_at, r.input, r.occurrence_key,
       r.scope IS NOT NULL AS scoped,
       t.status = 'waiting' AS rearms, l.run_id AS last_id, l.nominal_at AS last_nominal_at,
       l.finished_at AS last_finished_at, lr.output AS last_output
  FROM unnest(:ids::uuid[], :fences::bigint[]) AS g (id, fence)
  JOIN tocsin.runs r ON r.id = g.id AND r.fence = g.fence AND r.holder IS NOT DISTINCT FROM :holder::uuid
  JOIN tocsin.triggers t ON t.id = r.trigger_id
  LEFT JOIN tocsin.last_successes l ON l.trigger_id = r.trigger_id
  LEFT JOIN tocsin.runs lr ON lr.id = l.run_id
 WHERE r.agent = ANY (:agents::text[])

-- name: taken_results
-- Of the runs that a process presents and that are not its own any more, those whose end is of its own word.
SELECT t.run_id, t.fence
  FROM unnest(:ids::uuid[], :fences::bigint[]) AS g (id, fence)
  JOIN tocsin.transitions t ON t.run_id = g.id AND t.fence = g.fence AND t.from_state = 'running'
 WHERE t.actor = 'instance:' || :holder::uuid
   AND t.reason IS DISTINCT FROM 'interrupted' AND t.reason IS DISTINCT FROM 'lost'

-- name: strays
-- Runs of a process that it does not name as it comes again: it does not have them, and will not get them any more.
SELECT r.id, r.fence, r.agent
  FROM tocsin.runs r
 WHERE r.holder = :holder::uuid
   AND NOT EXISTS (SELECT FROM unnest(:ids::uuid[], :fences::bigint[]) AS h (id, fence)
                    WHERE h.id = r.id AND h.fence = r.fence)

-- name: beat
-- The beats of many processes at once: their leases run on, if they were not ended and the stream is the newest.
-- A row for each lease that does ('renewed'), for each run that is to stop or that its holder does not know, and for
-- each of the keys that was revoked or has expired. named: the process has named it, and not only its hub. name: the
-- agent's, or the key's.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), given AS (
    SELECT g.* FROM unnest(:holders::uuid[], :streams::bigint[], :dead_afters::interval[], :culprits::text[])
        AS g (holder, stream, dead_after, culprit)
), renewed AS (
    UPDATE tocsin.leases l
       SET expires_at = instant.now + g.dead_after, renewed_at = instant.now
      FROM given g
      JOIN tocsin.instances i ON i.id = g.holder AND i.stream = g.stream
     CROSS JOIN instant
     WHERE l.holder = g.holder AND l.ended_at IS NULL
    RETURNING l.holder
), marked AS (
    UPDATE tocsin.instances i
       SET stalled_at = CASE WHEN g.culprit IS NOT NULL THEN coalesce(i.stalled_at, instant.now) END,
           culprit = coalesce(g.culprit, i.culprit)
      FROM given g, instant
     WHERE i.id = g.holder AND i.stream = g.stream AND (i.stalled_at IS NULL) = (g.culprit IS NOT NULL)
), held AS (
    SELECT h.*
      FROM unnest(:held_by::uuid[], :ids::uuid[], :fences::bigint[], :named::boolean[]) AS h (holder, id, fence, named)
)
SELECT 'renewed' AS what, n.holder, NULL::uuid AS id, NULL::bigint AS fence, NULL::text AS name FROM renewed n
 UNION ALL
SELECT 'fenced', h.holder, h.id, h.fence, NULL
  FROM held h
  LEFT JOIN tocsin.runs r ON r.id = h.id AND r.fence = h.fence AND r.holder IS NOT DISTINCT FROM h.holder
 WHERE r.id IS NULL
 UNION ALL
SELECT CASE WHEN r.cancel_reason = 'superseded' THEN 'superseded' ELSE 'cancelled' END, h.holder, h.id, h.fence, NULL
  FROM held h
  JOIN tocsin.runs r ON r.id = h.id AND r.fence = h.fence AND r.holder IS NOT DISTINCT FROM h.holder
 WHERE r.cancel_requested_at IS NOT NULL
 UNION ALL
SELECT 'stray', r.holder, r.id, r.fence, r.agent
  FROM instant, given g
  JOIN tocsin.runs r ON r.holder = g.holder
 WHERE r.started_at < instant.now - interval '10 seconds'
   AND NOT EXISTS (SELECT FROM held h WHERE h.id = r.id AND h.fence = r.fence AND h.named)
 UNION ALL
SELECT 'revoked', NULL, NULL, NULL, k.name
  FROM tocsin.keys k
 CROSS JOIN instant
 WHERE k.name = ANY (:keys::text[]) AND (k.revoked_at IS NOT NULL OR k.expires_at <= instant.now)

-- name: disconnect_instance
-- Its stream has ended, unless it has a newer one by now.
UPDATE tocsin.instances i
   SET replica = NULL, disconnected_at = coalesce(:now::timestamptz, now())
 WHERE i.id = :id::uuid AND i.stream = :stream::bigint
RETURNING i.id

-- name: drain_instance
-- It takes no more work.
UPDATE tocsin.instances i SET draining = true WHERE i.id = :id::uuid AND i.stream = :stream::bigint RETURNING i.id

-- name: bury_instances
-- The leases of processes that were silent for too long are ended: that is the verdict, and sweep acts upon it.
-- Amnesty: when many fall silent at once, it is more likely that we are deaf; then each has as long again.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), standing AS MATERIALIZED (
    SELECT i.id, i.name, i.dead_after, l.expires_at < instant.now AS is_silent,
           l.expires_at + i.dead_after < instant.now AS is_silent_twice
      FROM tocsin.instances i
      JOIN tocsin.leases l ON l.holder = i.id
     CROSS JOIN instant
     WHERE l.ended_at IS NULL
), mass AS (
    SELECT count(*) FILTER (WHERE s.is_silent AND NOT s.is_silent_twice) AS silent,
           count(*) FILTER (WHERE NOT s.is_silent_twice) AS known
      FROM standing s
), amnesty AS (
    SELECT m.silent, m.known, m.silent >= :few::bigint AND m.silent > m.known * :share::double precision AS granted
      FROM mass m
), buried AS (
    UPDATE tocsin.leases l
       SET ended_at = instant.now, end_reason = 'lost'
      FROM standing s, amnesty y, instant
     WHERE l.holder = s.id AND s.is_silent AND (s.is_silent_twice OR NOT y.granted)
       AND l.ended_at IS NULL AND l.expires_at < instant.now
    RETURNING l.holder, s.name
), heard AS (
    INSERT INTO tocsin.events (source, id, type, subject, time, data, received_at)
    SELECT 'tocsin', b.holder::text, 'instance.lost', b.name, instant.now,
           jsonb_build_object('id', b.holder, 'name', b.name, 'version', i.version, 'agents', to_jsonb(i.agents),
                              'labels', i.labels),
           instant.now
      FROM buried b
      JOIN tocsin.instances i ON i.id = b.holder
     CROSS JOIN instant
     WHERE tocsin.is_heard('instance.lost', b.name)
     ORDER BY b.holder
    ON CONFLICT DO NOTHING
    RETURNING pg_notify('tocsin', 'events lost')
)
SELECT b.holder, b.name, NULL::bigint AS silent, NULL::bigint AS known FROM buried b
 UNION ALL
SELECT NULL, NULL, y.silent, y.known FROM amnesty y WHERE y.granted

-- name: list_instances
-- Agent processes, newest first, after a given one, with what they hold. heard_at: their last beat that was written.
SELECT i.id, i.name, i.version, i.agents, i.labels, i.slots, i.key, i.started_at, i.connected_at, i.disconnected_at,
       i.draining, i.stalled_at, i.culprit, i.suspect_after, i.dead_after, p.name AS replica,
       l.renewed_at AS heard_at, l.expires_at, l.ended_at, l.end_reason,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'agent', r.agent, 'fence', r.fence,
                                                     'since', r.started_at) ORDER BY r.started_at), '[]')
          FROM tocsin.runs r WHERE r.holder = i.id) AS running,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.instances i
  JOIN tocsin.leases l ON l.holder = i.id
  LEFT JOIN tocsin.replicas p ON p.id = i.replica
 WHERE (:all::boolean OR (l.ended_at IS NULL AND l.expires_at > coalesce(:now, now())))
   AND (:name::text IS NULL OR i.name = :name OR i.id::text = :name)
   AND (:before_at::timestamptz IS NULL OR (i.started_at, i.id) < (:before_at, :before_id::uuid))
 ORDER BY i.started_at DESC, i.id DESC
 LIMIT :limit::bigint
