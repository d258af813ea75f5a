"""What the kernel refuses a running replica: memory, and file descriptors."""

import asyncio
import os
import resource
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit

from tests.chaos.fault import Catalogue, Excuse, Simple
from tests.chaos.fleet import BY_HAND, Fleet

BROKEN: Final = frozenset({Excuse.LATE, Excuse.SILENT, Excuse.BLIND})
OURS: Final = "application_name LIKE 'tocsin%'"
SPARE: Final = 1_000_000
"""Bytes of address space that are left to a replica that is starved of memory."""


def size(pid: int) -> int:
    """Bytes of address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def starve(fleet: Fleet, rng: Random) -> int:
    """F42: a replica gets no more memory; it dies of it, or is killed as the kernel's OOM killer does."""
    member = rng.choice(fleet.living)
    pid = member.pid
    resource.prlimit(pid, resource.RLIMIT_AS, (size(pid) + SPARE, resource.RLIM_INFINITY))

    async def starves() -> bool:
        if member.alive and not member.said("MemoryError"):
            await fleet.control.fire(BY_HAND, input={"seconds": [0.0], "end": "hungry"})
            return False
        return True

    await fleet.until(starves, f"{member.name} gets no more memory", within=20)
    # Whatever of it goes on without memory may not hold anybody up.
    await fleet.for_a_while(rng.uniform(0, fleet.lease))
    await member.kill()
    await fleet.start(member)
    return 1


async def no_descriptors(fleet: Fleet, rng: Random) -> int:
    """F43: a replica may open no more files while callers and a lost database session want them."""
    member = rng.choice(fleet.living)
    pid = member.pid
    url = urlsplit(str((await member.until_logged("hub.ready"))["url"]))
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = descriptors(pid) + 2
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, limits[1]))
    callers: list[asyncio.StreamWriter] = []

    async def none_is_left() -> bool:
        return descriptors(pid) >= most

    try:
        for _ in range(20):
            with suppress(OSError):
                callers.append((await asyncio.open_connection(url.hostname, url.port))[1])
        await fleet.until(none_is_left, f"{member.name} has used up its descriptors", within=10)
        # Over a Unix socket nobody can tell whose they are, so it is everybody's.
        await fleet.value(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS}")
        await fleet.for_a_while(fleet.lease * rng.uniform(0.3, 1.3))
    finally:
        for caller in callers:
            caller.transport.abort()
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    if not member.alive:
        raise AssertionError(f"{member.name} died for want of a descriptor: {member.tail()}")
    return 1


FAULTS: Catalogue = {
    "F42": lambda: Simple("F42", starve, excuses=BROKEN),
    "F43": lambda: Simple("F43", no_descriptors, excuses=BROKEN),
}
