"""Refusals as RFC 9457 has them: application/problem+json, with the ``code`` that every edge tells alike.

One table from errors to statuses. What goes wrong on our side is told without its particulars: those are the log's.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from tocsin.domain.errors import (
    BadInput,
    Busy,
    Contended,
    DatabaseUnavailable,
    InvalidSchedule,
    LeaseLost,
    NotFound,
    PayloadTooLarge,
    Refused,
    SchemaMismatch,
    Stale,
    StoreError,
    TocsinError,
    Unverified,
)

MEDIA: Final = "application/problem+json"
RETRY_AFTER: Final = {"retry-after": "1"}
CHALLENGE_OF_HOOKS: Final = {"www-authenticate": 'Signature realm="tocsin"'}

#: The first that fits counts.
STATUSES: Final[tuple[tuple[type[TocsinError], int], ...]] = (
    (PayloadTooLarge, 413),
    (BadInput, 422),
    (NotFound, 404),
    (Unverified, 401),
    (Busy, 503),
    (Stale, 412),
    (Refused, 409),
    (LeaseLost, 409),
    (DatabaseUnavailable, 503),
    (Contended, 503),
    (SchemaMismatch, 503),
    (TocsinError, 500),
)

#: Of these the text is not told: it may name hosts, users and statements.
UNTOLD: Final[dict[int, str]] = {
    500: "something went wrong here; the hub's log says what",
    503: "the database cannot be asked just now: try again",
}

DESCRIPTION_AT: Final = "/v1/openapi.json"


class Problem(Exception):
    """A refusal that only this edge has. errors: (field, what is wrong with it); about: what an error of ours names."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
        about: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.errors = errors
        self.about = about
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = msgspec.json.encode(self.form())
        return Response(body, self.status, self.headers, media_type=MEDIA)

    def form(self) -> dict[str, Any]:
        form: dict[str, Any] = {
            "type": f"urn:tocsin:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.field is not None:
            form["field"] = self.field
        if self.errors:
            form["errors"] = [{"field": field, "detail": detail} for field, detail in self.errors]
        if self.about:
            form["about"] = self.about
        return form


def problem_of(error: TocsinError) -> Problem:
    """The refusal that an error of ours is."""
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    field = error.field if isinstance(error, InvalidSchedule) else None
    headers = RETRY_AFTER if status == 503 else None
    detail = UNTOLD.get(status) or str(error)
    about = {name: getattr(error, name) for name in error.about}
    return Problem(status, error.code, detail, field=field, about=about, headers=headers)


async def on_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # it is registered for these
    return problem.response()


async def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TocsinError)  # it is registered for these
    if isinstance(error, StoreError):
        request.app.state.log.warning("http.failed", path=request.url.path, code=error.code, error=str(error))
    return problem_of(error).response()


async def on_gone(_: Request, __: Exception) -> Response:
    """Whoever asked has left in the middle of it: there is nobody to be told."""
    return Problem(400, BadInput.code, "the request ended before its body did").response()


async def on_broken(_: Request, __: Exception) -> Response:
    """A fault of ours. Whoever stands in front logs it."""
    return Problem(500, TocsinError.code, UNTOLD[500]).response()


async def on_http(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: a path that is not there, a method that it does not have."""
    assert isinstance(error, HTTPException)  # it is registered for these
    if error.status_code == 405:
        allowed = ", ".join(_methods_of(request))
        detail = f"{request.method} does nothing here; there is {allowed}"
        return Problem(405, "method_not_allowed", detail, headers={"allow": allowed}).response()
    if error.status_code == 404:
        return Problem(404, "not_found", f"there is nothing here; {DESCRIPTION_AT} says what there is").response()
    return Problem(error.status_code, BadInput.code, str(error.detail), headers=error.headers).response()


def _methods_of(request: Request) -> list[str]:
    """What the path has, over all its routes; the framework names those of the first only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = [route for route in routes if route.path_regex.match(request.url.path)]
    return sorted({method for route in found for method in route.methods or ()})


async def on_invalid(_: Request, error: Exception) -> Response:
    """What does not have the shape that the operation's description asks for. What stood there is not repeated."""
    assert isinstance(error, RequestValidationError)  # it is registered for these
    errors = [(_field(fault["loc"]), str(fault["msg"]).removeprefix("Value error, ")) for fault in error.errors()]
    field, detail = errors[0]
    return Problem(422, BadInput.code, f"{field}: {detail}", field=field, errors=errors).response()


def _field(place: Sequence[Any]) -> str:
    """``policy.priority``; the first part says where it stood: body, query, path."""
    return ".".join(str(part) for part in place[1:]) or str(place[0])
