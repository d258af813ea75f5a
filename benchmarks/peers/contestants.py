"""Who takes part, with which packages, in whose best documented setting, and what each cannot do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One engine.

    packages: for pip; {root} is this checkout. shown: distributions whose versions are reported.
    setting: what it was run with, in words. cannot: scenario to reason. resolution: seconds between
    instants that a schedule can name. resident: its schedules live in the working process.
    unsettled: SQL that is true while a run has not ended; None where the store is not PostgreSQL.
    stretch: so many times the runs for throughput, for one that would be through too soon.
    largest: the largest size of a scenario it is asked for, since more would take minutes.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    shown: tuple[str, ...]
    setting: str
    python: tuple[int, int] = (3, 11)
    store: str = "postgresql"
    resolution: int = 1
    resident: bool = False
    replicas: int = 3
    drain_limit: str = ""
    unsettled: str | None = None
    stretch: int = 1
    largest: Mapping[str, int] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)


REFERENCE: Final = "reference"
TOCSIN: Final = "tocsin"

CONTESTANTS: Final = (
    Contestant(
        name=REFERENCE,
        title="reference",
        packages=("asyncpg",),
        shown=("asyncpg",),
        setting="a bare loop on asyncpg, batches of 500, two claiming connections, generic plans; no product",
        unsettled="SELECT EXISTS (SELECT FROM runs WHERE state < 2)",
        stretch=5,
        cannot={
            "crash": "has no lease: the runs of a killed process stay claimed for ever",
            "drain": "has no drain",
        },
    ),
    Contestant(
        name=TOCSIN,
        title="Tocsin",
        packages=("--editable", "{root}[embedded]"),
        shown=("asyncpg",),
        setting="a Replica with everything on, logging at warning; 500 slots for throughput and burst, else 100",
        unsettled="SELECT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)",
    ),
    Contestant(
        name="pgqueuer",
        title="PgQueuer",
        packages=("pgqueuer[asyncpg]", "uvloop"),
        shown=("pgqueuer", "asyncpg"),
        setting="`PgQueuer.run` on one asyncpg connection and uvloop, batch_size 500 for throughput; the rest default",
        resident=True,
        unsettled="SELECT EXISTS (SELECT FROM pgqueuer WHERE status IN ('queued', 'picked'))",
    ),
)


def named(names: list[str]) -> list[Contestant]:
    """In the table's order. Raises: KeyError, for a name that is none."""
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    for name in names:
        by_name[name]
    return [contestant for contestant in CONTESTANTS if not names or contestant.name in names]
