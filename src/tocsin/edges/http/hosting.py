"""How a replica comes to its API: a key where one is needed, and the framework loaded beside the work."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tocsin.clock import Clock, SystemClock
from tocsin.domain.errors import Conflict, Refused
from tocsin.edges.http.front import Api, Front
from tocsin.edges.http.streams import Streams
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.engine.emitting import Emitting
from tocsin.engine.hearing import Hearing
from tocsin.engine.hooks import Hooks
from tocsin.engine.intake import MOST_WAITING, Intake
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.hub import Replica
from tocsin.settings import Settings
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.store.hooks import HookRows
from tocsin.store.leases import Incarnation
from tocsin.telemetry import Log

SESSIONS: Final = 4
OF_HOOKS: Final = 2
"""Sessions: one that writes, one that asks which hooks there are."""

CALLER: Final = "hooks"
"""Who asked for a run, as its trail says."""

FIRST_KEY: Final = "first"
"""The name of the key that is made where one is needed and there is none."""


async def ensure_key(control: Control, settings: Settings, *, may_make: bool, tell: Callable[[str], None]) -> None:
    """Whoever can reach the API from another host needs a key, so there is one. tell: is shown the one that was made.

    Raises: Refused, where there is none and none may be made.
    """
    if settings.is_http_local or await control.keys.are_asked_for():
        return
    if not may_make:
        raise Refused(
            f"TOCSIN_HTTP_BIND={settings.http_bind} can be reached from other hosts, and there is no API key: make "
            "one with `tocsin key create NAME --scope admin`, or choose another address, such as 127.0.0.1:8620"
        )
    try:
        made = await control.keys.create(FIRST_KEY, scopes=["admin"])
    except Conflict:
        # Another replica was first, and has shown it; or there was one of that name, which is revoked.
        if await control.keys.are_asked_for():
            return
        raise
    tell(f"API key {FIRST_KEY!r} of scope admin, shown this once: {made['key']}")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the API is made of."""

    database: Database
    of_hooks: Database
    replica: Replica
    watching: Watching
    hooks: Hooks
    log: Log


@asynccontextmanager
async def hosted_api(front: Front, *, dsn: str, replica: Replica, watching: Watching, log: Log) -> AsyncIterator[None]:
    """The API joins when it is made, beside the work that has begun. Its sessions are its own, and so are those of
    webhooks: whoever asks a lot does not keep the others from theirs.
    """
    async with AsyncExitStack() as stack:
        database = Database(dsn, pooler=replica.settings.pooled, size=SESSIONS)
        stack.push_async_callback(database.close)
        of_hooks = Database(dsn, pooler=replica.settings.pooled, size=OF_HOOKS)
        stack.push_async_callback(of_hooks.close)
        intake, hooks = make_hooks(
            of_hooks, clock=SystemClock(), hearing=replica.hearing, log=log, observer=replica.observer
        )
        stack.push_async_callback(intake.close)
        parts = _Parts(database, of_hooks, replica, watching, hooks, log)
        joining = asyncio.create_task(_join(front, stack, parts), name="api")
        try:
            yield
        finally:
            joining.cancel()
            await asyncio.wait({joining})


def make_hooks(
    database: Database,
    *,
    clock: Clock,
    hearing: Hearing,
    log: Log,
    observer: Observer = UNOBSERVED,
    most: int = MOST_WAITING,
) -> tuple[Intake, Hooks]:
    """Webhooks on these sessions; the first is to be closed before them. most: calls that may wait to be written."""
    events = Events(clock=clock, who=Incarnation(CALLER, actor=CALLER))
    emitting = Emitting(database=database, events=events, hearing=hearing, clock=clock, log=log, observer=observer)
    intake = Intake(emitting=emitting, clock=clock, most=most)
    return intake, Hooks(rows=HookRows(database=database, clock=clock), intake=intake, clock=clock, log=log)


async def _join(front: Front, stack: AsyncExitStack, parts: "_Parts") -> None:
    try:
        # In a thread, as it takes a while that agents and schedules should not have to wait for.
        api, streams, door = await asyncio.to_thread(_made, parts)
    except ImportError as error:
        parts.log.error("api.failed", error=str(error), advice="pip install 'tocsin[hub]'")
        return
    # What was made stays: a collection in the middle of a burst need not walk over it.
    gc.freeze()
    await stack.enter_async_context(streams)
    front.join(api, hooks=door)
    parts.log.info("api.joined")
    await parts.hooks.look()


def _made(parts: "_Parts") -> tuple[Api, Streams, Api]:
    """The API, its streams, and what stands below /hooks/. Called in a thread; what it makes belongs to the event loop
    all the same.
    """
    from tocsin.edges.http.api import api_of  # noqa: PLC0415
    from tocsin.edges.http.hooks import HookDoor  # noqa: PLC0415
    from tocsin.edges.http.throttle import Throttle  # noqa: PLC0415

    api, streams = api_of(
        database=parts.database,
        of_hooks=parts.of_hooks,
        replica=parts.replica,
        watching=parts.watching,
        is_local=parts.replica.settings.is_http_local,
        log=parts.log,
    )
    door = HookDoor(
        hooks=parts.hooks, throttle=Throttle(clock=SystemClock()), log=parts.log, tell=parts.watching.tally.hooked
    )
    return api, streams, door
