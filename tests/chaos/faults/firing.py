"""A caller who fires by hand without a pause, and keeps what was acknowledged."""

import asyncio
from uuid import UUID

from tocsin.domain.errors import StoreError
from tocsin.engine.control import Control


class Firing:
    """acknowledged: ids in their order; unknown: calls that got no answer."""

    def __init__(self, control: Control, trigger: str = "by-hand") -> None:
        self.acknowledged: list[UUID] = []
        self.unknown = 0
        self._control = control
        self._trigger = trigger

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                answer = await self._control.fire(self._trigger, key=f"key-{number}")
            except StoreError:
                self.unknown += 1
            else:
                self.acknowledged.append(UUID(str(answer["id"])))
            # A call every few milliseconds is load enough.
            await asyncio.sleep(0.01)
