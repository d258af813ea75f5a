"""One operation of the API: who may ask, what may come in, and the answer's form. Every route is one of these.

In order: the caller, before anything of the body is read; the body, within its limits; its own key, if it has one;
then the endpoint. An endpoint therefore cannot be reached without a key, whatever its author forgot.
"""

import base64
import binascii
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from tocsin.domain.authority import Scope
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.jsonable import jsonable
from tocsin.domain.payload import accept
from tocsin.edges.http.asked import LARGEST_NUMBER
from tocsin.edges.http.gate import Caller, Gate
from tocsin.edges.http.once import Once, key_of
from tocsin.edges.http.problems import Problem
from tocsin.edges.http.streams import Streams
from tocsin.engine.control import Control
from tocsin.telemetry import Log

SCOPE: Final = "x-tocsin-scope"
OWN_KEY: Final = "x-tocsin-own-key"
"""What an Idempotency-Key means is the endpoint's affair, and its answer is not kept."""

OWN_BODY: Final = "x-tocsin-own-body"
"""What a body may be is the endpoint's affair."""

T = TypeVar("T", bound=tuple[Any, ...])


Called: TypeAlias = Callable[[str, UUID, str], None]


def untraced(_traceparent: str, _run_id: UUID, _trigger: str) -> None: ...
def _uncalled(_run_id: UUID, _trigger: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What operations share. control: every operation of the hub, in an actor's name. called: told of a run that was
    called for by somebody who is traced: their traceparent, the run, and its trigger.
    """

    control: Callable[[str], Control]
    gate: Gate
    once: Once
    streams: Streams
    log: Log
    called: Called = untraced


class Json(JSONResponse):
    """An answer as the command line's ``--json`` has it, too."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(jsonable(content))


class Operation(APIRoute):
    """A route with a scope, which its description names."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        extra: Mapping[str, Any] = self.openapi_extra or {}
        scope = Scope(extra[SCOPE])
        has_own_body = bool(extra.get(OWN_BODY))
        is_kept = "POST" in (self.methods or ()) and not extra.get(OWN_KEY)
        known = sorted(parameter.alias for parameter in self.dependant.query_params)

        async def handle(request: Request) -> Response:
            edge: Edge = request.app.state.edge
            caller = await edge.gate.admit(request, scope)
            _check_path(request)
            _check_query(request, known)
            if not has_own_body:
                await _check_body(request)
            key = key_of(request) if request.method == "POST" else None
            traceparent = request.headers.get("traceparent")
            called = partial(edge.called, traceparent) if traceparent else _uncalled
            request.state.asked = Asked(caller, edge.control(caller.actor), key, called)
            if key is None or not is_kept:
                return await answer(request)
            return await edge.once.answered(request, caller.actor, key, answer)

        return handle


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in. key: the one that it came with, if any. called: for the run that it called for."""

    caller: Caller
    control: Control
    key: str | None
    called: Callable[[UUID, str], None]

    @property
    def own_key(self) -> str | None:
        """The key, told apart from the same one of another caller, and as short as a key may be."""
        return None if self.key is None else sha256(f"{self.caller.actor}\0{self.key}".encode()).hexdigest()


async def _asked(request: Request) -> Asked:
    asked: Asked = request.state.asked
    return asked


async def _control(request: Request) -> Control:
    return (await _asked(request)).control


ByWhom = Annotated[Asked, Depends(_asked)]
Hub = Annotated[Control, Depends(_control)]


def page(rows: Sequence[dict[str, Any]], limit: int, *position: str) -> Json:
    """One page. rows: one more than the limit, where there are more; position: the fields by which the next begins."""
    is_cut = len(rows) > limit
    cursor = to_cursor(*(rows[limit - 1][name] for name in position)) if is_cut else None
    return Json({"items": rows[:limit], "next_cursor": cursor})


def to_cursor(*position: object) -> str:
    """Where a page ends, in a form that nobody is to read."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def of_cursor(cursor: str | None, kind: type[T]) -> T | None:
    """Where the page before ended. Raises: Problem, for what was no answer's ``next_cursor``."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        position: T = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=kind)
        _check_position(position)
    except (binascii.Error, ValueError, RecursionError, OverflowError):
        raise Problem(
            422, BadInput.code, "cursor: must be the next_cursor of the page before", field="cursor"
        ) from None
    return position


def _check_position(position: tuple[Any, ...]) -> None:
    """The store can be asked for it. Raises: ValueError; OverflowError, for an instant outside the calendar."""
    for part in position:
        if isinstance(part, datetime):
            part.astimezone(UTC)
            is_fit = part.utcoffset() is not None
        elif isinstance(part, int):
            is_fit = abs(part) <= LARGEST_NUMBER
        else:
            is_fit = "\0" not in str(part)
        if not is_fit:
            raise ValueError("no position")


def _check_path(request: Request) -> None:
    """Raises: Problem, for what can be no name."""
    if not request.url.path.isprintable():
        raise Problem(404, "not_found", "there is nothing under such a name")


def _check_query(request: Request, known: list[str]) -> None:
    """A filter that is misspelt would let everything through. Raises: Problem."""
    for name, value in request.query_params.multi_items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise Problem(422, BadInput.code, f"query parameter {name[:80]!r} is unknown: {advice}", field=name[:80])
        if not value.isprintable():
            raise Problem(422, BadInput.code, f"{name}: must be printable characters on one line", field=name)


async def _check_body(request: Request) -> None:
    """The body, if there is one, is JSON that the store takes. Raises: Problem, PayloadTooLarge."""
    body = await request.body()
    if not body:
        return
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise Problem(415, "unsupported_media_type", "write JSON, with Content-Type: application/json")
    try:
        accept(body, what="body")
    except PayloadTooLarge:
        raise
    except BadInput as error:
        raise Problem(400, error.code, str(error), field="body") from None
