"""Faults between replicas and their database: away, half-open, answers lost, slow, and a table that is locked."""

from contextlib import suppress
from random import Random
from typing import Any, Final
from uuid import uuid4

import asyncpg

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.faults.moving import behind
from tests.chaos.faults.proxy import Proxy
from tests.chaos.fleet import BY_HAND, Fleet
from tests.chaos.journal import Journal
from tests.chaos.member import Member
from tocsin.clock import SystemClock
from tocsin.domain.errors import StoreError
from tocsin.engine.control import Control
from tocsin.store.database import Database

RENEWED: Final = ("tocsin.leases", "tocsin.runs")
AWAY: Final = frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND})


async def refuse(fleet: Fleet, rng: Random) -> int:
    """F10: the database cannot be reached by one replica or by all, for one lease to three."""
    async with behind(fleet, _some(fleet, rng)) as proxy:
        proxy.refuse()
        await fleet.for_a_while(fleet.lease * rng.uniform(1, 3))
        proxy.restore()
        await _until_it_works(fleet, proxy)
        return _counted(proxy.counts.refused, "nobody tried to connect")


async def half_open(fleet: Fleet, rng: Random) -> int:
    """F11: connections stand and nothing comes through; then they flow again, or are gone."""
    async with behind(fleet, _some(fleet, rng)) as proxy:
        proxy.freeze()
        await fleet.for_a_while(fleet.lease * rng.uniform(0.5, 2))
        proxy.restore()
        if rng.random() < 0.5:
            proxy.cut()
        await _until_it_works(fleet, proxy)
        return _counted(proxy.counts.held, "nothing was held back")


async def lose_answers(fleet: Fleet, rng: Random) -> int:
    """F12: commits are done, and their sessions end before the answer."""
    wanted = rng.randint(5, 20)
    async with behind(fleet, _some(fleet, rng)) as proxy:
        proxy.cut_answers(times=wanted)

        async def lost() -> bool:
            return len(proxy.counts.cut_answers) >= wanted

        await fleet.until(lost, f"{wanted} answers lost", within=30)
        proxy.restore()
        await _fires_again(fleet)
        await _until_it_works(fleet, proxy)
        return _counted(len(proxy.counts.cut_answers), "no answer was lost")


_FIRED: Final = "SELECT count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id WHERE t.name = $1"


async def _fires_again(fleet: Fleet) -> None:
    """A caller hears nothing of a fire that is done, and asks once more by the same key: it is the same run."""
    journal = Journal(fleet.place / "calls.jsonl")
    with Proxy(fleet.postgres.dsn) as proxy:
        database = Database(proxy.dsn, size=1)
        control = Control(database=database, clock=SystemClock(), actor="nemesis")
        try:
            for _ in range(3):
                key, cut = str(uuid4()), len(proxy.counts.cut_answers)
                before = await fleet.value(_FIRED, BY_HAND)
                proxy.cut_answers()
                answer: dict[str, Any] | None = None
                while answer is None:
                    with suppress(StoreError):
                        answer = await control.fire(BY_HAND, key=key, input={"seconds": [0.0]})
                if len(proxy.counts.cut_answers) == cut:
                    raise DidNothing("the caller was answered at once")
                journal.note("call", op="fire", trigger=BY_HAND, ok=True, run=answer["id"], key=key)
                if (runs := await fleet.value(_FIRED, BY_HAND) - before) != 1:
                    raise AssertionError(f"one key, whose answer was lost, has {runs} runs")
        finally:
            await database.close()
            journal.close()


async def slow(fleet: Fleet, rng: Random) -> int:
    """F13: every answer comes 50 to 500 ms later, which costs nobody a lease."""
    async with behind(fleet, _some(fleet, rng)) as proxy:
        lost = fleet.leases_lost()
        proxy.delay(rng.uniform(0.05, 0.5))
        await fleet.for_a_while(fleet.lease * 2)
        if fleet.leases_lost() != lost:
            raise AssertionError("a replica lost its lease to answers that were only late")
        proxy.restore()
        await _until_it_works(fleet, proxy)
        return _counted(proxy.counts.delayed, "no answer was late")


async def lock_table(fleet: Fleet, rng: Random) -> int:
    """F13: somebody locks a table for some seconds, as a careless ALTER TABLE does. Leases go on beside it, unless
    it is one that a renewal looks at."""
    lost = fleet.leases_lost()
    table = rng.choice(["tocsin.runs", "tocsin.triggers", "tocsin.leases", "tocsin.past_transitions"])
    session = await asyncpg.connect(fleet.postgres.dsn, server_settings={"application_name": "chaos"})
    try:
        async with session.transaction():
            await session.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await fleet.for_a_while(rng.uniform(1, fleet.lease * 1.5))
            waiting = await fleet.value("SELECT count(*) FROM pg_locks WHERE NOT granted")
    finally:
        session.terminate()
    if table not in RENEWED and fleet.leases_lost() != lost:
        raise AssertionError(f"a replica lost its lease to a lock of {table}")
    return _counted(waiting, f"nobody waited for {table}")


def _some(fleet: Fleet, rng: Random) -> list[Member]:
    """One replica, or all of them."""
    return list(fleet.members) if rng.random() < 0.3 else [rng.choice(fleet.members)]


def _counted(effects: int, otherwise: str) -> int:
    if not effects:
        raise DidNothing(otherwise)
    return effects


async def _until_it_works(fleet: Fleet, proxy: Proxy) -> None:
    """A session goes through the proxy again. A replica that died of the fault is started by its next move."""

    async def works() -> bool:
        session = await asyncpg.connect(proxy.dsn, timeout=2)
        await session.close()
        return True

    await fleet.until(works, "a session through the proxy", within=10)


FAULTS: Catalogue = {
    "F10": lambda: Simple("F10", refuse, excuses=AWAY),
    "F11": lambda: Simple("F11", half_open, excuses=AWAY),
    "F12": lambda: Simple("F12", lose_answers, excuses=AWAY),
    "F13": lambda: Simple("F13", slow, excuses=AWAY),
    "F13a": lambda: Simple("F13a", lock_table, excuses=AWAY),
}
