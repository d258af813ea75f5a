"""/v1/events: what is told, and what came of it."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import FastAPI, Path, Query, Request

from tocsin.domain.authority import Scope
from tocsin.domain.cloudevents import OF_HEADERS, read_binary, read_structured
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.event import MAX_ATTRIBUTE, MAX_ID, Event
from tocsin.domain.payload import accept
from tocsin.edges.http import told_events
from tocsin.edges.http.asked import Before, Cursor, Limit, OfTrigger, Since, Until
from tocsin.edges.http.cloud_event_form import CLOUD_EVENT_REF, EXAMPLE
from tocsin.edges.http.operation import Hub, Json, of_cursor, page
from tocsin.edges.http.problems import Problem
from tocsin.edges.http.routes import Routes

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
MOST_EVENTS: Final = 1_000
"""In one request."""

_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "One event, a list of at most 1,000, or the data alone with the attributes as ce-… headers.",
        "content": {
            STRUCTURED: {"schema": CLOUD_EVENT_REF, "example": EXAMPLE},
            BATCHED: {
                "schema": {"type": "array", "items": CLOUD_EVENT_REF, "maxItems": MOST_EVENTS},
                "example": [EXAMPLE],
            },
        },
    }
}


OfType = Annotated[str | None, Query(max_length=MAX_ATTRIBUTE, description="Only of this type; * is any text.")]
FromSource = Annotated[str | None, Query(max_length=MAX_ATTRIBUTE, description="Only from there; * is any text.")]


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "events")
    routes.add(
        "POST", "/v1/events", tell_events, scope=Scope.EMIT, told=told_events.AllTold, own_key=True, own_body=_BODY
    )
    routes.add("GET", "/v1/events", list_events, scope=Scope.READ, told=told_events.EventPage, refusals=(404,))
    routes.add(
        "GET", "/v1/events/{number}", show_event, scope=Scope.READ, told=told_events.EventDetail, refusals=(404,)
    )


async def tell_events(hub: Hub, request: Request) -> Json:
    """Tell the hub of events, as CloudEvents 1.0 has them.

    Structured (`application/cloudevents+json`), several (`application/cloudevents-batch+json`), or binary: the data as
    the body, the attributes as `ce-…` headers. When this answers all of it is committed, and what it calls is queued.
    An event is its `source` and its `id`: told again it is known, and that is no fault. An `Idempotency-Key` adds
    nothing.
    """
    return Json({"items": await hub.emit(await _events(request))})


async def list_events(
    hub: Hub,
    *,
    type: OfType = None,  # noqa: A002
    source: FromSource = None,
    id: Annotated[str | None, Query(max_length=MAX_ID, description="Only of this id.")] = None,  # noqa: A002
    trigger: OfTrigger = None,
    called: Annotated[bool | None, Query(description="Only those that came to a run, or to none.")] = None,
    since: Since = None,
    until: Until = None,
    before: Before = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Events, the latest first, with what each came to.

    The range is of when they were received.
    """
    position = of_cursor(cursor, tuple[int])
    rows = await hub.events.page(
        limit=limit + 1,
        before=position[0] if position else before,
        type=type,
        source=source,
        id=id,
        trigger=trigger,
        called=called,
        since=since,
        until=until,
    )
    return page(rows, limit, "number")


async def show_event(hub: Hub, number: Annotated[int, Path(description="The event's number.")]) -> Json:
    """One event with its data, what it came to, and why it did not call the other triggers that listen."""
    return Json(await hub.events.show(number))


async def _events(request: Request) -> list[Event]:
    """Raises: Problem, BadInput, PayloadTooLarge."""
    media = request.headers.get("content-type", "")
    body = await request.body()
    match media.partition(";")[0].strip().lower():
        case "application/cloudevents+json":
            return [read_structured(_decoded(body))]
        case "application/cloudevents-batch+json":
            return _batch(_decoded(body))
        case kind if kind.startswith("application/cloudevents"):
            raise Problem(415, "unsupported_media_type", f"{kind}: events are taken in JSON: {STRUCTURED} or {BATCHED}")
    if f"{OF_HEADERS}specversion" not in request.headers:
        raise Problem(
            415, "unsupported_media_type", f"write {STRUCTURED}, {BATCHED}, or the attributes as ce-… headers"
        )
    names = [name for name in request.headers if name.startswith(OF_HEADERS)]
    for name in names:
        if names.count(name) > 1:
            raise Problem(422, BadInput.code, f"{name}: stands there twice", field=name)
    return [read_binary(request.headers, body, media)]


def _batch(forms: object) -> list[Event]:
    if not isinstance(forms, list):
        raise Problem(422, BadInput.code, "must be a list of events", field="body")
    if len(forms) > MOST_EVENTS:
        raise Problem(
            422, BadInput.code, f"{len(forms):,} events: at most {MOST_EVENTS:,} in one request", field="body"
        )
    return [read_structured(form, at=f"event {place}") for place, form in enumerate(forms)]


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(accept(body, what="body"))
    except PayloadTooLarge:
        raise
    except BadInput as error:
        raise Problem(400, error.code, str(error), field="body") from None
