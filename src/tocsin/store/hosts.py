"""A session with the first suitable host of a DSN, however the others behave.

The driver asks one host after another within one time limit, so a machine that was switched off, from which
no answer comes at all, uses the limit up and hides the one that took its place. Here each host has a head
start over the next and is not given up for it: whoever is there first is taken.
"""

import asyncio
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

HEAD_START: Final = 0.5
"""Seconds that a host has to answer before the next is asked as well."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def each_host(dsn: str) -> list[str]:
    """The same DSN for each of its hosts alone, in their order; itself when it names one or none."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," in hosts:
        return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    named = options.get("host", "").split(",")
    if len(named) < 2:
        return [dsn]
    ports = options.get("port", "").split(",")
    ports *= len(named) if len(ports) == 1 else 1
    alone = [
        {**options, "host": host, **({"port": port} if port else {})} for host, port in zip(named, ports, strict=False)
    ]
    return [parts._replace(query=urlencode(one)).geturl() for one in alone]


async def connect_to_first(dsn: str, **options: Any) -> Connection:
    """A session with the first host that is there and is what ``target_session_attrs`` asks for.

    The caller closes it, and sets the limit of time.
    Raises: whatever the last host raised, if there is none.
    """
    waiting = each_host(dsn)
    if len(waiting) == 1:
        return await asyncpg.connect(dsn, **options)
    asked: set[asyncio.Task[Connection]] = set()
    refusal: BaseException | None = None
    try:
        while waiting or asked:
            if waiting:
                asked.add(asyncio.create_task(asyncpg.connect(waiting.pop(0), **options)))
            done, asked = await asyncio.wait(
                asked, timeout=HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            found = [task.result() for task in done if task.exception() is None]
            for spare in found[1:]:
                spare.terminate()
            if found:
                return found[0]
            refusal = next((task.exception() for task in done), refusal)
        assert refusal is not None  # every host was asked
        raise refusal
    finally:
        for task in asked:
            task.add_done_callback(_end)
            task.cancel()


def _end(task: "asyncio.Task[Connection]") -> None:
    """A host that answered after another had been taken is left again."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
