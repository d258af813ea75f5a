-- The hub: agents, triggers, runs, their trail, and who holds what.

CREATE TABLE tocsin.agents (
    name            text PRIMARY KEY,
    spec            jsonb NOT NULL,
    max_attempts    smallint NOT NULL CHECK (max_attempts BETWEEN 1 AND 100),
    on_lost         text NOT NULL CHECK (on_lost IN ('retry', 'fail')),
    concurrency     integer CHECK (concurrency > 0),
    concurrency_key text CHECK (concurrency_key IS NULL OR concurrency IS NOT NULL),
    deadline        interval CHECK (deadline > interval '0'),
    source          text NOT NULL,
    declared_at     timestamptz NOT NULL
);

-- status: armed = has a next instant; waiting = counts from the end of the run in hand;
-- ended = the schedule has no further instant; manual = no schedule; listening = events call it, as the
-- policy's "event" says; broken = quarantined; deleted = kept for its runs' sake.
-- next_at is the cursor: the first nominal instant not yet decided. wake_at is when the planner
-- looks at it: the cursor plus jitter, or an hour later while paused.
-- paused: the reasons for which it rests; paused_until: beside each, when it ends by itself, or NULL; empty where none does.
CREATE TABLE tocsin.triggers (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    agent         text NOT NULL REFERENCES tocsin.agents (name),
    schedule      jsonb,
    policy        jsonb NOT NULL,
    input         jsonb NOT NULL,
    source        text NOT NULL,
    version       bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    status        text NOT NULL
                  CHECK (status IN ('armed', 'waiting', 'ended', 'manual', 'listening', 'broken', 'deleted')),
    broken_reason text,
    paused        text[] NOT NULL DEFAULT '{}',
    paused_at     timestamptz,
    paused_until  timestamptz[] NOT NULL DEFAULT '{}',
    next_at       timestamptz,
    wake_at       timestamptz,
    gap_reason    text,
    gap_from      timestamptz,
    created_at    timestamptz NOT NULL,
    changed_at    timestamptz NOT NULL,
    -- One that listens is looked at when the first of its pauses that have an end is over.
    CONSTRAINT triggers_armed_has_next CHECK (CASE status WHEN 'armed' THEN wake_at IS NOT NULL
        WHEN 'listening' THEN wake_at IS NULL OR (wake_at = ANY (paused_until)) IS TRUE ELSE wake_at IS NULL END),
    CONSTRAINT triggers_armed_has_cursor CHECK (status <> 'armed' OR next_at IS NOT NULL),
    CONSTRAINT triggers_broken_says_why CHECK ((status = 'broken') = (broken_reason IS NOT NULL)),
    CONSTRAINT triggers_paused_since CHECK ((paused = '{}') = (paused_at IS NULL)),
    CONSTRAINT triggers_paused_each_until CHECK (paused_until = '{}' OR cardinality(paused) = cardinality(paused_until)),
    CONSTRAINT triggers_gap_whole CHECK ((gap_reason IS NULL) = (gap_from IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

CREATE UNIQUE INDEX triggers_name ON tocsin.triggers (name) WHERE status <> 'deleted';
CREATE INDEX triggers_wake ON tocsin.triggers (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX triggers_waiting ON tocsin.triggers (id) WHERE status = 'waiting';
CREATE INDEX triggers_listening ON tocsin.triggers (id) WHERE status = 'listening';
-- Those among them that are called at /hooks/NAME; a broken one answers that it is.
CREATE INDEX triggers_hooked ON tocsin.triggers (name) WHERE status IN ('listening', 'broken') AND policy ? 'hook';
-- Those among them that want to hear what the hub itself has to tell.
CREATE INDEX triggers_hearing ON tocsin.triggers (id) WHERE status = 'listening' AND policy -> 'event' ? 'hears';

-- One occurrence, one run, for ever (docs/semantics.md, 1.1): an instant of a schedule, or a key by which a run
-- was asked for. Written once and never changed, so that a run's claim and end touch no index of these.
CREATE TABLE tocsin.occurrences (
    trigger_id uuid NOT NULL,
    nominal_at timestamptz NOT NULL,
    key        text,
    run_id     uuid NOT NULL
);

CREATE UNIQUE INDEX occurrences_instant ON tocsin.occurrences (trigger_id, nominal_at) WHERE key IS NULL;
CREATE UNIQUE INDEX occurrences_key ON tocsin.occurrences (trigger_id, key) WHERE key IS NOT NULL;

-- One row is one occurrence that became a run, with its whole life.
-- scope: within it, only one run is running at once (the unique index below is the last word).
-- permit: the number of the slot it holds among its agent's (or key's) concurrency.
-- seq: how many edges of the graph it has taken. Each claim raises the fence and is left by one more edge,
-- so the state, the fence and seq say the same in two ways, and the check below holds them to it.
-- depth: how many runs stand before it in its chain of events, itself included.
-- asked_by, claimed_by, ended_by: who took its first, its latest claim's and its last edge; an end without a
-- name is its claimant's own.
CREATE TABLE tocsin.runs (
    id                  uuid PRIMARY KEY,
    trigger_id          uuid NOT NULL,
    trigger_version     bigint NOT NULL,
    agent               text NOT NULL,
    kind                text NOT NULL CHECK (kind IN ('schedule', 'manual', 'backfill', 'follow_up', 'event')),
    nominal_at          timestamptz NOT NULL,
    effective_at        timestamptz NOT NULL,
    occurrence_key      text,
    lane                text NOT NULL CHECK (lane IN ('live', 'late')),
    priority            smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
    overlap             text NOT NULL
                        CHECK (overlap IN ('skip', 'queue_one', 'queue_all', 'cancel_previous', 'allow')),
    scope               text,
    permit_scope        text,
    state               text NOT NULL DEFAULT 'queued'
                        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')),
    reason              text,
    available_at        timestamptz NOT NULL,
    not_after           timestamptz,
    deadline_at         timestamptz,
    attempt             smallint NOT NULL DEFAULT 0,
    max_attempts        smallint NOT NULL CHECK (max_attempts > 0),
    lost                smallint NOT NULL DEFAULT 0,
    depth               smallint NOT NULL DEFAULT 0 CHECK (depth >= 0),
    fence               bigint NOT NULL DEFAULT 0,
    seq                 integer NOT NULL DEFAULT 1,
    holder              uuid,
    permit              integer CHECK (permit >= 0),
    cancel_requested_at timestamptz,
    cancel_reason       text,
    input               jsonb NOT NULL,
    output              jsonb,
    queued_at           timestamptz NOT NULL,
    started_at          timestamptz,
    finished_at         timestamptz,
    asked_by            text NOT NULL,
    claimed_by          uuid,
    ended_by            text,
    CONSTRAINT runs_held_while_running CHECK ((state = 'running') = (holder IS NOT NULL)),
    CONSTRAINT runs_permit_while_running CHECK (permit IS NULL OR state = 'running'),
    CONSTRAINT runs_finished_when_ended
        CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'skipped'))),
    CONSTRAINT runs_skip_says_why CHECK (state <> 'skipped' OR reason IS NOT NULL),
    CONSTRAINT runs_attempts_bounded CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT runs_fence_counts_claims CHECK (
        fence >= attempt AND (fence > 0) = (claimed_by IS NOT NULL) AND (fence > 0) = (started_at IS NOT NULL)),
    CONSTRAINT runs_took_edges CHECK (
        CASE state
            WHEN 'queued' THEN seq = 2 * fence + 1
            WHEN 'running' THEN fence > 0 AND seq = 2 * fence
            WHEN 'skipped' THEN seq = 2 * fence + 2
            WHEN 'cancelled' THEN seq = 2 * fence + 2 OR fence > 0 AND seq = 2 * fence + 1
            ELSE fence > 0 AND seq = 2 * fence + 1
        END),
    CONSTRAINT runs_ended_by_somebody CHECK (ended_by IS NULL OR finished_at IS NOT NULL),
    CONSTRAINT runs_exclusive_has_scope CHECK ((overlap = 'allow') = (scope IS NULL)),
    CONSTRAINT runs_keyed_unless_scheduled CHECK ((kind = 'schedule') = (occurrence_key IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Said in other words than the state's, so that no claim can be planned to walk it and sort: where all had ended when
-- the table was analysed, one that does looks as good as the walk through runs_ready.
CREATE INDEX runs_queued ON tocsin.runs (trigger_id) WHERE holder IS NULL AND finished_at IS NULL;
CREATE INDEX runs_ready
    ON tocsin.runs (agent, lane, priority DESC, available_at, id) WHERE state = 'queued';
CREATE UNIQUE INDEX runs_scope_held ON tocsin.runs (scope) WHERE state = 'running' AND scope IS NOT NULL;
CREATE INDEX runs_newest_waiting
    ON tocsin.runs (scope, nominal_at) WHERE state = 'queued' AND overlap IN ('queue_one', 'cancel_previous');
CREATE UNIQUE INDEX runs_permit_held
    ON tocsin.runs (permit_scope, permit) WHERE state = 'running' AND permit IS NOT NULL;
-- Said in other words than the state's, so that no statement that asks for a scope can be planned to walk it.
CREATE INDEX runs_running ON tocsin.runs (holder) WHERE holder IS NOT NULL;
CREATE INDEX runs_cancelling
    ON tocsin.runs (cancel_requested_at) WHERE state = 'running' AND cancel_requested_at IS NOT NULL;

-- Those that did not succeed, by the way in which they did not: a listing of three among a million walks to no other.
-- A run that succeeds never has an entry here.
CREATE INDEX runs_unsuccessful ON tocsin.runs (state, id) WHERE state IN ('failed', 'cancelled', 'skipped');

-- Processes that run agents elsewhere, over a stream to one replica. Each is a holder whose lease its beats renew.
-- stream: how many streams it has opened; what comes over an older one is not its word any more.
-- replica: whose stream is open; none, since it was closed. key: by which it was let in.
CREATE TABLE tocsin.instances (
    id              uuid PRIMARY KEY,
    name            text NOT NULL,
    version         text NOT NULL,
    agents          text[] NOT NULL,
    labels          jsonb NOT NULL,
    slots           integer NOT NULL CHECK (slots > 0),
    key             text,
    stream          bigint NOT NULL DEFAULT 0,
    replica         uuid,
    suspect_after   interval NOT NULL,
    dead_after      interval NOT NULL,
    started_at      timestamptz NOT NULL,
    connected_at    timestamptz,
    disconnected_at timestamptz,
    draining        boolean NOT NULL DEFAULT false,
    stalled_at      timestamptz,
    culprit         text,
    CONSTRAINT instances_suspect_before_dead CHECK (suspect_after < dead_after)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.1);

-- How the trail names a holder.
CREATE FUNCTION tocsin.actor_of(holder uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM tocsin.instances i WHERE i.id = holder) THEN 'instance:' ELSE 'replica:' END
           || holder
$$;

-- Who may do what: by the API, or as an agent process for these agents. digest: of the key, which is shown once.
CREATE TABLE tocsin.keys (
    name         text PRIMARY KEY,
    digest       bytea NOT NULL UNIQUE,
    scopes       text[] NOT NULL,
    agents       text[] NOT NULL,
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT keys_scopes_known
        CHECK (scopes <> '{}' AND scopes <@ ARRAY['read', 'operate', 'admin', 'emit', 'agent']),
    CONSTRAINT keys_agents_of_processes CHECK (('agent' = ANY (scopes)) = (agents <> '{}')),
    CONSTRAINT keys_expire_later CHECK (expires_at > created_at AND expires_at < 'infinity')
);

-- What was answered to a request that came with a key of its own, so that the same request is answered alike.
-- status: none, while it is being answered. For a day.
CREATE TABLE tocsin.answers (
    actor       text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    begun_at    timestamptz NOT NULL,
    status      smallint,
    headers     jsonb,
    body        bytea,
    PRIMARY KEY (actor, key),
    CONSTRAINT answers_whole CHECK ((status IS NULL) = (body IS NULL) AND (status IS NULL) = (headers IS NULL))
);

CREATE INDEX answers_begun ON tocsin.answers (begun_at);

-- Who did what, when, to which thing: a row for each change by hand, by an app, or by the end of a pause, written by the
-- statement that makes the change. Runs that are asked for name who asked in their own rows.
-- target: the thing's name, of a run or a backfill its trigger's; target_id: of a trigger, run or backfill.
-- detail: what else there is to say. Never an input, which may hold secrets.
CREATE TABLE tocsin.audit (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,
    action    text NOT NULL CHECK (action IN
              ('created', 'changed', 'paused', 'resumed', 'pause_ended', 'deleted', 'pruned', 'revoked', 'cancelled')),
    kind      text NOT NULL CHECK (kind IN ('trigger', 'agent', 'key', 'run', 'backfill')),
    target    text NOT NULL,
    target_id uuid,
    detail    jsonb NOT NULL CHECK (jsonb_typeof(detail) = 'object'),
    CONSTRAINT audit_target_known CHECK ((target_id IS NULL) = (kind IN ('agent', 'key')))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX audit_at ON tocsin.audit (at, id);
CREATE INDEX audit_target ON tocsin.audit (target, at, id);

-- What an edit may change of a trigger, as the audit compares it; what was written by hand may say anything.
CREATE FUNCTION tocsin.audited(agent text, source text, schedule jsonb, policy jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('agent', agent, 'source', source, 'schedule', schedule, 'event',
                              CASE WHEN jsonb_typeof(policy -> 'event') = 'object' THEN policy -> 'event' #- '{hears}'
                                   ELSE policy -> 'event' END)
           || CASE WHEN jsonb_typeof(policy) = 'object' THEN policy - 'event' ELSE jsonb_build_object('policy', policy) END
$$;

-- Where two of these differ: {"before": {…}, "after": {…}}.
CREATE FUNCTION tocsin.audited_change(before jsonb, after jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('before', coalesce(jsonb_object_agg(k.key, before -> k.key), '{}'),
                              'after', coalesce(jsonb_object_agg(k.key, after -> k.key), '{}'))
      FROM jsonb_object_keys(CASE WHEN jsonb_typeof(before) = 'object' THEN before ELSE '{}' END || after) AS k (key)
     WHERE before -> k.key IS DISTINCT FROM after -> k.key
$$;

-- The trail's older part: the claims of a run that is queued again, and the edges back into the queue.
-- The younger part stands in the run's own row, so that a run that succeeds at once leaves nothing here.
CREATE TABLE tocsin.past_transitions (
    run_id     uuid NOT NULL,
    seq        integer NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    attempt    smallint NOT NULL,
    fence      bigint NOT NULL,
    actor      text NOT NULL,
    reason     text,
    at         timestamptz NOT NULL,
    PRIMARY KEY (run_id, seq),
    CONSTRAINT past_transitions_are_edges CHECK (
        fence > 0 AND (from_state = 'queued' AND to_state = 'running' AND seq = 2 * fence
                       OR from_state = 'running' AND to_state = 'queued' AND seq = 2 * fence + 1))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

-- The trail: every edge that a run has taken. seq counts from 1 per run without a gap.
CREATE VIEW tocsin.transitions AS
SELECT r.id AS run_id, 1 AS seq, NULL::text AS from_state, 'queued'::text AS to_state, 0::smallint AS attempt,
       0::bigint AS fence, r.asked_by AS actor,
       CASE WHEN r.kind <> 'schedule' THEN r.kind WHEN r.lane = 'late' THEN 'caught_up' ELSE 'due' END AS reason,
       r.queued_at AS at
  FROM tocsin.runs r
 UNION ALL
SELECT p.run_id, p.seq, p.from_state, p.to_state, p.attempt, p.fence, p.actor, p.reason, p.at
  FROM tocsin.past_transitions p
 UNION ALL
SELECT r.id, (2 * r.fence)::integer, 'queued', 'running', r.attempt, r.fence, tocsin.actor_of(r.claimed_by), NULL,
       r.started_at
  FROM tocsin.runs r
 WHERE r.state = 'running' OR r.finished_at IS NOT NULL AND r.seq % 2 = 1
 UNION ALL
SELECT r.id, r.seq, CASE WHEN r.seq % 2 = 1 THEN 'running' ELSE 'queued' END, r.state, r.attempt, r.fence,
       coalesce(r.ended_by, tocsin.actor_of(r.claimed_by)), r.reason, r.finished_at
  FROM tocsin.runs r
 WHERE r.finished_at IS NOT NULL;

-- Edges as they are taken, for those who follow along: a copy of the trail, kept for minutes, and written only while
-- the switch below is there, by the statement that takes the edge.
-- id: the edges of one run in their order. xid: of the transaction that wrote it: by it a reader tells what it has not
-- seen yet, however late that was committed.
CREATE TABLE tocsin.feed (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
    run_id   uuid NOT NULL,
    seq      integer NOT NULL,
    to_state text NOT NULL,
    attempt  smallint NOT NULL,
    fence    bigint NOT NULL,
    actor    text NOT NULL,
    reason   text,
    at       timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_insert_scale_factor = 0.5,
        autovacuum_vacuum_cost_delay = 0);

CREATE INDEX feed_unseen ON tocsin.feed (xid, id);

-- One row while the feed is written, never changed and without an index, so that a look at it costs next to nothing.
-- Whoever takes an edge finds it or does not, in the same snapshot. life: of this row, and so of what the feed holds.
-- place: the server, and its timeline: transactions of another are not to be compared with those of this one.
CREATE TABLE tocsin.feed_switch (
    life  text NOT NULL,
    place text NOT NULL
);

-- What was visible when: the oldest says from where on the feed is whole, the newest when it was last asked for.
CREATE TABLE tocsin.feed_marks (
    at       timestamptz PRIMARY KEY,
    snapshot pg_snapshot NOT NULL
);

-- The server and its timeline, which a promotion changes: only within one of them transactions have one order.
CREATE FUNCTION tocsin.feed_place() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT c.system_identifier || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system() c
$$;

-- What an attempt has to tell beyond its transitions; a row only where there is something.
CREATE TABLE tocsin.attempts (
    run_id        uuid NOT NULL,
    fence         bigint NOT NULL CHECK (fence > 0),
    attempt       smallint NOT NULL,
    error_kind    text,
    error_message text,
    progress      text,
    fraction      double precision CHECK (fraction BETWEEN 0 AND 1),
    progress_at   timestamptz,
    usage         jsonb,
    log           text,
    PRIMARY KEY (run_id, fence)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- Results of fenced attempts, kept for a human and never applied (SEMANTICS 5.5).
CREATE TABLE tocsin.late_results (
    run_id      uuid NOT NULL,
    fence       bigint NOT NULL,
    holder      uuid NOT NULL,
    state       text NOT NULL,
    output      jsonb,
    error       text,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, fence)
);

-- The last success of each trigger, which the next run is told.
CREATE TABLE tocsin.last_successes (
    trigger_id  uuid PRIMARY KEY,
    run_id      uuid NOT NULL,
    nominal_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Occurrences that became no run: one row for each gap and reason, however long.
CREATE TABLE tocsin.skips (
    trigger_id uuid NOT NULL,
    first_at   timestamptz NOT NULL,
    reason     text NOT NULL CHECK (reason IN
               ('overlap', 'missed', 'expired', 'paused', 'withdrawn', 'budget', 'gate', 'breaker', 'catch_up_cap',
                'filter', 'depth')),
    last_at    timestamptz NOT NULL,
    count      bigint NOT NULL CHECK (count > 0),
    decided_at timestamptz NOT NULL,
    actor      text NOT NULL,
    PRIMARY KEY (trigger_id, first_at, reason),
    CONSTRAINT skips_in_order CHECK (last_at >= first_at),
    CONSTRAINT skips_single CHECK (count > 1 OR last_at = first_at)
) WITH (fillfactor = 70);

-- Holders' leases, one narrow row an incarnation, renewed in place.
CREATE TABLE tocsin.leases (
    holder     uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    lock_key   bigint,
    locked_at  timestamptz,
    ended_at   timestamptz,
    end_reason text CHECK (end_reason IN ('released', 'lost')),
    CONSTRAINT leases_end_says_why CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE tocsin.replicas (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    version    text NOT NULL,
    tzdata     text NOT NULL DEFAULT '',
    agents     text[] NOT NULL,
    slots      integer NOT NULL,
    started_at timestamptz NOT NULL,
    draining   boolean NOT NULL DEFAULT false
);

-- What happened, as others or the hub itself told it. Its key is CloudEvents' own: told twice, it is taken once.
-- matched_at: when triggers were looked for, in the transaction that wrote their runs; none, while it waits for that.
-- fault: why nobody could read it. depth: how many runs stand before it in its chain. extensions: further attributes.
-- body, size, media: of a webhook's call, its first bytes as they came. digest: of what its sender has signed, where
-- that does not cover the id: under another id it is the same call.
CREATE TABLE tocsin.events (
    source      text NOT NULL CHECK (octet_length(source) BETWEEN 1 AND 1000 AND source !~ '\s'),
    id          text NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 500),
    seq         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    type        text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 1000),
    subject     text CHECK (octet_length(subject) BETWEEN 1 AND 1000),
    time        timestamptz CHECK (time BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'),
    extensions  jsonb CHECK (jsonb_typeof(extensions) = 'object'),
    data        jsonb NOT NULL,
    depth       smallint NOT NULL DEFAULT 0 CHECK (depth >= 0),
    received_at timestamptz NOT NULL,
    matched_at  timestamptz,
    fault       text,
    body        bytea,
    size        integer,
    media       text,
    digest      bytea,
    PRIMARY KEY (source, id),
    CONSTRAINT events_body_whole CHECK ((body IS NULL) = (size IS NULL) AND (body IS NULL) = (media IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX events_unmatched ON tocsin.events (seq) WHERE matched_at IS NULL;
CREATE INDEX events_received ON tocsin.events (received_at);
CREATE UNIQUE INDEX events_digest ON tocsin.events (source, digest) WHERE digest IS NOT NULL;

-- What an event came to: a row for each trigger that it called, with the run, or with the reason why there is none.
CREATE TABLE tocsin.event_calls (
    event_seq  bigint NOT NULL,
    trigger_id uuid NOT NULL,
    run_id     uuid,
    reason     text,
    PRIMARY KEY (event_seq, trigger_id),
    CONSTRAINT event_calls_run_or_reason CHECK ((run_id IS NULL) = (reason IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);

-- Where debounce, throttle and batch stand: a row for each trigger and key. run_id: of the latest run; while that is
-- queued and its instant lies ahead, further events go into it. count, size: what it was given. free_at: before which
-- throttle lets no further run begin.
CREATE TABLE tocsin.event_windows (
    trigger_id uuid NOT NULL,
    key        text NOT NULL,
    run_id     uuid,
    opened_at  timestamptz,
    count      integer NOT NULL DEFAULT 0,
    size       integer NOT NULL DEFAULT 0,
    free_at    timestamptz,
    touched_at timestamptz NOT NULL,
    PRIMARY KEY (trigger_id, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- What changes whenever a trigger that listens, or whether it does, changes: by it a process knows that what it
-- remembers of them still holds. Each row's version is that of its storage, so that nothing can be forgotten.
CREATE FUNCTION tocsin.listening_version() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT count(*) || ':' || coalesce(sum(uuid_hash_extended(t.id, t.xmin::text::bigint)), 0)
      FROM tocsin.triggers t
     WHERE t.status = 'listening'
$$;

-- Whether a trigger listens to what the hub itself has to tell, of this kind and about this subject. A row that was
-- written by hand may say anything: it is a no.
CREATE FUNCTION tocsin.is_heard(type text, subject text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (
        SELECT FROM tocsin.triggers t
         CROSS JOIN LATERAL (SELECT t.policy -> 'event' -> 'hears' AS pairs) p
         CROSS JOIN LATERAL jsonb_array_elements(
            CASE jsonb_typeof(p.pairs) WHEN 'array' THEN p.pairs ELSE '[]' END) AS h (pair)
         WHERE t.status = 'listening' AND t.policy -> 'event' ? 'hears'
           AND h.pair ->> 0 = is_heard.type AND is_heard.subject LIKE h.pair ->> 1 ESCAPE '')
$$;

-- What a run's end tells. An output that would not leave room for the rest is left out.
CREATE FUNCTION tocsin.told_of_run(
    id uuid, trigger text, agent text, kind text, attempt integer, reason text, nominal_at timestamptz, output jsonb,
    error text
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object(
        'run_id', id, 'trigger', trigger, 'agent', agent, 'kind', kind, 'attempt', attempt, 'reason', reason,
        'nominal_at', to_char(nominal_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'output', CASE WHEN octet_length(output::text) <= 1000000 THEN output END, 'error', error)
$$;

-- Tell the hub of an event from within a transaction of your own: rolled back, it never happened. The same source and
-- dedup_key are taken once; without a key each call is an event of its own. False when it was known already.
CREATE FUNCTION tocsin.emit(
    type text, source text, data jsonb DEFAULT NULL, dedup_key text DEFAULT NULL, subject text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place text;
    said text;
BEGIN
    IF emit.source = 'tocsin' THEN
        RAISE EXCEPTION 'event source ''tocsin'': is the hub''s own, name another' USING ERRCODE = '22023';
    END IF;
    IF starts_with(emit.source, '/hooks/') THEN
        RAISE EXCEPTION 'event source ''%'': is a webhook''s own, name another', emit.source USING ERRCODE = '22023';
    END IF;
    FOR place, said IN VALUES ('type', emit.type), ('source', emit.source), ('dedup_key', emit.dedup_key),
                              ('subject', emit.subject) LOOP
        IF said ~ '[\u0001-\u001f\u007f-\u009f]' THEN
            RAISE EXCEPTION 'event %: has control characters: leave them out', place USING ERRCODE = '22023';
        END IF;
    END LOOP;
    IF octet_length(emit.data::text) > 1000000 THEN
        RAISE EXCEPTION 'event data is % bytes; at most 1,000,000 are taken: store it elsewhere and pass a reference',
            octet_length(emit.data::text) USING ERRCODE = '22023';
    END IF;
    INSERT INTO tocsin.events (source, id, type, subject, time, data, received_at)
    VALUES (emit.source, coalesce(emit.dedup_key, gen_random_uuid()::text), emit.type, emit.subject, now(),
            coalesce(emit.data, 'null'), now())
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pg_notify('tocsin', 'events sql');
    END IF;
    RETURN FOUND;
END
$$;

-- Instants outside the calendar of those who read them are refused where they are written: one such row
-- would stop every loop that meets it.

ALTER TABLE tocsin.triggers ADD CONSTRAINT triggers_within_calendar CHECK (
    next_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND wake_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND gap_from BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND '0001-01-01 00:00:00+00' <= ALL (paused_until) AND '9999-12-31 23:59:59.999999+00' >= ALL (paused_until));

ALTER TABLE tocsin.runs ADD CONSTRAINT runs_within_calendar CHECK (
    nominal_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND effective_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND available_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND not_after BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'
    AND deadline_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00');

-- The value at a dotted path of an input, as a key that an index can hold however long it is.
CREATE FUNCTION tocsin.key_of(input jsonb, path text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(v.value) > 200 THEN 'sha256:' || encode(sha256(convert_to(v.value, 'UTF8')), 'hex')
                ELSE v.value END
      FROM (SELECT coalesce(input #>> string_to_array(path, '.'), '') AS value) v
$$;

-- Within which runs of a trigger exclude each other; NULL where they do not. One expression, so that it is inlined.
CREATE FUNCTION tocsin.scope_of(trigger_id uuid, agent text, overlap text, overlap_scope text, input jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN overlap = 'allow' THEN NULL
                WHEN overlap_scope = 'trigger' THEN trigger_id::text
                WHEN overlap_scope = 'agent' THEN 'agent:' || agent
                WHEN overlap_scope LIKE 'backfill:%' THEN overlap_scope
                ELSE 'agent:' || agent || ':' || overlap_scope || '=' || tocsin.key_of(input, substr(overlap_scope, 7))
           END
$$;
