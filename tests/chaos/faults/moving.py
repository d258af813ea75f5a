"""Members that are started anew in other circumstances for the length of a block."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.chaos.faults.proxy import Proxy
from tests.chaos.fleet import Fleet
from tests.chaos.member import Member


@asynccontextmanager
async def moved(
    fleet: Fleet, members: Sequence[Member], *, dsn: str | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """These members drain, start with this DSN and environment, and go back at the end."""
    before = [dict(member.env) for member in members]
    for member in members:
        member.dsn = dsn
        member.env.update(env or {})
    try:
        await _one_by_one(fleet, members)
        yield
    finally:
        for member, former in zip(members, before, strict=True):
            member.dsn = None
            member.env.clear()
            member.env.update(former)
        await _one_by_one(fleet, members)


@asynccontextmanager
async def behind(fleet: Fleet, members: Sequence[Member]) -> AsyncIterator[Proxy]:
    """These members reach the database through a proxy inside the block, and directly after it."""
    with Proxy(fleet.postgres.dsn) as proxy:
        async with moved(fleet, members, dsn=proxy.dsn):
            try:
                yield proxy
            finally:
                proxy.restore()


async def _one_by_one(fleet: Fleet, members: Sequence[Member]) -> None:
    """Each has been restarted while the others work: the move itself is no fault."""
    for member in members:
        await fleet.restart(member)
