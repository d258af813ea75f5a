"""Refusals of the API as the errors that they are elsewhere: the same class, the same ``code``, the same text."""

from http import HTTPStatus
from typing import Any, Final

import httpx2
import msgspec

from tocsin.domain.errors import (
    BadInput,
    Conflict,
    Contended,
    DatabaseUnavailable,
    Forbidden,
    HubUnavailable,
    InvalidSchedule,
    NotFound,
    PayloadTooLarge,
    Refused,
    SchemaMismatch,
    Stale,
    TocsinError,
    Unauthenticated,
)

MEDIA: Final = "application/problem+json"

KINDS: Final[dict[str, type[TocsinError]]] = {
    kind.code: kind
    for kind in (
        BadInput,
        InvalidSchedule,
        PayloadTooLarge,
        Refused,
        NotFound,
        Conflict,
        Stale,
        Unauthenticated,
        Forbidden,
        DatabaseUnavailable,
        Contended,
        SchemaMismatch,
        TocsinError,
    )
}

#: Of a code that only the API has, by its status. What is not here is our side's fault.
OTHERS: Final[dict[int, type[TocsinError]]] = {
    400: BadInput,
    401: Unauthenticated,
    403: Forbidden,
    405: BadInput,
    408: HubUnavailable,
    409: Conflict,
    413: PayloadTooLarge,
    415: BadInput,
    422: BadInput,
    428: BadInput,
    429: Refused,
    431: BadInput,
    503: HubUnavailable,
}


class Form(msgspec.Struct):
    """A problem as RFC 9457 has it, with what a hub tells besides."""

    code: str
    detail: str
    about: dict[str, Any] = {}


def error_of(answer: httpx2.Response) -> TocsinError:
    """The error that an answer of 400 or more tells. What no hub would say makes it HubUnavailable."""
    media = answer.headers.get("content-type", "").partition(";")[0].strip()
    try:
        form = msgspec.json.decode(answer.content, type=Form) if media == MEDIA else None
    except msgspec.DecodeError:
        form = None
    if form is None:
        return _stranger(answer)
    kind = KINDS.get(form.code) or OTHERS.get(answer.status_code, TocsinError)
    return told(kind, form.code, form.detail, form.about)


def told(kind: type[TocsinError], code: str, text: str, about: dict[str, Any]) -> TocsinError:
    """An error as somebody else has worded it: its fields are those that came along, or None."""
    error = kind.__new__(kind, text)
    for name in kind.about:
        setattr(error, name, about.get(name))
    error.code = code
    return error


def _stranger(answer: httpx2.Response) -> TocsinError:
    """Somebody in between has spoken, or somebody else is there."""
    status = answer.status_code
    known = status in set(HTTPStatus)
    said = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
    if "location" in answer.headers:
        return HubUnavailable(
            f"{answer.url} answers {said} to {answer.headers['location']}: set TOCSIN_URL to where it is"
        )
    return HubUnavailable(f"{answer.url} answers {said}, and not as a hub does: check TOCSIN_URL")
