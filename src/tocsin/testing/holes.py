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


SETTLEMENTS: Final = ("settle", "settle_plain")


def unfenced() -> Statements:
    statements = of_whichever_claim()
    for name in SETTLEMENTS:
        statements = without(statements, name, HOLDER, r"AND r.state = 'running' AND \1 IS NOT NULL")
    return statements


def of_whichever_claim() -> Statements:
    """A settlement is of the holder, whichever of its claims it speaks of."""
    statements = load()
    for name in SETTLEMENTS:
        statements = without(statements, name, r"AND r\.fence = g\.fence ")
    return statements


def of_whichever_holder() -> Statements:
    """Whoever comes with the right fence settles."""
    statements = load()
    for name in SETTLEMENTS:
        statements = without(statements, name, HOLDER, r"AND \1 IS NOT NULL")
    return statements


def stateless() -> Statements:
    """The same, told as what it also means: only a running run has a holder, so an ended one is settled once more.

    The table itself would refuse such a row: see TOOK_EDGES.
    """
    return of_whichever_holder()


TOOK_EDGES: Final = "ALTER TABLE tocsin.runs DROP CONSTRAINT runs_took_edges"


def unlocked() -> Statements:
    """Two planners may decide the same triggers, and the later moves the cursor from wherever it stands."""
    statements = without(load(), "lock_due", r"FOR UPDATE SKIP LOCKED")
    return without(
        statements, "materialise", r"AND t\.next_at = coalesce\(c\.old, ([^)]*)\)", r"AND \1 IS NOT DISTINCT FROM \1"
    )


def unlimited() -> Statements:
    """The same, and a planner that stood still between its look and its write finds its session alive."""
    return without(unlocked(), "lock_due", r"'1500ms'", "'60s'")


def unkeyed() -> Statements:
    return without(unlocked(), "materialise", r"ON CONFLICT \(trigger_id.*?\) WHERE key IS NULL", "ON CONFLICT")


def overlapping() -> Statements:
    statements = without(load(), "claim", r"r\.scope IS NULL\s+OR r\.not_after", "true OR r.not_after")
    statements = without(statements, "claim", r"WHERE b\.scope = c\.scope AND", "WHERE false AND")
    return without(statements, "materialise", r"WHEN (\(SELECT h\.scope FROM tocsin\.runs h)", r"WHEN false AND \1")


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
    """A run that is queued again leaves nothing in the trail."""
    return without(load(), "settle", r"(AS e \([^)]*\)\s+WHERE c\.state = )'queued'", r"\1'nothing'")


def judged_anew() -> Statements:
    """Whoever sweeps gives up a silent process, whoever has done so before, and whatever has been heard since."""
    statements = without(load(), "bury_instances", r"WHERE l\.ended_at IS NULL\s+\), mass", "), mass")
    return without(statements, "bury_instances", r"AND l\.ended_at IS NULL AND l\.expires_at < instant\.now")


def unheard() -> Statements:
    """A beat is answered, and its process's lease runs as before."""
    return without(load(), "beat", r"SET expires_at = instant\.now \+ g\.dead_after", "SET expires_at = l.expires_at")


def merciless() -> Statements:
    """However many fall silent at once, each is given up."""
    return without(load(), "bury_instances", r"AND \(s\.is_silent_twice OR NOT y\.granted\)")
