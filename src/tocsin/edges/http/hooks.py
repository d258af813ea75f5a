"""/hooks/NAME: webhooks, as plain ASGI, because every call passes here and none needs more.

In order: the body, as it comes and within its limits; its signature, over these bytes; then what it says; then the
transaction; then the answer. What is held at once is bounded over all calls, whether or not they turn out to be signed.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from tocsin.domain.errors import BadInput, Busy, Conflict, PayloadTooLarge, StoreError, TocsinError, Unverified
from tocsin.domain.hook import Scheme
from tocsin.domain.payload import accept
from tocsin.edges.http.front import BELOW_HOOKS, Message, Receive, Send
from tocsin.edges.http.problems import CHALLENGE_OF_HOOKS, MEDIA, RETRY_AFTER, Problem, problem_of
from tocsin.edges.http.throttle import Throttle
from tocsin.engine.hooks import Call, Hooks
from tocsin.telemetry import Log

MOST_HELD: Final = 32 * 1024 * 1024
"""Bytes of bodies that are being read, or wait for their commit."""

MOST_FIELDS: Final = 1_000
"""Of a form."""

FORM: Final = "application/x-www-form-urlencoded"


class Gone(Exception):
    """Whoever called has left before the end of the body."""


class Room:
    """What bodies may take up together."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int) -> None:
        """Raises: Busy."""
        if self.held + size > self._most:
            raise Busy("so many bodies are being read that this is refused: call again in a moment")
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size


class HookDoor:
    """The ASGI application of everything below /hooks/. tell: is told how each call was answered: accepted, duplicate,
    or with the code of a refusal.
    """

    def __init__(
        self,
        *,
        hooks: Hooks,
        throttle: Throttle,
        log: Log,
        tell: Callable[[str], None] = lambda answer: None,
        room: Room | None = None,
    ) -> None:
        self._hooks = hooks
        self._throttle = throttle
        self._log = log
        self._tell = tell
        self._room = room or Room()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            if scope["method"] != "POST":
                raise Problem(405, "method_not_allowed", "a webhook is called with POST", headers={"allow": "POST"})
            async for part in _parts(receive):
                self._room.take(len(part))
                body += part
            status, content, headers = await self._answered(scope, bytes(body))
        except Gone:
            return
        except Problem as problem:
            status, content, headers = self._refused(problem)
        except TocsinError as error:
            status, content, headers = self._refused(self._problem(error, scope))
        finally:
            self._room.give_back(len(body))
        await _send(send, status, content, headers)

    async def _answered(self, scope: Message, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = _headers(scope)
        name = scope["path"].removeprefix(BELOW_HOOKS)
        call = await self._hooks.admit(name, headers, body)
        _check_visitor(call, headers)
        media = headers.get("content-type", "")
        data = _read(call, media, body)
        told = await self._hooks.take(call, data=data, body=body, media=media)
        status = "accepted" if told["accepted"] else "duplicate"
        self._tell(status)
        return 200, msgspec.json.encode({"status": status, "id": told["id"]}), {"content-type": "application/json"}

    def _refused(self, problem: Problem) -> tuple[int, bytes, dict[str, str]]:
        self._tell(problem.code)
        return problem.status, msgspec.json.encode(problem.form()), {"content-type": MEDIA, **problem.headers}

    def _problem(self, error: TocsinError, scope: Message) -> Problem:
        if isinstance(error, Unverified):
            return self._unverified(error, scope)
        if isinstance(error, StoreError):
            self._log.warning("http.failed", path=BELOW_HOOKS, code=error.code, error=str(error))
        if isinstance(error, BadInput) and not isinstance(error, PayloadTooLarge):
            return Problem(400, error.code, str(error), field="body")
        if isinstance(error, Conflict):
            # Senders call again after a 5xx, and it may have been mended by then.
            return Problem(503, error.code, str(error), headers=RETRY_AFTER)
        return problem_of(error)

    def _unverified(self, error: Unverified, scope: Message) -> Problem:
        """A call that is signed is never held up: nobody can lock its sender out by failing from the same address."""
        address = scope["client"][0] if scope.get("client") else ""
        wait = self._throttle.fail(address)
        if wait is not None:
            headers = {"retry-after": str(max(1, ceil(wait)))}
            return Problem(429, "throttled", "too many calls that are not signed as asked: wait", headers=headers)
        name = scope["path"].removeprefix(BELOW_HOOKS)
        shown = name if name.isprintable() and len(name) <= 200 else ""
        self._log.warning("hook.refused", trigger=shown, address=address, error=error.why)
        return Problem(401, error.code, str(error), headers=CHALLENGE_OF_HOOKS)


async def _parts(receive: Receive) -> Any:
    """The body, piece by piece. Raises: Gone; PayloadTooLarge."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _headers(scope: Message) -> Mapping[str, str]:
    """By their names in lower case; what stands there twice is one, which no signature fits."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _check_visitor(call: Call, headers: Mapping[str, str]) -> None:
    """A page in somebody's browser may reach a port of this host; what nobody signs, it must not call.

    Raises: Problem.
    """
    is_page = "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if is_page and not call.hook.is_verified:
        raise Problem(403, "forbidden", "a page in a browser cannot call a hook that verifies nothing")


def _read(call: Call, media: str, body: bytes) -> Any:
    """What the body says: a JSON value, or a form's fields, a list where one stands there several times.

    Raises: BadInput; PayloadTooLarge; Problem.
    """
    kind = media.partition(";")[0].strip().lower()
    if not body:
        return None
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return msgspec.json.decode(accept(body, what="body"))
    if kind != FORM:
        raise Problem(415, "unsupported_media_type", f"a webhook is taken as JSON or as {FORM}, not as {kind[:80]!r}")
    fields = _form(body)
    if call.hook.scheme is Scheme.GITHUB and isinstance(fields.get("payload"), str):
        return msgspec.json.decode(accept(fields["payload"].encode(), what="payload"))
    return fields


def _form(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadInput(f"body is no form of at most {MOST_FIELDS:,} fields in UTF-8") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields


async def _send(send: Send, status: int, content: bytes, headers: Mapping[str, str]) -> None:
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    told.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content})
