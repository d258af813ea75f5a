"""Statements with a guard taken out, every layer of it, for tests that ask who notices."""

import re
from typing import Final

from tocsin.store.statements import Statements, load

HOLDER: Final = r"AND r\.holder IS NOT DISTINCT FROM (\$\d+::uuid)"


def without(statements: Statements, name: str, pattern: str, by: str = "") -> Statements:
    """The statements with whatever matches taken out of one.

    Raises: ValueError, if nothing matches.
    """
    found = re.search(pattern, statements[name].text)
    if found is None:
        raise ValueError(f"{name} has no {pattern}")
    return statements.altered(name, found[0], found.expand(by))


def unfenced() -> Statements:
    statements = without(load(), "settle", r"AND r\.fence = g\.fence ")
    return without(statements, "settle", HOLDER, r"AND r.state = 'running' AND \1 IS NOT NULL")


def stateless() -> Statements:
    """Whoever comes with the right fence settles, once more too: only a running run has a holder."""
    return without(load(), "settle", HOLDER, r"AND \1 IS NOT NULL")


def unlocked() -> Statements:
    """Two planners may decide the same triggers, and the later moves the cursor from wherever it stands."""
    statements = without(load(), "lock_due", r"FOR UPDATE SKIP LOCKED")
    return without(statements, "materialise", r" AND t\.next_at = c\.old")


def unlimited() -> Statements:
    """The same, and a planner that stood still between its look and its write finds its session alive."""
    return without(unlocked(), "lock_due", r"'1500ms'", "'60s'")


def unkeyed() -> Statements:
    return without(unlocked(), "materialise", r"ON CONFLICT \(trigger_id.*?\) WHERE key IS NULL", "ON CONFLICT")


def overlapping() -> Statements:
    statements = without(load(), "claim", r"r\.scope IS NULL\s+OR r\.not_after", "true OR r.not_after")
    statements = without(statements, "claim", r"busy ON c\.scope IS NOT NULL AND", "busy ON false AND")
    return without(
        statements, "materialise", r"WHEN EXISTS (\(SELECT FROM tocsin\.runs h)", r"WHEN false AND EXISTS \1"
    )


def poisonous() -> Statements:
    """However often a run is lost, it is begun again."""
    statements = load()
    while re.search(r"r\.lost \+ 1 >= \$\d+::integer", statements["sweep"].text):
        statements = without(statements, "sweep", r"r\.lost \+ 1 >= (\$\d+::integer)", r"\1 IS NULL")
    return statements


def early() -> Statements:
    """A trigger is due half a second before its instant."""
    return without(load(), "lock_due", r"(t\.wake_at <= coalesce\([^)]*\)\))", r"\1 + interval '500 ms'")


def untold() -> Statements:
    """Successes leave nothing in the trail."""
    return without(
        load(), "settle", r"(c\.reason, instant\.now\s+FROM closed c, instant)", r"\1 WHERE c.state = 'failed'"
    )
