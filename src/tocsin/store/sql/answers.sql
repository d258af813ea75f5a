-- name: begin_answer
-- The request of this key is ours to answer, unless it is or was answered. One that was begun and left is taken over.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), taken AS (
    INSERT INTO tocsin.answers AS a (actor, key, fingerprint, begun_at)
    SELECT :actor::text, :key::text, :fingerprint::bytea, i.now FROM instant i
    ON CONFLICT (actor, key) DO UPDATE
       SET fingerprint = excluded.fingerprint, begun_at = excluded.begun_at, status = NULL, headers = NULL, body = NULL
     WHERE a.begun_at <= excluded.begun_at - interval '1 day'
        OR a.status IS NULL AND a.begun_at <= excluded.begun_at - interval '1 minute'
           AND a.fingerprint = excluded.fingerprint
    RETURNING a.key
)
SELECT EXISTS (SELECT FROM taken) AS ours, a.fingerprint, a.status, a.headers, a.body
  FROM instant
  LEFT JOIN tocsin.answers a ON a.actor = :actor AND a.key = :key

-- name: keep_answer
-- What was answered is answered again for a day.
UPDATE tocsin.answers a
   SET status = :status::smallint, headers = :headers::jsonb, body = :body::bytea
 WHERE a.actor = :actor::text AND a.key = :key::text AND a.status IS NULL

-- name: drop_answer
-- The request was refused, and nothing was done: it may be made again.
DELETE FROM tocsin.answers a WHERE a.actor = :actor::text AND a.key = :key::text AND a.status IS NULL

-- name: prune_answers
-- Drop answers of more than a day ago.
DELETE FROM tocsin.answers a
 WHERE (a.actor, a.key) IN (
    SELECT o.actor, o.key FROM tocsin.answers o
     WHERE o.begun_at < coalesce(:now::timestamptz, now()) - interval '1 day'
     LIMIT :batch::bigint)
RETURNING a.key
