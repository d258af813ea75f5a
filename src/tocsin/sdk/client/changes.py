"""The stream of changes: server-sent events, resumed where they broke off.

Each has an id by which any replica goes on after it. A connection that ends, breaks or falls silent is made again with
the last id that was seen, so that nothing is left out; what came just before the break may come twice.
Source: HTML Living Standard, 9.2 (server-sent events).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import httpx2
import msgspec

from tocsin.clock import Clock
from tocsin.domain.errors import HubUnavailable, TocsinError
from tocsin.sdk.client.asking import LATER, Asking, Request, is_final, retry_after
from tocsin.sdk.client.problems import error_of
from tocsin.sdk.client.told import Transition

MEDIA: Final = "text/event-stream"
TRANSITION: Final = "transition"
END: Final = "end"
"""The hub ends the stream and says how soon to come again, which is all that there is to do about it."""

SILENCE: Final = 45.0
"""Seconds without a byte after which a connection is held to be dead: a hub says something more often than that."""


class StreamedTransition(Transition):
    """trigger, agent, kind: None where somebody has deleted the run."""

    run_id: UUID
    trigger: str | None
    agent: str | None
    kind: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """id: to go on after it. kind: ``transition``, with a StreamedTransition as data; or ``gap``: what came before may
    be missing, so that the runs are to be read anew.
    """

    id: str
    kind: str
    data: dict[str, Any]


class _Broken(Exception):
    """The connection is no more. cause: what is told if there will be no other. after: seconds to wait at least."""

    def __init__(self, cause: Exception, *, after: float = 0) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.after = after


class Changes:
    """after: the id behind which they begin; None for from now on. silence: see SILENCE."""

    def __init__(self, asking: Asking, request: Request, *, after: str | None, silence: float = SILENCE) -> None:
        self._asking = asking
        self._request = request
        self._last = after
        self._silence = silence
        self._rest = 0.0
        self._tries = 0
        self._until = 0.0

    async def follow(self) -> AsyncGenerator[Change, None]:
        """Every change, without an end.

        Raises: what the hub refuses it with; HubUnavailable, when no connection came about for as long as an operation
        may take.
        """
        self._heard()
        while True:
            try:
                async for change in self._connected():
                    yield change
            except _Broken as broken:
                pause = max(self._rest, broken.after, self._asking.pause(self._tries))
                self._tries += 1
                if self._asking.clock.monotonic() + pause >= self._until:
                    raise broken.cause from None
                await self._asking.clock.sleep(pause)

    async def _connected(self) -> AsyncGenerator[Change, None]:
        """Changes of one connection. Raises: _Broken, however it ends."""
        request = replace(self._request, last_event_id=self._last)
        try:
            async with self._asking.stream(request, silence=self._silence) as answer:
                await self._accept(answer)
                async for event in httpx2.EventSource(answer):
                    self._heard()
                    self._last = event.id or self._last
                    if event.retry is not None:
                        self._rest = event.retry / 1000
                    if event.data and event.event != END:
                        yield Change(event.id, event.event, _read(event.event, event.data))
        except (httpx2.HTTPError, httpx2.StreamError) as fault:
            error = self._asking.unreached(fault)
            raise (error if is_final(fault) else _Broken(error)) from fault
        raise _Broken(HubUnavailable(f"{self._asking.address.url} ends the stream again and again"))

    async def _accept(self, answer: httpx2.Response) -> None:
        """Raises: _Broken, where another try may do better; what the answer refuses."""
        if answer.status_code >= 300:
            await answer.aread()
            error = error_of(answer)
            raise _Broken(error, after=retry_after(answer.headers)) if answer.status_code in LATER else error
        if answer.headers.get("content-type", "").partition(";")[0].strip() != MEDIA:
            raise HubUnavailable(f"{answer.url} does not answer as a hub does: check TOCSIN_URL")
        self._heard()

    def _heard(self) -> None:
        """There is a connection: the next is tried for as long as the first."""
        self._tries = 0
        self._until = self._asking.clock.monotonic() + self._asking.timeout


@asynccontextmanager
async def stirred(changes: AsyncIterator[Change], clock: Clock) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """A wait for so many seconds, or until the next change. Where no stream can be had, it is for so many seconds."""
    news = asyncio.Event()

    async def listen() -> None:
        with suppress(TocsinError):
            async for _ in changes:
                news.set()

    async def wait(seconds: float) -> None:
        pause = asyncio.ensure_future(clock.sleep(seconds))
        heard = asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait((pause, heard), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            heard.cancel()
        news.clear()

    listener = asyncio.ensure_future(listen())
    try:
        yield wait
    finally:
        listener.cancel()
        await asyncio.wait((listener,))


def _read(kind: str, data: str) -> dict[str, Any]:
    """Raises: HubUnavailable, for what no hub would say."""
    try:
        if kind == TRANSITION:
            return dict(msgspec.json.decode(data, type=StreamedTransition))
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise HubUnavailable(f"the stream tells what no hub would ({fault}): check TOCSIN_URL") from fault
