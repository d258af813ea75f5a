"""How work in hand comes to its end when the replica leaves: it finishes, or is asked to stop and given back.

Leases are renewed meanwhile, because the keeper leaves later. Each stage can be hurried on.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from tocsin.clock import Clock
from tocsin.domain.errors import StoreError
from tocsin.domain.run import StopReason
from tocsin.engine.hands import Hands
from tocsin.engine.runner import AFTER_INTERRUPT, UNWIND, Runner
from tocsin.engine.settler import Settler
from tocsin.telemetry import Log

LAST_ENDS_WITHIN: Final = 10.0
"""Seconds that a drain tries to write what ended last."""


class Drain:
    def __init__(
        self,
        *,
        hands: Hands,
        runners: Sequence[Runner],
        settler: Settler,
        clock: Clock,
        log: Log,
        limit: timedelta,
    ) -> None:
        self._hands = hands
        self._runners = runners
        self._settler = settler
        self._clock = clock
        self._log = log
        self._limit = limit
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """The present stage ends at once."""
        self._hurry.set()

    async def finish_work(self) -> None:
        """Work in hand has ended, or was asked to stop and has had its time, or was cut."""
        await self._until_ended(self._limit)
        self._hands.stop_all(StopReason.INTERRUPTED)
        await self._until_ended(timedelta(seconds=AFTER_INTERRUPT + 0.5))
        tasks = self._running()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=UNWIND)
        for runner in self._runners:
            runner.leave_all()

    async def write_last_ends(self) -> None:
        """What ended last is in the database, unless that cannot be had within ten seconds."""
        said = "no answer in 10 s"
        try:
            async with asyncio.timeout(LAST_ENDS_WITHIN):
                while len(self._settler):
                    try:
                        await self._settler.run_once()
                    except StoreError as error:
                        said = str(error)
                        await self._clock.sleep(0.2)
        except TimeoutError:
            self._log.warning("drain.unwritten", count=len(self._settler), error=said)

    def _running(self) -> "set[asyncio.Task[None]]":
        return {hand.task for hand in self._hands.all() if hand.task is not None and not hand.ended}

    async def _until_ended(self, limit: timedelta) -> None:
        """Every attempt has ended, the limit has passed, or somebody is in a hurry."""
        running: set[asyncio.Task[object]] = set(self._running())
        if not running:
            return
        hurry = asyncio.create_task(self._hurry.wait())
        ends_at = asyncio.get_running_loop().time() + limit.total_seconds()
        while running and not hurry.done():
            left = ends_at - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait({hurry, *running}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            running -= done
        hurry.cancel()
        self._hurry.clear()
