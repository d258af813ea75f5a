"""A person at the controls: fires, pauses, edits and cancels, as a seed says, and notes what was declared when."""

import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.errors import Refused
from tocsin.domain.run import RunState
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine.control import Control
from tocsin.store.database import Database
from tocsin.testing.builders import a_mixed_schedule
from tocsin.testing.clock import SimulatedTime
from tocsin.testing.history import Declared

LEFT_ALONE: Final = {"single", "bounded", "after"}
"""Triggers whose schedules mean something to a check."""


class Author:
    """Acts through the product's own control. declared: every schedule that a trigger has had, and when."""

    def __init__(self, *, database: Database, clock: Clock, time: SimulatedTime, random: Random) -> None:
        self.declared: list[Declared] = []
        self.counts: dict[str, int] = {}
        self.control = Control(database=database, clock=clock, actor="author")
        self._time = time
        self._random = random
        self._ids: dict[str, UUID] = {}

    def begin(self, trigger_id: UUID, spec: TriggerSpec) -> None:
        """The trigger was declared just now."""
        if spec.schedule is not None:
            self._ids[spec.name] = trigger_id
            self.declared.append(Declared(trigger_id, spec.schedule.to_json(), self._time.instant))

    async def act(self) -> None:
        """One operation; one that the product refuses changes nothing."""
        acts: list[Callable[[str], Awaitable[object]]] = [
            self._fire, self._pause, self._resume, self._reschedule, self._edit_policy, self._cancel, self.delete,
        ]  # fmt: skip
        act = self._random.choices(acts, [4, 4, 4, 4, 4, 4, 1])[0]
        name = self._random.choice([name for name in self._ids if name not in LEFT_ALONE])
        with suppress(Refused):
            await act(name)
            self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1

    async def _fire(self, name: str) -> None:
        await self.control.fire(name, key=str(self._random.randrange(30)))

    async def _pause(self, name: str) -> None:
        await self.control.pause(name, reason=self._random.choice(["user", "budget"]))

    async def _resume(self, name: str) -> None:
        paused = [row["name"] for row in await self.control.triggers(limit=100) if row["paused"]]
        catch_up = self._random.choice([None, CatchUp.LATEST])
        await self.control.resume(self._random.choice(paused) if paused else name, catch_up=catch_up)

    async def reschedule(self, name: str, schedule: Schedule) -> None:
        """The trigger has another schedule from now on."""
        await self.control.edit_trigger(name, lambda spec: dataclasses.replace(spec, schedule=schedule))
        self._note(self._ids[name], schedule)

    async def delete(self, name: str) -> None:
        """The trigger's schedule ends now."""
        await self.control.delete_trigger(name)
        place = self._place(self._ids.pop(name))
        self.declared[place] = dataclasses.replace(self.declared[place], until=self._time.instant)

    async def _reschedule(self, name: str) -> None:
        await self.reschedule(name, a_mixed_schedule(self._random))

    async def _edit_policy(self, name: str) -> None:
        priority = self._random.randrange(10)
        await self.control.edit_trigger(name, lambda spec: dataclasses.replace(spec, priority=priority))

    async def _cancel(self, _: str) -> None:
        runs = await self.control.runs(limit=30, states=[RunState.QUEUED, RunState.RUNNING])
        if runs:
            await self.control.cancel_run(self._random.choice(runs)["id"])

    def _place(self, trigger_id: UUID) -> int:
        """Where the trigger's present schedule stands among all that were declared."""
        return max(place for place, one in enumerate(self.declared) if one.trigger_id == trigger_id)

    def _note(self, trigger_id: UUID, schedule: Schedule) -> None:
        """The old schedule ends here, unless the new one is the same."""
        form = schedule.to_json()
        place = self._place(trigger_id)
        if self.declared[place].form != form:
            self.declared[place] = dataclasses.replace(self.declared[place], until=self._time.instant)
            self.declared.append(Declared(trigger_id, form, self._time.instant))
