"""N replicas of the real hub on one real PostgreSQL, with agent processes if that is wished for, in one journal."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final, Self
from uuid import uuid4

from tests.chaos import gauge
from tests.chaos.elsewhere import Elsewhere
from tests.chaos.journal import Journal
from tests.chaos.member import Member
from tests.chaos.postgres import AWAY, Postgres
from tocsin.clock import SystemClock
from tocsin.domain.errors import StoreError
from tocsin.domain.trigger import TriggerSpec
from tocsin.engine import declaring
from tocsin.engine.control import Control
from tocsin.store.database import Database
from tocsin.store.leases import Incarnation
from tocsin.store.migrate import migrate
from tocsin.store.triggers import Triggers

BY_HAND: Final = "by-hand"
HELD: Final = "by-hand-once"
"""Triggers without a schedule, for faults that need runs of their own."""

LEASE: Final = 3.0
DRAIN: Final = 4.0

SETTINGS: Final = {
    "TOCSIN_HTTP_BIND": "127.0.0.1:0",
    "TOCSIN_GRPC_BIND": "off",
    "TOCSIN_LOG_FORMAT": "json",
    "TOCSIN_LEASE": f"{LEASE:g}s",
    "TOCSIN_RENEW_EVERY": "500ms",
    "TOCSIN_SWEEP_EVERY": "500ms",
    "TOCSIN_POLL_EVERY": "1s",
    "TOCSIN_DRAIN_TIMEOUT": f"{DRAIN:g}s",
    "TOCSIN_SLOTS": "40",
}
"""A lease of three seconds instead of thirty: what takes minutes in service takes seconds here."""


class Fleet:
    """Enter it to have a migrated database; ``start()`` to have replicas that are ready.

    place: a directory for everything. env: for every process, before its own. ``members`` are the replicas,
    ``elsewhere`` has the agent processes and what is between. The cluster is ``postgres``:
    its ``dsn``, ``socket``, ``stop(how)``, ``start()``, ``restart(how)``. A fault may give one member another
    ``dsn``, ``env`` or ``prefix``, and start it anew.
    """

    def __init__(
        self,
        place: Path,
        *,
        replicas: int = 3,
        instances: int = 0,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.place: Final = place
        self.ledgers: Final = place / "ledger"
        self.ledgers.mkdir(parents=True, exist_ok=True)
        gauge.place(self.ledgers).mkdir(exist_ok=True)
        self.journal: Final = Journal(place / "nemesis.jsonl")
        self.postgres: Final = Postgres(place / "pg", settings)
        self.lease: Final = LEASE
        self._stack = AsyncExitStack()
        self._control: Control | None = None
        self._turns: dict[str, int] = {}
        shared = SETTINGS | {"CHAOS_LEDGERS": str(self.ledgers)} | dict(env or {})
        self.members: Final = [
            Member(index, dsn=lambda: self.postgres.dsn, env=dict(shared), journal=self.journal)
            for index in range(replicas)
        ]
        self.elsewhere: Final = Elsewhere(
            self.members, count=instances, env=shared, journal=self.journal, ledgers=self.ledgers
        )

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.postgres)
        await migrate(self.postgres.dsn)
        if self.elsewhere.members:
            self._stack.push_async_callback(self.elsewhere.close)
            await self.elsewhere.open(self.control)
        self._stack.push_async_callback(self._end_all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.journal.close()

    async def _end_all(self) -> None:
        for member in self.everybody:
            if member.alive:
                await member.kill()

    @property
    def everybody(self) -> list[Member]:
        """The replicas, and the agent processes."""
        return [*self.members, *self.elsewhere.members]

    @property
    def control(self) -> Control:
        """The product's own control, in the name of a fault."""
        if self._control is None:
            self._database = Database(self.postgres.dsn, size=4)
            self._stack.push_async_callback(self._database.close)
            self._control = Control(database=self._database, clock=SystemClock(), actor="nemesis")
        return self._control

    @property
    def living(self) -> list[Member]:
        """Members whose process lives and is not frozen."""
        return [member for member in self.members if member.alive and not member.frozen]

    def leases_lost(self) -> int:
        """How often a process that runs now has found that its lease had run out, or was ended by a peer."""
        return sum(len(member.logged(event)) for member in self.members for event in ("lease.expired", "replica.lost"))

    async def start(self, *members: Member, within: float = 30) -> None:
        """These, or all that are not running, are ready."""
        new = [member for member in members or self.everybody if not member.alive]
        for member in new:
            member.spawn()
        for member in new:
            await member.until_ready(within=within)

    async def restart(self, member: Member, *, kill: bool = False) -> None:
        """Another process of the member is ready; the former was killed, or drained."""
        await (member.kill() if kill else member.stop())
        await self.start(member)

    @asynccontextmanager
    async def frozen(self, *members: Member) -> AsyncIterator[None]:
        """They stand still (SIGSTOP) inside the block, and go on after it."""
        for member in members:
            member.freeze()
        try:
            yield
        finally:
            for member in members:
                member.thaw()

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """An administrator's question; see Postgres.fetch."""
        return await self.postgres.fetch(query, *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of the first row."""
        rows = await self.fetch(query, *arguments)
        return next(iter(rows[0].values())) if rows else None

    async def until(
        self, holds: Callable[[], Awaitable[object]], what: str, *, within: float, every: float = 0.05
    ) -> float:
        """Seconds until the condition held. While the database is away it does not hold.

        Raises: AssertionError, naming what did not come about.
        """
        since = time.monotonic()
        while time.monotonic() - since < within:
            with suppress(*AWAY, StoreError):
                if await holds():
                    return time.monotonic() - since
            await asyncio.sleep(every)
        raise AssertionError(f"not within {within:g} s: {what}")

    async def until_value(self, query: str, *arguments: object, within: float) -> float:
        """The query's first value is true, or not zero."""

        async def holds() -> object:
            return await self.value(query, *arguments)

        return await self.until(holds, query, within=within)

    async def for_a_while(self, seconds: float) -> None:
        """A fault stays on for so long. For durations that are the fault itself, never to wait for something."""
        await asyncio.sleep(seconds)

    def taken(self, what: str, rng: Random) -> int:
        """How often this was asked for before, from a beginning that the seed picks: for taking turns."""
        self._turns[what] = self._turns[what] + 1 if what in self._turns else rng.randrange(1_000)
        return self._turns[what]

    async def until_next_second(self, offset: float) -> None:
        """The database's clock stands at a full second and ``offset`` seconds, as nearly as can be told."""
        asked = time.monotonic()
        now = await self.value("SELECT extract(epoch FROM clock_timestamp())::double precision")
        await asyncio.sleep(max(0.0, math.ceil(now + 0.1) + offset - now - (time.monotonic() - asked) / 2))

    # --- runs and triggers of a fault's own

    async def declare(self, specs: Sequence[TriggerSpec]) -> None:
        """The triggers stand, all of one instant."""
        database = self.control._database
        triggers = Triggers(database=database, clock=SystemClock(), who=Incarnation("nemesis", actor="nemesis"))
        async with database.transaction() as session:
            now = await triggers.now(session)
            new = [declaring.first_cursor(uuid4(), spec, now) for spec in specs]
            await triggers.insert(session, new, source="nemesis")
            await triggers.hint(session)

    async def fire(self, trigger: str, payload: dict[str, Any]) -> str:
        """The id of a new run. While the database is away it is tried again."""
        key, found = str(uuid4()), ""

        async def fired() -> bool:
            nonlocal found
            found = str((await self.control.fire(trigger, key=key, input=payload))["id"])
            return True

        await self.until(fired, f"{trigger} is fired", within=20)
        return found

    async def state_of(self, run_id: str) -> str:
        return str(await self.value("SELECT state FROM tocsin.runs WHERE id = $1::uuid", run_id))

    async def begun(self, run_id: str) -> dict[str, Any]:
        """The ledger's entry of the run's beginning."""
        found: dict[str, Any] = {}

        async def there() -> bool:
            for ledger in self.ledgers.iterdir():
                for line in ledger.read_text().splitlines():
                    if run_id in line and '"START"' in line:
                        found.update(json.loads(line))
            return bool(found)

        await self.until(there, f"run {run_id} begins", within=20)
        return found

    async def until_ended(self, run_id: str, *, within: float) -> None:
        await self.until_value(
            "SELECT finished_at IS NOT NULL FROM tocsin.runs WHERE id = $1::uuid", run_id, within=within
        )

    async def until_holding(self, member: Member, *, seconds: float = LEASE) -> None:
        """The member has a run in hand that lasts so long, and is begun again if it is lost: one is fired for
        it, and one that is not begun again, as often as it takes."""

        async def holds() -> object:
            holder = (await self.holders([member])).get(member.name)
            if holder is None:
                return False
            for trigger in (HELD, BY_HAND):
                await self.control.fire(trigger, input={"seconds": [seconds]})
            return await self.value(
                "SELECT count(DISTINCT r.agent) = 2 FROM tocsin.runs r WHERE r.state = 'running'"
                " AND r.holder = $1::uuid AND r.input -> 'seconds' ->> 0 = $2",
                holder,
                str(seconds),
            )

        await self.until(holds, f"{member.name} has work in hand", within=20)

    async def holders(self, members: Sequence[Member] | None = None) -> dict[str, str]:
        """Member's name → its present incarnation's id, for those with a lease."""
        wanted = {f":{member.pid}": member.name for member in members or self.members if member.alive}
        rows = await self.fetch(
            "SELECT p.id::text AS id, p.name FROM tocsin.replicas p JOIN tocsin.leases l ON l.holder = p.id"
            " WHERE l.ended_at IS NULL ORDER BY p.started_at"
        )
        return {name: row["id"] for row in rows for ending, name in wanted.items() if row["name"].endswith(ending)}
