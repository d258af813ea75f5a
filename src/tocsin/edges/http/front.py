"""What stands before everything else on the HTTP port: health, headers, limits, and the last catch.

Plain ASGI, so that it answers before the framework is there. A body is counted here and never kept; who reads it is
the operation, once it knows who asks.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.errors import PayloadTooLarge
from tocsin.edges.http.health import PATHS, Health
from tocsin.telemetry import Log

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Api = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY: Final = MAX_PAYLOAD

BELOW_HOOKS: Final = "/hooks/"

JOINS_WITHIN: Final = 10.0
"""Seconds that a request waits for a hub that starts."""

HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class Front:
    def __init__(self, health: Health, *, log: Log) -> None:
        self._health = health
        self._log = log
        self._api: Api | None = None
        self._hooks: Api | None = None
        self._joined = asyncio.Event()

    def join(self, api: Api, *, hooks: Api | None = None) -> None:
        """From now on the API answers, first those who have waited for it; and what stands below /hooks/."""
        self._api = api
        self._hooks = hooks
        self._joined.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        if scope["path"] in PATHS:
            status, body = self._health.answer(scope["method"], scope["path"])
            await answer.tell(status, body, head_only=scope["method"] == "HEAD")
            return
        refusal = _refusal(scope)
        if refusal is not None:
            await answer.refuse(*refusal)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._joined.is_set() else JOINS_WITHIN):
                await self._joined.wait()
        if self._api is None:
            await answer.refuse(503, "Service Unavailable", "starting", "the hub is starting: try again")
        elif self._hooks is not None and scope["path"].startswith(BELOW_HOOKS):
            await self._guarded(self._hooks, scope, receive, answer)
        else:
            await self._guarded(self._api, scope, receive, answer)

    async def _guarded(self, api: Api, scope: Message, receive: Receive, answer: "_Answer") -> None:
        try:
            await api(scope, _counted(receive), answer.send)
        except Exception as error:  # the last line of defence: one request fails, and not its connection's others
            self._log.error("http.broken", method=scope["method"], error=type(error).__name__, at=_place(error))
            await answer.refuse(
                500, "Internal Server Error", "error", "something went wrong here; the hub's log says what"
            )


class _Answer:
    """One response, with the headers that each has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_begun = True
            given = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(one for one in HEADERS if one[0] not in given)]
        await self._send(message)

    async def tell(
        self, status: int, body: dict[str, Any], *, media: bytes = b"application/json", head_only: bool = False
    ) -> None:
        content = msgspec.json.encode(body)
        headers = [(b"content-type", media), (b"content-length", str(len(content)).encode())]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if status == 400:
            headers.append((b"connection", b"close"))
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if head_only else content})

    async def refuse(self, status: int, title: str, code: str, detail: str) -> None:
        """A problem, unless something has been said already."""
        if self.is_begun:
            return
        form = {"type": f"urn:tocsin:problem:{code}", "title": title, "status": status, "code": code, "detail": detail}
        await self.tell(status, form, media=b"application/problem+json")


_TOO_LARGE: Final = (
    413,
    "Content Too Large",
    "payload_too_large",
    f"body: at most {MAX_BODY:,} bytes are taken: store it elsewhere and pass a reference",
)


def _refusal(scope: Message) -> tuple[int, str, str, str] | None:
    """Why the request is not even read: (status, title, code, detail)."""
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        return 415, "Unsupported Media Type", "unsupported_media_type", "a body must not be compressed"
    length = headers.get(b"content-length", b"")
    if length and b"transfer-encoding" in headers:
        # Source: RFC 9112, 6.3: a proxy may have gone by the other one, so that the connection ends here.
        return 400, "Bad Request", "bad_input", "a body has a Content-Length or a Transfer-Encoding, never both"
    if length.isdigit() and int(length[:20]) > MAX_BODY:
        return _TOO_LARGE
    return None


def _counted(receive: Receive) -> Receive:
    """The body, up to the limit. Raises: PayloadTooLarge, which the API knows how to tell."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise PayloadTooLarge("body", size=size, limit=MAX_BODY)
        return message

    return counted


def _place(error: BaseException) -> str:
    """Where it was raised. What it says may hold what was sent, and stays out of the log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
