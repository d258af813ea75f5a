-- name: create_key
-- A key by its digest. No row: the name is taken. A key that ends in the past is refused by the table.
WITH created AS (
    INSERT INTO tocsin.keys (name, digest, scopes, agents, created_at, created_by, expires_at)
    SELECT :name::text, :digest::bytea, :scopes::text[], :agents::text[], i.now, :actor::text, :expires_at::timestamptz
      FROM (SELECT coalesce(:now::timestamptz, now()) AS now) i
    ON CONFLICT (name) DO NOTHING
    RETURNING name, scopes, agents, created_at, created_by, expires_at, revoked_at, last_used_at
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, detail)
    SELECT c.created_at, c.created_by, 'created', 'key', c.name,
           jsonb_build_object('scopes', c.scopes, 'agents', c.agents, 'expires_at', c.expires_at)
      FROM created c
)
SELECT c.name, c.scopes, c.agents, c.created_at, c.created_by, c.expires_at, c.revoked_at, c.last_used_at
  FROM created c

-- name: list_keys
-- Keys by name.
SELECT k.name, k.scopes, k.agents, k.created_at, k.created_by, k.expires_at, k.revoked_at, k.last_used_at,
       coalesce(:now::timestamptz, now()) AS now
  FROM tocsin.keys k
 ORDER BY k.name

-- name: revoke_key
-- The key opens nothing any more, and replicas look whom it has let in.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), target AS MATERIALIZED (
    SELECT k.name, k.revoked_at FROM tocsin.keys k WHERE k.name = :name::text FOR UPDATE
), revoked AS (
    UPDATE tocsin.keys k
       SET revoked_at = instant.now
      FROM target t, instant
     WHERE k.name = t.name AND t.revoked_at IS NULL
    RETURNING k.name
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, detail)
    SELECT instant.now, :actor::text, 'revoked', 'key', r.name, '{}' FROM revoked r, instant
)
SELECT t.name, pg_notify('tocsin', 'keys') AS hint FROM target t

-- name: find_agent_key
-- Whom the key lets in as an agent process, and whether keys are asked for at all.
SELECT EXISTS (SELECT FROM tocsin.keys a WHERE a.revoked_at IS NULL AND 'agent' = ANY (a.scopes)) AS wanted,
       k.name, k.agents
  FROM (SELECT :digest::bytea AS digest) g
  LEFT JOIN tocsin.keys k
    ON k.digest = g.digest AND k.revoked_at IS NULL AND 'agent' = ANY (k.scopes)
   AND (k.expires_at IS NULL OR k.expires_at > coalesce(:now::timestamptz, now()))

-- name: api_keys
-- Every key of the API that was not revoked, and how long it has still to live.
SELECT k.name, k.digest, k.scopes, k.expires_at - coalesce(:now::timestamptz, clock_timestamp()) AS lives_for
  FROM tocsin.keys k
 WHERE k.revoked_at IS NULL AND k.scopes && ARRAY['read', 'operate', 'admin', 'emit']

-- name: touch_key
-- The key was used; written at most once a minute, whoever asks.
UPDATE tocsin.keys k
   SET last_used_at = i.now
  FROM (SELECT coalesce(:now::timestamptz, now()) AS now) i
 WHERE k.name = :name::text AND (k.last_used_at IS NULL OR k.last_used_at <= i.now - interval '1 minute')
