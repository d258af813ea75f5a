"""A session with the first suitable host of a DSN, however the others behave.

The driver asks one host after another within one time limit, so a machine that was switched off, from which
no answer comes at all, uses the limit up and hides the one that took its place. Here each host has a head
start over the next and is not given up for it: whoever is there first is taken.

The kernel watches over each session: one whose other end acknowledges nothing, because its machine is gone or
a firewall has forgotten it, breaks within ten seconds, while one that is only slow may take its time.
"""

import asyncio
import re
import socket
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

HEAD_START: Final = 0.5
"""Seconds that a host has to answer before the next is asked as well."""

_WATCH: Final = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPALIVE": 5,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 10_000,
}
"""Seconds of silence until the other end is probed, between probes, and how many; milliseconds that what was sent
may go unacknowledged. Each where the system knows it: macOS has another name for the first, and not the last."""

_QUOTED: Final = re.compile(r"'([^']*)'|\"([^\"]*)\"")

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


def unreadable(dsn: str, error: Exception) -> str:
    """Why a DSN cannot be read, in words that hold no part of it: what a parser stumbles over may be a password."""
    told = next(iter(str(error).strip().splitlines()), "")
    quoted = [part for pair in _QUOTED.findall(told) for part in pair if part]
    why = told if told and not any(part in dsn for part in quoted) else "it is no DSN"
    return (
        f"TOCSIN_DATABASE_URL cannot be read: {why}; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %2F "
        "for a / in the password, %3F for ?, %23 for #, %40 for @"
    )


async def connect_to_first(dsn: str, **options: Any) -> Connection:
    """A session with the first host that is there and is what ``target_session_attrs`` asks for.

    The caller closes it, and sets the limit of time.
    Raises: whatever the last host raised, if there is none.
    """
    waiting = each_host(dsn)
    if len(waiting) == 1:
        return _watched(await asyncpg.connect(dsn, **options))
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
                return _watched(found[0])
            refusal = next((task.exception() for task in done), refusal)
        assert refusal is not None  # every host was asked
        raise refusal
    finally:
        for task in asked:
            task.add_done_callback(_end)
            task.cancel()


def _watched(connection: Connection) -> Connection:
    """The kernel breaks the session when its other end is gone without a word."""
    # The driver sets none of this, and offers no other way to its socket.
    transport = getattr(connection, "_transport", None)
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _WATCH.items():
            option = getattr(socket, name, None)
            if option is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _end(task: "asyncio.Task[Connection]") -> None:
    """A host that answered after another had been taken is left again."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
