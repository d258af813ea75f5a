-- name: declare_agents
-- Make the agents known, with the policy that sweepers and claims need in columns.
WITH was AS MATERIALIZED (
    SELECT a.name, a.spec, a.source FROM tocsin.agents a WHERE a.name = ANY (:names::text[])
), declared AS (
    INSERT INTO tocsin.agents AS a (name, spec, max_attempts, on_lost, concurrency, concurrency_key, deadline,
                                    source, declared_at)
    SELECT g.name, g.spec::jsonb, g.max_attempts, g.on_lost, g.concurrency, g.concurrency_key, g.deadline,
           :source::text, coalesce(:now::timestamptz, now())
      FROM unnest(:names, :specs::text[], :max_attempts::smallint[], :on_lost::text[],
                  :concurrencies::integer[], :concurrency_keys::text[], :deadlines::interval[])
        AS g (name, spec, max_attempts, on_lost, concurrency, concurrency_key, deadline)
     ORDER BY g.name
    ON CONFLICT (name) DO UPDATE
       SET spec = excluded.spec, max_attempts = excluded.max_attempts, on_lost = excluded.on_lost,
           concurrency = excluded.concurrency, concurrency_key = excluded.concurrency_key,
           deadline = excluded.deadline, source = excluded.source, declared_at = excluded.declared_at
     WHERE (a.spec, a.source) IS DISTINCT FROM (excluded.spec, excluded.source)
    RETURNING name, spec, source, declared_at, (xmax = 0) AS created
), audited AS (
    INSERT INTO tocsin.audit (at, actor, action, kind, target, detail)
    SELECT d.declared_at, :actor::text, CASE WHEN d.created THEN 'created' ELSE 'changed' END, 'agent', d.name,
           CASE WHEN d.created THEN jsonb_build_object('source', d.source)
                ELSE tocsin.audited_change(w.spec || jsonb_build_object('source', w.source),
                                           d.spec || jsonb_build_object('source', d.source)) END
      FROM declared d
      LEFT JOIN was w ON w.name = d.name
)
SELECT d.name, d.created FROM declared d

-- name: list_agents
-- Agents by name, with what they have in hand.
SELECT a.name, a.spec, a.concurrency, a.source, a.declared_at,
       (SELECT count(*) FROM tocsin.runs r
         WHERE r.agent = a.name AND r.state = 'queued' AND r.lane = 'live') AS queued_live,
       (SELECT count(*) FROM tocsin.runs r
         WHERE r.agent = a.name AND r.state = 'queued' AND r.lane = 'late') AS queued_late,
       (SELECT count(*) FROM tocsin.runs r WHERE r.agent = a.name AND r.holder IS NOT NULL) AS running,
       (SELECT count(*) FROM tocsin.triggers t WHERE t.agent = a.name AND t.status <> 'deleted') AS triggers,
       (SELECT array_agg(p.name ORDER BY p.name) FROM tocsin.replicas p
          JOIN tocsin.leases l ON l.holder = p.id
         WHERE a.name = ANY (p.agents) AND l.ended_at IS NULL
           AND l.expires_at > coalesce(:now::timestamptz, now())) AS replicas,
       (SELECT array_agg(i.name ORDER BY i.name) FROM tocsin.instances i
          JOIN tocsin.leases l ON l.holder = i.id
         WHERE a.name = ANY (i.agents) AND i.replica IS NOT NULL AND NOT i.draining AND l.ended_at IS NULL
           AND l.expires_at > coalesce(:now, now())) AS instances
  FROM tocsin.agents a
 WHERE (:name::text IS NULL OR a.name = :name) AND (:after::text IS NULL OR a.name > :after)
 ORDER BY a.name
 LIMIT :limit::bigint
