-- name: list_hooks
-- Every trigger that is called at /hooks/NAME, whether it can be, and the instant; one row without a name where there is
-- none.
SELECT t.name, t.policy -> 'hook' AS hook, t.status = 'broken' AS broken, coalesce(:now::timestamptz, clock_timestamp()) AS now
  FROM (VALUES (true)) AS one
  LEFT JOIN tocsin.triggers t ON t.status IN ('listening', 'broken') AND t.policy ? 'hook'
