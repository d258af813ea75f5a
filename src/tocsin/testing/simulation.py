"""Three replicas on a real PostgreSQL, under a simulated clock, stepped by a scheduler that a seed decides.

Nothing runs by itself: the scheduler picks who steps which service next and how far the time moves,
freezes and kills replicas, loses statements and their answers, holds steps half way, edits, pauses and
fires triggers, and plants rows that cannot be read. At the end the faults stop, the survivors are
given time, one is drained, and what is left is a `History` for the invariants.

The same seed takes the same course. `python -m tocsin.testing SEED` repeats one.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from random import Random
from random import seed as seed_global
from typing import Any, Final, Self
from uuid import UUID

from tocsin.domain.schedule import at, every
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine import declaring
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation
from tocsin.store.statements import Statements, load
from tocsin.store.triggers import Triggers
from tocsin.telemetry import Log, Silence
from tocsin.testing import ends
from tocsin.testing.author import Author
from tocsin.testing.builders import a_trigger, an_id, mixed_agents, mixed_triggers
from tocsin.testing.clock import SimulatedClock, SimulatedTime
from tocsin.testing.history import CursorSeen, History, read_tables
from tocsin.testing.holes import without
from tocsin.testing.invariants import check
from tocsin.testing.nemesis import USUAL_CHANCE, Nemesis
from tocsin.testing.replica import RENEW_EVERY, SimulatedReplica, Step, World, breathe
from tocsin.testing.scripted import Ledger
from tocsin.testing.violation import Violation

LENGTH: Final = timedelta(hours=1)
TRIGGERS: Final = 27
POOL: Final = 8
"""Sessions that all replicas share: each may stand in one held step, and one goes on."""

CALM_STEPS: Final = 25
CALM_SECONDS: Final = 8.0

POISONS: Final[Mapping[str, tuple[str, str]]] = {
    "never": ('{"rules":[{"cron":"99 * * * *"}]}', "{}"),
    "nowhere": ('{"rules":[{"cron":"0 9 * * *","tz":"Mars/Phobos"}]}', "{}"),
    "shapeless": ('{"rules":"always"}', "{}"),
    "newer": ('{"rules":[{"lunar":"full"}]}', "{}"),
    "lawless": ('{"rules":[{"every_seconds":60}]}', '{"overlap":"perhaps"}'),
    "unstorable": ('{"rules":[{"every_seconds":60}]}', "{}"),
}
"""Schedules and changes of policy that no edge would take; written with SQL."""

ETERNAL: Final = "eternal"
"""An agent whose deadline is beyond the database's calendar: a run of it cannot be stored."""


class Simulation:
    """One seed's course. Enter it, ``run()`` it, then ask for its ``violations()``.

    triggers: instead of the mixed ones. statements and store: the product's, or ones with a guard
    taken out, to see who notices.
    """

    def __init__(
        self,
        seed: int,
        *,
        dsn: str,
        replicas: int = 3,
        length: timedelta = LENGTH,
        triggers: Sequence[TriggerSpec] | None = None,
        statements: Statements | None = None,
        store: type[Triggers] = Triggers,
        log: Log | None = None,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.time = SimulatedTime()
        self.ledger = Ledger()
        self.nemesis = Nemesis(self.random)
        self.replicas: list[SimulatedReplica] = []
        self.steps = 0
        self._dsn = dsn
        self._count = replicas
        self._length = length.total_seconds()
        self._triggers = triggers
        self._clock = SimulatedClock(self.time)
        self._world = World(
            agents=mixed_agents(),
            random=self.random,
            time=self.time,
            ledger=self.ledger,
            log=log or Silence(),
            store=store,
        )
        statements = _patient(statements or load())
        self._pool = Database(dsn, size=POOL, statements=statements)
        self._keeping = [Database(dsn, size=1, statements=statements) for _ in range(replicas)]
        self._names = 0
        self._cursors: list[CursorSeen] = []
        self._poisoned: set[UUID] = set()
        self._stack = AsyncExitStack()
        self.author = Author(database=self._pool, clock=self._clock, time=self.time, random=self.random)

    async def __aenter__(self) -> Self:
        # Back-off is drawn from the module's own generator.
        seed_global(self.seed)
        for database in [self._pool, *self._keeping]:
            self._stack.push_async_callback(database.close)
            await database.open()
        await ends.install(self._pool)
        await self._wait_for_no_lock()
        await self._vacuum_never()
        await self._declare()
        self.replicas = [self._replica(keeping) for keeping in self._keeping]
        for replica in self.replicas:
            await replica.keep()
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.replicas:
            await replica.die()
        await self._stack.aclose()

    async def run(self) -> None:
        """The hour with its faults, then the calm, then one drain."""
        while self.time.elapsed < self._length:
            await self._turn()
        await self._calm()
        await self.replicas[0].drain()

    async def history(self) -> History:
        tables = await read_tables(self._pool)
        return History(
            **tables,
            ends=await ends.read(self._pool),
            declared=self.author.declared,
            cursors=self._cursors,
            ledger=self.ledger,
            poisoned=self._poisoned,
            until=self.time.instant,
        )

    async def violations(self) -> list[Violation]:
        return check(await self.history())

    # --- what is there

    def _replica(self, keeping: Database) -> SimulatedReplica:
        self._names += 1
        name = f"replica-{self._names}"
        replica = SimulatedReplica(name=name, pool=self._pool, keeping=keeping, world=self._world)
        replica.faults.chance = USUAL_CHANCE
        return replica

    async def _wait_for_no_lock(self) -> None:
        """A session that meets a held step's lock gives up soon: real time does not pass in a simulation."""
        async with AsyncExitStack() as held:
            for _ in range(POOL):
                session = await held.enter_async_context(self._pool.session())
                await session.connection.execute("SET lock_timeout = '50ms'")

    async def _vacuum_never(self) -> None:
        """What comes at the same instant is taken as it lies, and a vacuum, which comes in real time, would move it."""
        async with self._pool.session() as session:
            tables = await session.connection.fetch(
                "SELECT c.oid::regclass::text AS name FROM pg_class c"
                " WHERE c.relnamespace = 'tocsin'::regnamespace AND c.relkind = 'r'"
            )
            for table in tables:
                await session.connection.execute(f"ALTER TABLE {table['name']} SET (autovacuum_enabled = false)")

    async def _declare(self) -> None:
        now = self.time.instant
        specs = self._mixed() if self._triggers is None else self._triggers
        triggers = Triggers(database=self._pool, clock=self._clock, who=Incarnation("author", actor="author"))
        new = [declaring.first_cursor(an_id(self.random), spec, now) for spec in specs]
        async with self._pool.transaction() as session:
            await triggers.declare_agents(session, self._world.agents, source="simulation")
            await triggers.insert(session, new, source="simulation")
        for one in new:
            self.author.begin(one.id, one.spec)

    def _mixed(self) -> list[TriggerSpec]:
        now = self.time.instant
        instants = [now + timedelta(seconds=self.random.randrange(60, 3600)) for _ in range(5)]
        return [
            *mixed_triggers(self.random, TRIGGERS),
            a_trigger("single", schedule=at(*instants), agent="courier"),
            a_trigger("bounded", schedule=every(100, start_at=now + timedelta(minutes=3), max_occurrences=20)),
            a_trigger("after", schedule=every(45, after_completion=True)),
        ]

    async def _poison(self) -> None:
        """Rows that no edge would take stand among the triggers, and are due."""
        self.nemesis.count("poison")
        async with self._pool.session() as session:
            await session.connection.execute(
                "INSERT INTO tocsin.agents (name, spec, max_attempts, on_lost, deadline, source, declared_at)"
                " SELECT $1, a.spec, 1, 'retry', '299000 years', 'sql', $2"
                " FROM tocsin.agents a WHERE a.name = 'scribe'",
                ETERNAL,
                self.time.instant,
            )
            for name, (schedule, policy) in POISONS.items():
                trigger_id = an_id(self.random)
                self._poisoned.add(trigger_id)
                await session.connection.execute(
                    "INSERT INTO tocsin.triggers (id, name, agent, schedule, policy, input, source, status,"
                    " next_at, wake_at, created_at, changed_at)"
                    " SELECT $1, $2, $6, $3::jsonb, p.policy || $4::jsonb, 'null', 'sql', 'armed', $5, $5, $5, $5"
                    " FROM (SELECT policy FROM tocsin.triggers WHERE name = 'single') p",
                    trigger_id,
                    f"poison-{name}",
                    schedule,
                    policy,
                    self.time.instant,
                    ETERNAL if name == "unstorable" else "scribe",
                )

    # --- what happens

    async def _turn(self) -> None:
        """The time moves, leases are renewed, some services step, and something may go wrong."""
        self.steps += 1
        random = self.random
        self.time.advance(random.choice([0.0, 0.5, 3.0, 6.0, 12.0]) * random.random() * 2)
        await breathe()
        await self.nemesis.end_due(self.time.elapsed)
        for replica in self.replicas:
            if not replica.clock.frozen and self.time.elapsed - replica.renewed_at >= RENEW_EVERY.total_seconds():
                await replica.keep()
        for _ in range(random.randrange(2, 5)):
            replica = random.choice(self.replicas)
            if replica.able:
                await self._step(replica)
        await self._mischief()
        await self._see_cursors()

    async def _step(self, replica: SimulatedReplica) -> None:
        services: list[Step] = [
            replica.planner, replica.runner, replica.settler, replica.sweeper, replica.reporter,
        ]  # fmt: skip
        service = self.random.choices(services, [5, 5, 4, 3, 1])[0]
        if service is replica.sweeper:
            await replica.look()
        await replica.step(service)
        await breathe()

    async def _mischief(self) -> None:
        random = self.random
        if random.random() < 0.06:
            await self.nemesis.afflict(random.choice(self.replicas), self.time.elapsed)
        if random.random() < 0.012:
            await self._replace(random.randrange(len(self.replicas)), drained=random.random() < 0.4)
        if random.random() < 0.10 and not self.nemesis.planner_held:
            await self.author.act()
            await breathe()
        if not self._poisoned and self.time.elapsed > self._length / 3:
            await self._poison()

    async def _replace(self, place: int, *, drained: bool) -> None:
        """A process is killed, or leaves in order, and another takes its place."""
        replica = self.replicas[place]
        drained = drained and not self.nemesis.troubled(replica)
        self.nemesis.count("drain" if drained else "kill")
        self.nemesis.forget(replica)
        if drained:
            await replica.drain()
        await replica.die()
        self.replicas[place] = self._replica(self._keeping[place])
        await self.replicas[place].keep()

    async def _see_cursors(self) -> None:
        now = self.time.instant
        async with self._pool.session() as session:
            rows = await session.connection.fetch(
                "SELECT t.id, t.version, t.next_at FROM tocsin.triggers t WHERE t.next_at IS NOT NULL"
            )
        self._cursors += [CursorSeen(row["id"], row["version"], row["next_at"], now) for row in rows]

    async def _calm(self) -> None:
        """No more faults: everybody steps everything for longer than two leases."""
        await self.nemesis.end_due(float("inf"))
        for replica in self.replicas:
            replica.faults.chance = 0.0
        for _ in range(CALM_STEPS):
            self.time.advance(CALM_SECONDS)
            await breathe()
            for replica in self.replicas:
                await replica.keep()
                await replica.look()
                for service in (replica.planner, replica.runner, replica.settler, replica.sweeper):
                    while await replica.step(service):
                        await breathe()
                    await breathe()
            await self._see_cursors()


def _patient(statements: Statements) -> Statements:
    """A planner that stands still keeps its locks: how long a held step lasts is real time, which has no part here."""
    return without(statements, "lock_due", r"(idle_in_transaction_session_timeout', )'[^']*'", r"\1'0'")


@asynccontextmanager
async def simulated(seed: int, dsn: str, **options: Any) -> AsyncIterator[Simulation]:
    """A simulation that has run its course."""
    async with Simulation(seed, dsn=dsn, **options) as simulation:
        await simulation.run()
        yield simulation
