"""What only a replica's process can tell of itself: its tasks, its loop's worst lag, how often it began to listen.

One small file a process, put in place anew each half second, so that whoever reads it finds it whole.
"""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tocsin.hub import Replica
from tocsin.store.signals import Signals

EVERY: Final = 0.5
"""Seconds between two readings; the loop's lag is what comes on top."""


def place(ledgers: Path) -> Path:
    """Where the gauges of processes lie whose ledgers lie there."""
    return ledgers.with_name("gauges")


def reading(ledgers: Path, pid: int) -> dict[str, float]:
    """tasks; lag: the worst so far, seconds; listens: since it began. Empty, as long as there is none."""
    with suppress(OSError):
        found: dict[str, float] = json.loads((place(ledgers) / f"{pid}.json").read_text())
        return found
    return {}


def install(ledgers: Path) -> None:
    """Replicas of this process write their gauge from entering on."""
    listens = 0
    enter, listen = Replica.__aenter__, Signals._open

    async def opened(self: Signals) -> None:
        nonlocal listens
        listens += 1
        await listen(self)

    async def write() -> None:
        worst = 0.0
        mine = place(ledgers) / f"{os.getpid()}.json"
        while True:
            told = {"tasks": len(asyncio.all_tasks()), "lag": worst, "listens": listens}
            fresh = mine.with_suffix(".new")
            fresh.write_text(json.dumps(told))
            fresh.replace(mine)
            asked_at = monotonic()
            await asyncio.sleep(EVERY)
            worst = max(worst, monotonic() - asked_at - EVERY)

    async def entered(self: Replica) -> Any:
        self.__dict__["gauge"] = asyncio.create_task(write(), name="chaos-gauge")
        return await enter(self)

    setattr(Replica, "__aenter__", entered)  # noqa: B010 — a method of the product is wrapped on purpose
    setattr(Signals, "_open", opened)  # noqa: B010
