"""Log (c): somebody who fires, pauses, resumes, edits, deletes and adds, and notes every answer."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.chaos.generator import AFTER, one_trigger
from tests.chaos.journal import Journal
from tocsin import Hub, Schedule, every
from tocsin.clock import SystemClock
from tocsin.domain.errors import StoreError, TocsinError
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine.control import Control
from tocsin.store.database import Database

EVERY: Final = 0.4
"""Seconds between two calls, on average."""


class Client:
    """Calls until it is cancelled. names: the triggers that it may touch."""

    def __init__(self, database: Database, place: Path, rng: Random, names: list[str]) -> None:
        self.control: Final = Control(database=database, clock=SystemClock(), actor="client")
        self._journal = Journal(place / "calls.jsonl")
        self._rng = rng
        self._names = names
        self._paused: list[str] = []
        self._added = 0

    async def run(self) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            self._fire, self._fire, self._fire, self._pause, self._resume, self._edit, self._retime, self._delete,
            self._add,
        ]  # fmt: skip
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / EVERY))
            await self._rng.choice(acts)()

    async def call(self, op: str, trigger: str, act: Callable[[], Awaitable[dict[str, Any]]], **more: Any) -> bool:
        """The answer, or that there was none, is in the log."""
        try:
            answer = await act()
        except StoreError as error:
            # Whether it was done is not known; nothing may be concluded from it.
            self._journal.note("call", op=op, trigger=trigger, ok=False, error=str(error), **more)
            return False
        except TocsinError as error:
            self._journal.note("call", op=op, trigger=trigger, ok=False, error=str(error), refused=True, **more)
            return False
        found = {"run": answer["id"]} if op == "fire" else {"version": answer.get("version", 0)}
        self._journal.note("call", op=op, trigger=trigger, ok=True, **found, **more)
        return True

    async def fire(self, trigger: str, key: str, payload: dict[str, Any] | None = None) -> bool:
        return await self.call("fire", trigger, lambda: self.control.fire(trigger, key=key, input=payload), key=key)

    async def _fire(self) -> None:
        trigger, key = self._rng.choice(self._names), str(self._rng.randrange(10**6))
        if not await self.fire(trigger, key):
            await self.fire(trigger, key)

    async def _pause(self) -> None:
        if len(self._paused) < len(self._names) // 5:
            name = self._rng.choice(self._names)
            if await self.call("pause", name, lambda: self.control.pause(name)):
                self._paused.append(name)

    async def _resume(self) -> None:
        if self._paused:
            name = self._paused.pop(0)
            catch_up = self._rng.choice([None, CatchUp.LATEST])
            await self.call("resume", name, lambda: self.control.resume(name, catch_up=catch_up))

    async def _edit(self) -> None:
        name, priority = self._rng.choice(self._names), self._rng.randrange(10)

        def change(spec: TriggerSpec) -> TriggerSpec:
            return dataclasses.replace(spec, priority=priority)

        await self.call("edit", name, lambda: self.control.edit_trigger(name, change))

    async def _retime(self) -> None:
        name, schedule = self._rng.choice(self._names), _another(self._rng)

        def change(spec: TriggerSpec) -> TriggerSpec:
            return dataclasses.replace(spec, schedule=schedule)

        await self.call("edit", name, lambda: self.control.edit_trigger(name, change))

    async def _delete(self) -> None:
        if len(self._names) > 20 and self._rng.random() < 0.5:
            name = self._names.pop(self._rng.randrange(len(self._names)))
            self._paused = [paused for paused in self._paused if paused != name]

            async def delete() -> dict[str, Any]:
                return await self.control.delete_trigger(name)

            await self.call("delete", name, delete)

    async def _add(self) -> None:
        self._added += 1
        spec = _new(self._rng, f"added-{self._added:03d}", datetime.now().astimezone())
        if await self.call("add", spec.name, lambda: self.control.add_trigger(spec)):
            self._names += [] if spec.name.startswith(AFTER) else [spec.name]


def _another(rng: Random) -> Schedule:
    return every(rng.choice([2, 3, 5, 8, 13, 21]))


def _new(rng: Random, name: str, now: datetime) -> TriggerSpec:
    hub = Hub(name="added")
    one_trigger(hub, rng, name, now)
    (spec,) = hub._triggers.values()
    return spec
