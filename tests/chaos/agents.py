"""What the fleet runs: agents that keep a ledger outside of the database, and do what their input says.

``hub``: those that run in the replicas; ``elsewhere``: those of agent processes; ``scripted``: one whose runs
nobody takes but a process that a fault plays by itself.

input: {"seconds": [lengths, one is picked by the occurrence], "end": "ok" | "error" | "fatal" | "later" |
"exit" (the process dies) | "deaf" (does not stop when asked) | "stall" (the event loop stands still) |
"hungry" (wants more memory than there may be)}
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from tests.chaos.journal import Journal
from tocsin import Fatal, Hub, RetryAfter, Run

HUNGER: Final = 64 << 20
PROGRAM: Final = Path(__file__).with_name("program.py")

hub = Hub(name="chaos")
elsewhere = Hub(name="chaos")
scripted = Hub(name="chaos")
_ledgers: dict[int, Journal] = {}


def ledger() -> Journal:
    """This process's own file."""
    pid = os.getpid()
    if pid not in _ledgers:
        _ledgers[pid] = Journal(Path(os.environ["CHAOS_LEDGERS"]) / f"{pid}.jsonl")
    return _ledgers[pid]


def length(run: Run) -> float:
    """Seconds that this attempt lasts; a repeat of the seed has the same."""
    lengths: list[float] = run.input["seconds"]
    return lengths[crc32(f"{run.trigger} {run.nominal_at} {run.attempt}".encode()) % len(lengths)]


async def work(run: Run) -> dict[str, Any]:
    """START, EFFECT half way, END: with run, attempt and fence."""
    about = {"run": run.id, "attempt": run.attempt, "fence": run.fence, "pid": os.getpid()}
    end = run.input.get("end", "ok")
    ledger().note("START", **about, trigger=run.trigger, key=run.idempotency_key, effective=run.effective_at, does=end)
    seconds = length(run)
    ended = "cut"
    try:
        if end == "exit":
            os._exit(42)
        if end == "hungry":
            bytearray(HUNGER)
        if end == "stall":
            time.sleep(seconds)
        elif end == "deaf":
            await _deaf(seconds)
        elif seconds:
            run.progress("half of it", 0.5)
            await asyncio.sleep(seconds / 2)
            ledger().note("EFFECT", **about)
            await asyncio.sleep(seconds / 2)
        ended = end
    finally:
        ledger().note("END", **about, end=ended)
    match end:
        case "error":
            raise ValueError("as the input says")
        case "fatal":
            raise Fatal("as the input says")
        case "later":
            raise RetryAfter(0.3, "as the input says")
    return {"fence": run.fence}


async def _deaf(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            if left > 6:  # longer than a drain waits for it: it is cut after all
                raise


@hub.agent(retries=3, backoff="200ms", backoff_cap="1s")
async def scribe(run: Run) -> dict[str, Any]:
    return await work(run)


@hub.agent(on_lost="fail")
async def courier(run: Run) -> dict[str, Any]:
    """At most once."""
    return await work(run)


@hub.agent(concurrency=3, retries=1, backoff="200ms")
async def miller(run: Run) -> dict[str, Any]:
    return await work(run)


@hub.agent(concurrency=1, concurrency_key="room", retries=1, backoff="200ms", cancel_within="1s")
async def warden(run: Run) -> dict[str, Any]:
    return await work(run)


@hub.agent(retries=5, backoff="100ms", backoff_cap="300ms", cancel_within="2s")
async def wretch(run: Run) -> dict[str, Any]:
    """Fired by hand, by faults that need a run of their own."""
    return await work(run)


@elsewhere.agent(retries=3, backoff="200ms", backoff_cap="1s")
async def envoy(run: Run) -> dict[str, Any]:
    return await work(run)


@elsewhere.agent(on_lost="fail")
async def herald(run: Run) -> dict[str, Any]:
    """At most once."""
    return await work(run)


@elsewhere.agent(concurrency=2, retries=1, backoff="200ms")
async def mason(run: Run) -> dict[str, Any]:
    return await work(run)


@scripted.agent
async def puppet(run: Run) -> dict[str, Any]:
    raise NotImplementedError("a fault plays its process")


# ``-I -S`` spares the interpreter's slow start.
hub.command(
    "porter",
    [sys.executable, "-I", "-S", str(PROGRAM)],
    retries=2,
    backoff="200ms",
    env={"CHAOS_LEDGERS": os.environ.get("CHAOS_LEDGERS", ".")},
)
