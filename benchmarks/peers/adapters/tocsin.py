"""Tocsin: a Hub's app on a Replica, everything on; logging at its level for warnings."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from benchmarks.peers.adapters.frame import Adapter, Caller, Order, Recorder, Stage, act, fire_all, until_told
from tocsin import Hub, Run, at
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.executors.from_app import executors_of
from tocsin.hub import Replica
from tocsin.settings import load_settings
from tocsin.store.database import Database
from tocsin.store.migrate import migrate
from tocsin.telemetry import logger

DECLARED = 100_000
"""So many triggers are declared as an app's; more are copies of these, made in the database."""


def hub_of(order: Order, recorder: Recorder) -> Hub:
    hub = Hub(name="bench")

    @hub.agent(retries=2)
    async def body(run: Run) -> None:
        given = run.input
        await recorder.run(given["key"] if given else run.trigger, given["nap"] if given else 0)

    hub.trigger("bulk", "body", overlap="allow", input={})
    return hub


@asynccontextmanager
async def control_of(dsn: str) -> AsyncIterator[tuple[Control, Database]]:
    database = Database(dsn)
    await database.open()
    try:
        yield Control(database=database, clock=SystemClock(), actor="bench"), database
    finally:
        await database.close()


class Tocsin(Adapter):
    async def install(self, order: Order, stage: Stage) -> None:
        await migrate(order.dsn)
        async with control_of(order.dsn) as (control, _):
            await control.declare(hub_of(order, Recorder(Order())).build())

    async def enqueue(self, order: Order, stage: Stage) -> None:
        async with control_of(order.dsn) as (control, _):
            keys = [f"{order.prefix}-{n}" for n in range(order.count)]
            started = time.monotonic()
            await control.fire_many("bulk", [(key, {"key": key, "nap": order.nap}) for key in keys])
            stage.say("enqueued", seconds=time.monotonic() - started)

    async def register(self, order: Order, stage: Stage) -> None:
        due = datetime.fromtimestamp(order.due, UTC)
        hub = hub_of(order, Recorder(Order()))
        for number in range(min(order.schedules, DECLARED)):
            hub.trigger(f"{order.prefix}-{number}", "body", at(due))
        async with control_of(order.dsn) as (control, _):
            started = time.monotonic()
            await control.declare(hub.build())
            stage.say("registered", seconds=time.monotonic() - started)
        if order.schedules > DECLARED:
            await self._copy_triggers(order)

    async def _copy_triggers(self, order: Order) -> None:
        copies = order.schedules // DECLARED - 1
        await copy_rows(
            order.dsn,
            "triggers",
            {"id": "gen_random_uuid()", "name": "r.name || '-' || g"},
            f"r.name <> 'bulk' AND g <= {copies}",
            copies,
        )

    async def history(self, order: Order, stage: Stage) -> None:
        """One real run that has succeeded, copied; its trail stands in its row."""
        connection = await asyncpg.connect(order.dsn)
        await connection.execute(
            f"CREATE TABLE copied AS SELECT gen_random_uuid() AS id, g FROM generate_series(1, {order.count}) g",
            timeout=600,
        )
        one = await connection.fetchval("SELECT id FROM tocsin.runs WHERE state = 'succeeded' LIMIT 1")
        for table, key, replaced in (
            ("runs", "id", {"id": "c.id", "occurrence_key": "'manual:old-' || c.g"}),
            ("occurrences", "run_id", {"run_id": "c.id", "key": "'manual:old-' || c.g"}),
        ):
            names = await columns(connection, table)
            values = ", ".join(replaced.get(name, f"r.{name}") for name in names)
            await connection.execute(
                f"INSERT INTO tocsin.{table} ({', '.join(names)}) SELECT {values} FROM tocsin.{table} r, copied c"
                f" WHERE r.{key} = '{one}'",
                timeout=900,
            )
        await connection.execute("DROP TABLE copied")
        await connection.close()

    @asynccontextmanager
    async def caller(self, order: Order) -> AsyncIterator[Caller]:
        async with control_of(order.dsn) as (control, _):
            yield _caller(control, order)

    async def work(self, order: Order, recorder: Recorder, stage: Stage) -> None:
        given: dict[str, Any] = {"slots": order.slots, "log_level": "warning"}
        if order.limit is not None:
            given["drain_timeout"] = order.limit
        if order.aggressive:
            given |= {"lease": 3, "renew_every": 1, "sweep_every": 0.5, "poll_every": 0.5}
        settings = load_settings(**given)
        app = hub_of(order, recorder).build()
        await stage.ready()
        async with until_told() as told:
            replica = Replica(
                dsn=order.dsn,
                settings=settings,
                executors=executors_of(app, settings.slots),
                log=logger(level=settings.log_level),
            )
            async with replica:
                stage.up()
                if order.fires:
                    await fire_all(order.fires, order, _caller(replica.control("bench"), order), recorder)
                    stage.say("fired")
                await told.wait()


def _caller(control: Control, order: Order) -> Caller:
    async def call(key: str) -> None:
        await control.fire("bulk", input={"key": key, "nap": order.nap})

    return call


async def columns(connection: Any, table: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'tocsin' AND table_name = $1"
        " AND is_generated = 'NEVER' AND is_identity = 'NO' ORDER BY ordinal_position",
        table,
    )
    return [row["column_name"] for row in rows]


async def copy_rows(dsn: str, table: str, replaced: dict[str, str], which: str, copies: int) -> None:
    connection = await asyncpg.connect(dsn)
    names = await columns(connection, table)
    values = ", ".join(replaced.get(name, f"r.{name}") for name in names)
    await connection.execute(
        f"INSERT INTO tocsin.{table} ({', '.join(names)})"
        f" SELECT {values} FROM tocsin.{table} r, generate_series(1, {copies}) g WHERE {which}",
        timeout=900,
    )
    await connection.close()


if __name__ == "__main__":
    act(Tocsin())
