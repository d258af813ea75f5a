"""A change that comes to its lock after a tick counts from after the tick, not from when its transaction began."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.building import Peer, World, a_trigger, an_app, eventually
from tocsin import every
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.store.database import Session
from tocsin.store.trigger_rows import TriggerRow
from tocsin.store.triggers import Triggers

Change = Callable[[Control], Awaitable[Any]]

SLOWER = replace(a_trigger(schedule=every(3600)), agent="agent")
CHANGES: dict[str, tuple[Change, str]] = {
    "edit": (lambda control: control.edit_trigger("t", lambda _: SLOWER), "changed_at"),
    "declare": (lambda control: control.declare(an_app(SLOWER)), "changed_at"),
    "pause": (lambda control: control.pause("t"), "paused_at"),
    "delete": (lambda control: control.delete_trigger("t"), "changed_at"),
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_is_later_than_the_tick_before_it(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, when = CHANGES[kind]
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(an_app(a_trigger(schedule=every(1))))
    peer = await Peer(world.database, SystemClock()).register()

    async def tick() -> object:
        await peer.planner.run_once()
        return await world.value("SELECT count(*) FROM tocsin.runs")

    async def lock(triggers: Triggers, session: Session, name: str) -> TriggerRow | None:
        await eventually(tick)
        return await locked(triggers, session, name)

    async def lock_named(triggers: Triggers, session: Session, names: list[str]) -> dict[str, TriggerRow]:
        await eventually(tick)
        return await locked_named(triggers, session, names)

    locked, locked_named = Triggers.lock, Triggers.lock_named
    monkeypatch.setattr(Triggers, "lock", lock)
    monkeypatch.setattr(Triggers, "lock_named", lock_named)
    await change(control)
    ran = await world.value("SELECT nominal_at FROM tocsin.runs")
    assert await world.value(f"SELECT {when} FROM tocsin.triggers") > ran
