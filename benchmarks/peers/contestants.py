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
    lead: seconds that it takes for each schedule before it stands, generously.
    attempts: SQL for the highest attempt that any run has been counted.
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
    lead: float = 0.001
    replicas: int = 3
    drain_limit: str = ""
    attempts: str | None = None
    unsettled: str | None = None
    stretch: int = 1
    largest: Mapping[str, int] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)


REFERENCE: Final = "reference"
TUNED: Final = "tuned"
TOCSIN: Final = "tocsin"

LOOPS: Final = (REFERENCE, TUNED)
"""What is no product: no peer, whatever its figures."""

LOOP_UNSETTLED: Final = "SELECT EXISTS (SELECT FROM runs WHERE state < 2)"
LOOP_CANNOT: Final = {
    "crash": "has no lease: the runs of a killed process stay claimed for ever",
    "drain": "has no drain",
}

CONTESTANTS: Final = (
    Contestant(
        name=REFERENCE,
        title="reference",
        packages=("asyncpg",),
        shown=("asyncpg",),
        setting="a bare loop on asyncpg, one claiming connection, batches of 1,000, generic plans; no product",
        unsettled=LOOP_UNSETTLED,
        stretch=5,
        cannot=LOOP_CANNOT,
    ),
    Contestant(
        name=TUNED,
        title="tuned reference",
        packages=("asyncpg",),
        shown=("asyncpg",),
        setting="the same loop with its completions HOT and two claiming connections, batches of 500; no product",
        unsettled=LOOP_UNSETTLED,
        stretch=5,
        cannot=LOOP_CANNOT,
    ),
    Contestant(
        name=TOCSIN,
        title="Tocsin",
        packages=("--editable", "{root}[embedded]"),
        shown=("asyncpg",),
        setting="a Replica, everything on, logs at warning; 1,000 slots for throughput, 500 for bursts, else 100",
        attempts="SELECT max(attempt)::float8 FROM tocsin.runs",
        unsettled="SELECT EXISTS (SELECT FROM tocsin.runs WHERE finished_at IS NULL)",
    ),
    Contestant(
        name="pgqueuer",
        title="PgQueuer",
        packages=("pgqueuer[asyncpg]", "uvloop"),
        lead=0.003,
        shown=("pgqueuer", "asyncpg"),
        setting="`PgQueuer.run` on one asyncpg connection and uvloop, batch_size 500 for throughput; the rest default",
        resident=True,
        unsettled="SELECT EXISTS (SELECT FROM pgqueuer WHERE status IN ('queued', 'picked'))",
    ),
    Contestant(
        name="oban",
        title="Oban",
        packages=("oban",),
        lead=0.002,
        shown=("oban", "psycopg"),
        setting="a queue as wide as the slots, leadership on, its defaults; the crash scenario also with"
        " `lifeline` of 1 s and `rescue_after` of 2 s",
        python=(3, 12),
        resolution=60,
        resident=True,
        attempts="SELECT max(attempt)::float8 FROM oban_jobs",
        unsettled="SELECT EXISTS (SELECT FROM oban_jobs WHERE state IN ('available', 'scheduled', 'executing'))",
    ),
    Contestant(
        name="procrastinate",
        title="Procrastinate",
        packages=("procrastinate",),
        lead=0.002,
        shown=("procrastinate", "psycopg"),
        setting="PsycopgConnector with a pool of 20, concurrency as the slots; the crash scenario also with the"
        " documented task that retries stalled jobs, every second",
        resident=True,
        unsettled="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
        largest={"throughput": 2_000, "plan": 0, "burst": 1_000, "bulk": 20_000, "idle": 10_000},
    ),
    Contestant(
        name="dbos",
        title="DBOS",
        packages=("dbos",),
        lead=0.05,
        shown=("dbos", "psycopg"),
        setting="a queue polled every 0.1 s (default 1 s), schedules looked for every second (default 30 s)",
        unsettled="SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))",
        largest={"throughput": 2_000, "plan": 0, "burst": 100, "bulk": 2_000, "idle": 100},
        cannot={
            "crash": "the workflows of a dead process are taken up by one with the same executor id, or by Conductor,"
            " which is another product",
            "drain": "a workflow in hand at the end of the limit is taken up as after a crash",
        },
    ),
    Contestant(
        name="apscheduler4",
        title="APScheduler 4 (alpha)",
        packages=("apscheduler==4.0.0a6", "asyncpg", "sqlalchemy[asyncio]", "anyio==4.9.*"),
        lead=0.02,
        shown=("apscheduler", "asyncpg", "sqlalchemy", "anyio"),
        setting="SQLAlchemyDataStore on asyncpg with AsyncpgEventBroker; anyio 4.9, as it fails with newer ones",
        unsettled="SELECT EXISTS (SELECT FROM jobs)",
        largest={"throughput": 1_000, "plan": 0, "burst": 1_000, "bulk": 2_000, "idle": 10_000},
        cannot={
            "crash": "a job whose worker died is marked as abandoned and not run again",
            "drain": "cancels what is in hand as it leaves, and does not run it again",
        },
    ),
    Contestant(
        name="apscheduler3",
        title="APScheduler 3",
        packages=("apscheduler<4",),
        shown=("apscheduler",),
        setting="AsyncIOScheduler, schedules in memory, one process: several would fire everything several times",
        store="memory",
        resident=True,
        replicas=1,
        cannot={
            "throughput": "has no queue: it calls functions in its own process",
            "latency": "has no queue to ask through from another process",
            "bulk": "has no queue",
            "crash": "what it had in hand is gone with its process",
            "drain": "cancels what is in hand as it leaves, and does not run it again",
        },
    ),
    Contestant(
        name="docket",
        title="Docket",
        packages=("pydocket",),
        shown=("pydocket", "redis"),
        setting="Redis with its log synced every second, checks every 5 ms (default 250 ms), at most 90 slots as"
        " its connections end there; that a run is settled cannot be asked of it, so its last begin counts",
        store="redis",
        largest={"throughput": 10_000, "plan": 0},
        cannot={"drain": "its drain has no limit: it waits for what is in hand, however long that takes"},
    ),
)


def named(names: list[str]) -> list[Contestant]:
    """In the table's order. Raises: KeyError, for a name that is none."""
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    for name in names:
        by_name[name]
    return [contestant for contestant in CONTESTANTS if not names or contestant.name in names]
