-- name: read_feed
-- What was committed since a snapshot was taken, oldest first, so many at most; and one row, without an id, on how the
-- feed stands. base is what was seen: whatever is not older than its end, or was in progress then, was not.
WITH unseen AS (
    SELECT u.id
      FROM (SELECT f.id FROM tocsin.feed f WHERE f.xid >= pg_snapshot_xmax(:base::pg_snapshot)
             UNION ALL
            SELECT f.id FROM tocsin.feed f WHERE f.xid = ANY (ARRAY(SELECT pg_snapshot_xip(:base)))) u
     ORDER BY u.id
     LIMIT :limit::bigint
)
SELECT NULL::bigint AS id, NULL::bigint AS xid, NULL::uuid AS run_id, NULL::text AS trigger, NULL::text AS agent,
       NULL::text AS kind, NULL::integer AS seq, NULL::text AS to_state, NULL::smallint AS attempt,
       NULL::bigint AS fence, NULL::text AS actor, NULL::text AS reason, NULL::timestamptz AS at,
       pg_current_snapshot() AS snapshot, (SELECT m.snapshot FROM tocsin.feed_marks m ORDER BY m.at LIMIT 1) AS floor,
       (SELECT s.life FROM tocsin.feed_switch s WHERE s.place = tocsin.feed_place()) AS life
 UNION ALL
SELECT f.id, f.xid::text::bigint, f.run_id, t.name, r.agent, r.kind, f.seq, f.to_state, f.attempt, f.fence, f.actor,
       f.reason, f.at, NULL, NULL, NULL
  FROM unseen u
  -- The limits keep each a probe: a join may turn into a walk over all that there is.
 CROSS JOIN LATERAL (SELECT i.id, i.xid, i.run_id, i.seq, i.to_state, i.attempt, i.fence, i.actor, i.reason, i.at
                       FROM tocsin.feed i WHERE i.id = u.id LIMIT 1) f
  LEFT JOIN LATERAL (
    SELECT i.agent, i.kind, i.trigger_id FROM tocsin.runs i WHERE i.id = f.run_id LIMIT 1) r ON true
  LEFT JOIN LATERAL (SELECT i.name FROM tocsin.triggers i WHERE i.id = r.trigger_id LIMIT 1) t ON true

-- name: page_feed
-- What one snapshot sees and another, earlier one does not, in order, from after an id on; and the row without an id.
WITH unheard AS (
    SELECT f.id
      FROM tocsin.feed f
     WHERE f.id > :after::bigint AND pg_visible_in_snapshot(f.xid, :target::pg_snapshot)
       AND NOT pg_visible_in_snapshot(f.xid, :base::pg_snapshot)
     ORDER BY f.id
     LIMIT :limit::bigint
)
SELECT NULL::bigint AS id, NULL::bigint AS xid, NULL::uuid AS run_id, NULL::text AS trigger, NULL::text AS agent,
       NULL::text AS kind, NULL::integer AS seq, NULL::text AS to_state, NULL::smallint AS attempt,
       NULL::bigint AS fence, NULL::text AS actor, NULL::text AS reason, NULL::timestamptz AS at,
       pg_current_snapshot() AS snapshot, (SELECT m.snapshot FROM tocsin.feed_marks m ORDER BY m.at LIMIT 1) AS floor,
       (SELECT s.life FROM tocsin.feed_switch s WHERE s.place = tocsin.feed_place()) AS life
 UNION ALL
SELECT f.id, f.xid::text::bigint, f.run_id, t.name, r.agent, r.kind, f.seq, f.to_state, f.attempt, f.fence, f.actor,
       f.reason, f.at, NULL, NULL, NULL
  FROM unheard u
  -- The limits keep each a probe: a join may turn into a walk over all that there is.
 CROSS JOIN LATERAL (SELECT i.id, i.xid, i.run_id, i.seq, i.to_state, i.attempt, i.fence, i.actor, i.reason, i.at
                       FROM tocsin.feed i WHERE i.id = u.id LIMIT 1) f
  LEFT JOIN LATERAL (
    SELECT i.agent, i.kind, i.trigger_id FROM tocsin.runs i WHERE i.id = f.run_id LIMIT 1) r ON true
  LEFT JOIN LATERAL (SELECT i.name FROM tocsin.triggers i WHERE i.id = r.trigger_id LIMIT 1) t ON true

-- name: cut_of_feed
-- The transaction before which all but the newest so many transitions were written; NULL when there are no more.
SELECT (SELECT f.xid::text::bigint FROM tocsin.feed f ORDER BY f.xid DESC, f.id DESC OFFSET :keep::bigint LIMIT 1) AS xid

-- name: mark_feed
-- Somebody reads: the feed is not switched off before a while. Its life; no row, while it is off.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), standing AS (
    SELECT s.life FROM tocsin.feed_switch s WHERE s.place = tocsin.feed_place()
), marked AS (
    INSERT INTO tocsin.feed_marks (at, snapshot)
    SELECT instant.now, pg_current_snapshot()
      FROM standing, instant
     WHERE NOT EXISTS (SELECT FROM tocsin.feed_marks m WHERE m.at > instant.now - :every::interval)
    ON CONFLICT DO NOTHING
)
SELECT s.life FROM standing s

-- name: wait_briefly
-- Within this transaction no lock is waited for longer than so; whoever comes after us waits as long.
SELECT set_config('lock_timeout', :within::text, true)

-- name: hold_feed
-- Nobody is in the middle of taking an edge, and nobody begins to until the transaction ends: whoever takes one locks
-- this table before it looks at the switch. Foreign transactions, however long, have no part in it.
LOCK TABLE tocsin.feed IN SHARE ROW EXCLUSIVE MODE

-- name: is_feed_foreign
-- Whether it has rows of another server, as a restored copy has: its transactions seem to come from the future.
SELECT EXISTS (SELECT FROM tocsin.feed f WHERE f.xid >= pg_snapshot_xmax(pg_current_snapshot())) AS is_foreign

-- name: empty_feed
-- Nothing of another server is left. The caller holds the feed.
TRUNCATE tocsin.feed

-- name: switch_feed_on
-- From here on every edge is fed, and the first mark says where that is. The caller holds the feed.
WITH instant AS (
    SELECT coalesce(:now::timestamptz, now()) AS now
), former AS (
    DELETE FROM tocsin.feed_switch
), marks AS (
    DELETE FROM tocsin.feed_marks m USING instant WHERE m.at <> instant.now
), mark AS (
    INSERT INTO tocsin.feed_marks AS m (at, snapshot)
    SELECT instant.now, pg_current_snapshot() FROM instant
    ON CONFLICT (at) DO UPDATE SET snapshot = excluded.snapshot
)
INSERT INTO tocsin.feed_switch (life, place) VALUES (:life::text, tocsin.feed_place())
RETURNING life

-- name: hold_marks
-- Nobody says that the feed is wanted until the transaction ends.
LOCK TABLE tocsin.feed_marks IN SHARE ROW EXCLUSIVE MODE

-- name: switch_feed_off
-- The feed is written no more, unless somebody has wanted it since an instant. A row comes back when it was on.
-- The caller holds the marks.
WITH former AS (
    DELETE FROM tocsin.feed_switch s
     WHERE NOT EXISTS (SELECT FROM tocsin.feed_marks m WHERE m.at > :before::timestamptz)
    RETURNING s.life
), marks AS (
    DELETE FROM tocsin.feed_marks m WHERE EXISTS (SELECT FROM former)
)
SELECT f.life FROM former f

-- name: is_feed_left
-- Whether the feed is on though nobody has wanted it since an instant.
SELECT EXISTS (SELECT FROM tocsin.feed_switch)
       AND NOT EXISTS (SELECT FROM tocsin.feed_marks m WHERE m.at > :before::timestamptz) AS is_left

-- name: prune_feed
-- Drop, a batch, what was visible an instant ago and longer, and the marks before; all of it while the feed is off. The
-- oldest mark that is left says what is missing, and moves first: it is read together with what there is.
WITH floor AS (
    SELECT m.at, m.snapshot FROM tocsin.feed_marks m WHERE m.at <= :before::timestamptz ORDER BY m.at DESC LIMIT 1
), marks AS (
    DELETE FROM tocsin.feed_marks m USING floor f WHERE m.at < f.at
), old AS (
    SELECT f.id
      FROM floor l
     CROSS JOIN LATERAL (
        SELECT o.id FROM tocsin.feed o
         WHERE o.xid < pg_snapshot_xmax(l.snapshot) AND pg_visible_in_snapshot(o.xid, l.snapshot)
         ORDER BY o.xid
         LIMIT :batch::bigint) f
     UNION ALL
    SELECT o.id
      FROM (SELECT f.id FROM tocsin.feed f ORDER BY f.id LIMIT :batch) o
     WHERE NOT EXISTS (SELECT FROM tocsin.feed_switch)
), gone AS (
    DELETE FROM tocsin.feed f WHERE f.id = ANY (ARRAY(SELECT o.id FROM old o))
    RETURNING f.id
)
SELECT count(*) AS count FROM gone
