"""Events and whole replicas: found when the hint was lost, begun on the instant, and once however many match."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

from tests.engine.building import Heard, World, a_replica, a_trigger, an_app, eventually
from tocsin import on_event
from tocsin.clock import SystemClock
from tocsin.domain.event import Event
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.control import Control


def listening(name: str, agent: str, kind: str = "push", **rule: Any) -> TriggerSpec:
    return a_trigger(name, agent=agent, event=on_event(kind, **rule), overlap=Overlap.ALLOW)


async def declare(world: World, *triggers: TriggerSpec) -> Control:
    control = Control(database=world.database, clock=SystemClock(), actor="edge")
    await control.declare(an_app(*triggers, agents={trigger.agent for trigger in triggers}))
    return control


SLOW: dict[str, Any] = {"lease": 30, "renew_every": 5, "poll_every": 20, "sweep_every": 5}
"""So that whatever is found soon was found by a hint."""


async def test_an_event_told_from_sql_is_begun_at_its_commit(world: World) -> None:
    began: asyncio.Queue[Any] = asyncio.Queue()
    await declare(world, listening("t", "agent", input="data"))

    async def agent(run: Any) -> None:
        await began.put(run.input)

    async with a_replica(world.dsn, {"agent": agent}, **SLOW) as replica:
        await eventually(lambda: replica.ready and replica._signals.listening)
        async with world.admin.transaction():
            await world.value("SELECT tocsin.emit('push', 'https://shop', '5', 'order-5')")
        async with asyncio.timeout(5):
            assert await began.get() == 5


async def test_an_event_whose_hint_is_lost_is_found_by_the_look(world: World) -> None:
    began: asyncio.Queue[Any] = asyncio.Queue()
    await declare(world, listening("t", "agent", input="id"))

    async def agent(run: Any) -> None:
        await began.put(run.input)

    async with a_replica(world.dsn, {"agent": agent}, poll_every=0.5) as replica:
        await eventually(lambda: replica.ready and replica._signals.listening)
        await world.admin.execute(
            "INSERT INTO tocsin.events (source, id, type, data, received_at) VALUES ('x', 'silent', 'push', '1', now())"
        )
        async with asyncio.timeout(5):
            assert await began.get() == "silent"


async def test_a_window_that_another_process_opened_is_closed_on_its_instant(world: World) -> None:
    began: asyncio.Queue[float] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    control = await declare(world, listening("t", "agent", debounce="800ms"))

    async def agent(run: Any) -> None:
        await began.put(loop.time())

    async with a_replica(world.dsn, {"agent": agent}, **SLOW) as replica:
        await eventually(lambda: replica.ready and replica._signals.listening)
        told = []
        for n in range(4):
            await control.emit([Event(id=str(n), source="x", type="push")])
            told.append(loop.time())
            await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            at = await began.get()
    assert 0.75 < at - told[-1] < 3
    assert began.empty()


async def test_chains_over_two_replicas_run_each_link_once(world: World) -> None:
    ran: Counter[tuple[str, int]] = Counter()
    count = 60
    control = await declare(
        world,
        listening("a", "first", input="data"),
        listening("b", "second", "run.succeeded", subject="a", input="data.output"),
        listening("c", "third", "run.succeeded", subject="b", input="data.output"),
    )

    def agent(name: str) -> Any:
        async def call(run: Any) -> int:
            ran[name, run.input] += 1
            return int(run.input)

        return call

    agents = {name: agent(name) for name in ("first", "second", "third")}
    logs = [Heard(), Heard()]
    async with a_replica(world.dsn, agents, log=logs[0]) as one, a_replica(world.dsn, agents, log=logs[1]) as other:
        await eventually(lambda: one.ready and other.ready)
        events = [Event(id=str(n), source="x", type="push", data=n) for n in range(count)]
        # The same ones from three sides at once, and once more from within a transaction.
        await asyncio.gather(
            one.control("edge").emit(events), other.control("edge").emit(events[::-1]), control.emit(events)
        )
        await world.admin.execute(
            "SELECT tocsin.emit('push', 'x', to_jsonb(n), n::text) FROM generate_series(0, $1 - 1) n", count
        )
        await eventually(lambda: sum(ran[name, n] > 0 for name in agents for n in range(count)) == 3 * count)

        async def settled() -> bool:
            return bool(
                await world.value(
                    "SELECT count(*) = $1 FROM tocsin.runs WHERE state = 'succeeded'"
                    " AND NOT EXISTS (SELECT FROM tocsin.events WHERE matched_at IS NULL)",
                    3 * count,
                )
            )

        await eventually(settled)
    assert set(ran.values()) == {1}
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 3 * count
    assert not [event for log in logs for event in log.events if event[0] == "loop.failed"]


async def test_a_replica_that_leaves_matches_nothing_more(world: World) -> None:
    await declare(world, listening("t", "agent"))

    async def agent() -> None: ...

    async with a_replica(world.dsn, {"agent": agent}, drain_timeout=timedelta(seconds=1)) as replica:
        await eventually(lambda: replica.ready)
        await replica.close_doors()
        await world.value("SELECT tocsin.emit('push', 'x')")
        replica._exchange.wake("matcher")
        await asyncio.sleep(0.5)
        assert await world.value("SELECT count(*) FROM tocsin.runs") == 0
