"""How operations are put onto the application: with a scope, a shape of the answer, and the refusals to expect."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Response
from pydantic import BaseModel

from tocsin.domain.authority import Scope
from tocsin.edges.http.operation import OWN_BODY, OWN_KEY, SCOPE, Json

ALWAYS: Final = (401, 403, 422, 429, 500, 503)
"""Statuses that any operation may refuse with."""

OF_BODIES: Final = (400, 413, 415)
ETAG: Final = {"ETag": {"description": "The version, for If-Match.", "schema": {"type": "string"}}}
EVENTS: Final = "text/event-stream"
REFUSALS: Final = "x-tocsin-refusals"
"""Statuses of an operation's refusals, until the description is written out."""


class Routes:
    """One noun's operations on the application. tag: the noun."""

    def __init__(self, app: FastAPI, tag: str) -> None:
        self._app = app
        self._tag = tag

    def add(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Any],
        *,
        scope: Scope,
        told: type[BaseModel],
        status: int = 200,
        also: dict[int, str] | None = None,
        refusals: Sequence[int] = (),
        headers: dict[str, Any] | None = None,
        own_key: bool = False,
        streamed_as: type[Response] | None = None,
        own_body: dict[str, Any] | None = None,
    ) -> None:
        """also: further statuses of success, with their words; own_key: what an Idempotency-Key means is the
        endpoint's affair; streamed_as: the answer goes on, in events that are told; own_body: how the description
        tells of a body that the endpoint reads itself. The endpoint's docstring describes it.
        """
        bodies = OF_BODIES if method in ("POST", "PATCH", "PUT") else ()
        once = (409,) if method == "POST" else ()
        extra: dict[str, Any] = {
            SCOPE: scope.value,
            REFUSALS: sorted({*ALWAYS, *bodies, *once, *refusals}),
            "security": [{"key": [scope.value]}],
        }
        if own_key:
            extra[OWN_KEY] = True
        if own_body is not None:
            extra |= {OWN_BODY: True, **own_body}
        summary, _, description = (endpoint.__doc__ or "").strip().partition("\n")
        responses: dict[int | str, dict[str, Any]] = {
            code: {"model": told, "description": words, **({"headers": headers} if headers else {})}
            for code, words in {status: "Done.", **(also or {})}.items()
        }
        if streamed_as is not None:
            responses = {status: {"description": "It goes on.", "content": {EVENTS: _streamed(told)}}}
        self._app.router.add_api_route(
            path,
            endpoint,
            methods=[method],
            status_code=status,
            summary=summary.rstrip("."),
            description="\n".join(line.strip() for line in description.strip().splitlines()),
            operation_id=endpoint.__name__,
            tags=[self._tag],
            responses=responses,
            response_class=streamed_as or Json,
            openapi_extra=extra,
        )


def _streamed(told: type[BaseModel]) -> dict[str, Any]:
    """A stream's content: what one event holds, and how events are written."""
    data = msgspec.json.encode(told.model_json_schema()["examples"][0]).decode()
    return {
        "schema": {"$ref": f"#/components/schemas/{told.__name__}"},
        "example": f"id: 7a1ebb83e24d.2f3+1\nevent: transition\ndata: {data}\n\n",
    }
