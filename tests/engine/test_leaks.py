"""Each step is made to fail at each of its awaits; afterwards no session, transaction or lock is left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Final

import asyncpg
import pytest

from tests.engine.building import (
    DEADLINE,
    MINUTE,
    NOON,
    PATIENCE,
    SECOND,
    Peer,
    Scripted,
    World,
    a_trigger,
    an_app,
    eventually,
)
from tocsin import cron, on_event
from tocsin.domain.event import Event
from tocsin.domain.run import Succeeded
from tocsin.engine.hearing import Hearing
from tocsin.engine.keeper import Keeper
from tocsin.engine.lookout import Lookout
from tocsin.engine.matcher import Matcher
from tocsin.engine.pruner import Pruner
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.feed import Feed
from tocsin.store.leases import Leases
from tocsin.store.retention import Retention
from tocsin.store.signals import Signals

MOST_AWAITS: Final = 400
MINUTELY = cron("* * * * *")


class Interrupted:
    """Awaits a coroutine and raises into it at its ``at``-th suspension."""

    def __init__(self, step: Coroutine[Any, Any, Any], at: int, error: BaseException) -> None:
        self._step = step
        self._at = at
        self._error = error
        self.raised = False

    def __await__(self) -> Generator[Any, Any, Any]:
        waited = self._step.send(None)
        for number in range(MOST_AWAITS):
            if number == self._at:
                self.raised = True
                if isinstance(waited, asyncio.Future):
                    # What was waited for is not ours any more, as when a task is cancelled.
                    waited.cancel()
                waited = self._step.throw(self._error)
                continue
            try:
                answer = yield waited
            except BaseException as error:
                waited = self._step.throw(error)
            else:
                waited = self._step.send(answer)
        raise AssertionError("a step with more awaits than anybody counted on")


async def interrupted(step: Coroutine[Any, Any, Any], at: int, error: BaseException) -> bool:
    """Whether the step had an ``at``-th await, at which the error was raised into it."""
    broken = Interrupted(step, at, error)

    task = asyncio.create_task(_contained(broken))
    await asyncio.wait({task}, timeout=DEADLINE)
    assert task.done(), f"stuck after await {at}"
    return broken.raised


async def _contained(broken: Interrupted) -> None:
    """Whatever leaves the step is what its loop would have caught."""
    try:
        await broken
    except (asyncio.CancelledError, Exception):
        return


async def left_behind(world: World) -> dict[str, int]:
    """What the server still sees of the steps: open transactions and locks of the pool's sessions."""
    return await world.row(
        """
        SELECT (SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND (state LIKE 'idle in transaction%' OR state = 'active') AND backend_type = 'client backend'
               ) AS transactions,
               (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE a.datname = current_database() AND l.pid <> pg_backend_pid()
                   AND l.locktype IN ('tuple', 'relation', 'transactionid')
                   AND a.backend_type = 'client backend') AS locks
        """
    )


async def check_clean(world: World, *databases: Database) -> None:
    async def clean() -> bool:
        return await left_behind(world) == {"transactions": 0, "locks": 0}

    await eventually(clean, what="the end of every transaction")
    for pool, size in [(database._pool, database.size) for database in databases]:
        if pool is not None:
            # When a step has ended it may be on its way yet: nobody waits for that.
            with suppress(AssertionError):
                await eventually(lambda pool=pool: pool.get_size() == pool.get_idle_size(), within=2 * PATIENCE)
            assert pool.get_size() - pool.get_idle_size() == 0, "a session did not come back"
            assert pool.get_size() <= size


Step = Callable[[], Awaitable[Coroutine[Any, Any, Any]]]


async def broken_everywhere(world: World, prepare: Step, *databases: Database) -> int:
    """Every await of the step has been made to fail in three ways; how many awaits it has."""
    awaits = 0
    errors: list[Callable[[], BaseException]] = [
        asyncio.CancelledError,
        lambda: asyncpg.ConnectionDoesNotExistError("cut"),
        lambda: RuntimeError("boom"),
    ]
    for error in errors:
        at = 0
        while await interrupted(await prepare(), at, error()):
            at += 1
            assert at < MOST_AWAITS
        awaits = max(awaits, at)
    await check_clean(world, *databases)
    return awaits


@pytest.fixture
async def peer(world: World) -> Peer:
    """A peer with a trigger, on a pool of two, so that what leaks is soon missed."""
    await world.database.close()
    world.database.size = 2
    await world.declare(a_trigger(schedule=MINUTELY), a_trigger("u"), max_attempts=2)
    return await world.peer(executor=Scripted(slots=1_000), lease=1_000 * MINUTE)


async def test_a_planners_step(world: World, peer: Peer) -> None:
    async def prepare() -> Coroutine[Any, Any, Any]:
        world.clock.turn(MINUTE)
        return peer.planner.run_once()

    assert await broken_everywhere(world, prepare, world.database) >= 4
    world.clock.turn(MINUTE)
    await peer.planner.run_once()
    decided = await world.value("SELECT count(*) FROM tocsin.runs") + await world.value(
        "SELECT coalesce(sum(count), 0) FROM tocsin.skips"
    )
    following = await world.value("SELECT next_at FROM tocsin.triggers WHERE name = 't'")
    assert decided == (following - NOON) / MINUTE - 1


async def test_a_runners_claim_and_a_settlers_write(world: World, peer: Peer) -> None:
    number = 0

    async def claim() -> Coroutine[Any, Any, Any]:
        nonlocal number
        number += 1
        await world.queue("u", at=-number * SECOND)
        return peer.runner.run_once()

    async def settle() -> Coroutine[Any, Any, Any]:
        await (await claim())
        await asyncio.sleep(0)
        assert isinstance(peer.executor, Scripted)
        await peer.executor.end_all(Succeeded(b"1"))
        return peer.settler.run_once()

    assert await broken_everywhere(world, claim, world.database) >= 1
    assert await broken_everywhere(world, settle, world.database) >= 1
    while await peer.settler.run_once():
        pass
    in_hand = {run_id for run_id, _ in peer.hands.held()}
    running = {row["id"] for row in await world.rows("SELECT id FROM tocsin.runs WHERE state = 'running'")}
    renewal = await peer.leases.renew(peer.hands.held(), lease=MINUTE)
    # What was claimed and never heard of is ours to give back; the rest is settled.
    world.clock.turn(11)
    strays = (await peer.leases.renew(peer.hands.held(), lease=MINUTE)).strays
    assert renewal.fenced == frozenset()
    assert {run_id for run_id, _ in strays} == running - in_hand


async def test_a_reporters_write(world: World, peer: Peer) -> None:
    await world.queue("u")
    await peer.runner.run_once()
    await asyncio.sleep(0)
    assert isinstance(peer.executor, Scripted)
    _, reports, stop, _ = peer.executor.in_hand[0]

    async def prepare() -> Coroutine[Any, Any, Any]:
        world.clock.turn(1)
        reports.progress("on", 0.5)
        return peer.reporter.run_once()

    assert await broken_everywhere(world, prepare, world.database) >= 1
    world.clock.turn(1)
    await peer.reporter.run_once()
    assert await world.value("SELECT progress FROM tocsin.attempts") == "on"
    assert not stop.requested
    # What is said while a write is under way that then fails is written once, and last.
    world.clock.turn(1)
    reports.progress("before", 0.6)
    failing = asyncio.create_task(peer.reporter.run_once())
    await asyncio.sleep(0)
    reports.progress("meanwhile", 0.7)
    failing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failing
    world.clock.turn(1)
    await peer.reporter.run_once()
    assert await world.value("SELECT progress FROM tocsin.attempts") == "meanwhile"


async def test_a_sweepers_step(world: World, peer: Peer) -> None:
    world.clock.turn(31)
    peer.sweeper.expect(others_run=True, cancelling=True, waiting=True)

    async def prepare() -> Coroutine[Any, Any, Any]:
        await world.admin.execute("TRUNCATE tocsin.runs, tocsin.occurrences, tocsin.past_transitions")
        dead = await world.peer()
        await world.queue("u")
        await dead.claim(late=5)
        for _ in range(2):
            world.clock.turn(16)
        peer.sweeper._judges_from = 0.0
        return peer.sweeper.run_once()

    assert await broken_everywhere(world, prepare, world.database) >= 3


async def test_a_keepers_renewal_on_a_session_of_its_own(world: World, peer: Peer) -> None:
    database = Database(world.dsn, size=1)
    leases = Leases(database=database, clock=world.clock, who=peer.who)

    def keeper() -> Keeper:
        return Keeper(
            database=database,
            leases=leases,
            hands=peer.hands,
            who=peer.who,
            clock=world.clock,
            log=peer.log,
            lease=MINUTE,
            renew_every=SECOND,
            stop=lambda *_: None,
            strays=lambda _: None,
            describe=lambda: ("x", "0", [], 1),
        )

    try:
        # From the very first step, which registers, renews and takes the lock.
        async def register() -> Coroutine[Any, Any, Any]:
            peer.who.reborn()
            return keeper().run_once()

        kept = keeper()
        peer.who.reborn()
        await kept.run_once()

        async def renew() -> Coroutine[Any, Any, Any]:
            world.clock.turn(1)
            return kept.run_once()

        assert await broken_everywhere(world, renew, database) >= 1
        assert await broken_everywhere(world, register, database) >= 3
        assert not await keeper().run_once()
    finally:
        await database.close()


async def test_a_lookouts_look_on_the_listening_session(world: World, peer: Peer) -> None:
    signals = Signals(database=world.database, hear=lambda _: None)
    lookout = Lookout(
        leases=peer.leases,
        signals=signals,
        clock=world.clock,
        time=peer.time,
        agents=["agent"],
        poll_every=SECOND,
        seen=lambda _: None,
        blinded=lambda: None,
    )

    async def prepare() -> Coroutine[Any, Any, Any]:
        return lookout.run_once()

    async def anew() -> Coroutine[Any, Any, Any]:
        await signals.close()
        return lookout.run_once()

    try:
        assert await broken_everywhere(world, prepare, world.database) >= 1
        assert await broken_everywhere(world, anew, world.database) >= 1
        assert await lookout.run_once() is False
    finally:
        await signals.close()

    async def no_listener() -> bool:
        rows = await world.rows(
            "SELECT FROM pg_stat_activity WHERE application_name = 'tocsin-listen' AND datname = current_database()"
        )
        return not rows

    await eventually(no_listener, what="the end of every listener")


async def test_a_pruners_step(world: World, peer: Peer) -> None:
    pruner = Pruner(
        retention=Retention(database=world.database),
        feed=Feed(database=world.database, clock=world.clock),
        clock=world.clock,
        time=peer.time,
        log=peer.log,
        keep=MINUTE,
        keep_audit=MINUTE,
        keep_feed=MINUTE,
    )
    peer.time.learn(world.clock.now(), asked_at=world.clock.monotonic())

    async def prepare() -> Coroutine[Any, Any, Any]:
        return pruner.run_once()

    assert await broken_everywhere(world, prepare, world.database) >= 4


async def test_a_matchers_step(world: World, peer: Peer) -> None:
    await world.declare(a_trigger("e", event=on_event("push")), a_trigger("w", event=on_event("push", batch="1h")))
    matcher = Matcher(
        database=world.database,
        events=Events(clock=world.clock, who=peer.who),
        hearing=Hearing(),
        clock=world.clock,
        log=peer.log,
    )
    number = 0

    async def prepare() -> Coroutine[Any, Any, Any]:
        nonlocal number
        number += 1
        await world.value("SELECT tocsin.emit('push', 'x', NULL, $1)", str(number))
        return matcher.run_once()

    assert await broken_everywhere(world, prepare, world.database) >= 8
    while await matcher.run_once():
        pass
    plain = "SELECT count(*) FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id WHERE t.name = 'e'"
    assert await world.value(plain) == number
    gathered = await world.value("SELECT sum(jsonb_array_length(input)) FROM tocsin.runs WHERE input::text LIKE '[%'")
    assert gathered == number


OPERATIONS: Final = ("declare", "pause", "resume", "edit", "fire", "emit", "backfill", "delete", "why")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation(world: World, peer: Peer, operation: str) -> None:
    control = world.control
    number = 0

    async def prepare() -> Coroutine[Any, Any, Any]:
        nonlocal number
        number += 1
        name = f"x{number}"
        if operation != "declare":
            await control.declare(an_app(a_trigger(name, MINUTELY)))
        if operation == "emit" and number == 1:
            await control.add_trigger(a_trigger("e", event=on_event("push", debounce="5s")))
        if operation == "resume":
            await control.pause(name)
            world.clock.turn(MINUTE)
        now = world.clock.now()
        operations: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "declare": lambda: control.declare(an_app(a_trigger(name, MINUTELY)), prune=True),
            "pause": lambda: control.pause(name),
            "resume": lambda: control.resume(name),
            "edit": lambda: control.edit_trigger(name, lambda spec: spec),
            "fire": lambda: control.fire(name),
            "emit": lambda: control.emit([Event(id=name, source="x", type="push")]),
            "backfill": lambda: control.backfill(name, now - 2 * MINUTE, now),
            "delete": lambda: control.delete_trigger(name),
            "why": lambda: control.why(name),
        }
        return operations[operation]()

    assert await broken_everywhere(world, prepare, world.database) >= 2


async def test_a_leak_would_be_seen(world: World) -> None:
    """The check itself fails for a session that is kept and for a transaction left open."""
    pool_session = world.database.session()
    await world.database.open()
    session = await pool_session.__aenter__()
    with pytest.raises(AssertionError, match="did not come back"):
        await check_clean(world, world.database)
    await session.connection.execute("BEGIN")
    await session.connection.execute("SELECT count(*) FROM tocsin.runs")
    assert await left_behind(world) != {"transactions": 0, "locks": 0}
    await session.connection.execute("ROLLBACK")
    await pool_session.__aexit__(None, None, None)
    await check_clean(world, world.database)
