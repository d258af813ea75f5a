"""/v1/triggers: what is called, and when."""

from dataclasses import replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import FastAPI, Header, Path, Query

from tocsin.domain.authority import Scope
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp
from tocsin.edges.http import asked, told
from tocsin.edges.http.asked import After, Cursor, Limit, Name, OfAgent, Since, Until
from tocsin.edges.http.operation import ByWhom, Hub, Json, of_cursor, page
from tocsin.edges.http.problems import Problem
from tocsin.edges.http.routes import ETAG, Routes

Status = Literal["armed", "paused", "waiting", "ended", "manual", "listening", "broken"]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag that was read, or *.", examples=['"3"']),
]
ANY_VERSION: Final = "*"


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "triggers")
    one = "/v1/triggers/{name}"
    read, operate, admin = Scope.READ, Scope.OPERATE, Scope.ADMIN
    detail = told.TriggerDetail
    routes.add("GET", "/v1/triggers", list_triggers, scope=read, told=told.TriggerPage)
    routes.add(
        "POST", "/v1/triggers", create_trigger, scope=admin, told=detail, status=201, refusals=(404, 409), headers=ETAG
    )
    routes.add("GET", one, show_trigger, scope=read, told=detail, refusals=(404,), headers=ETAG)
    routes.add("PATCH", one, edit_trigger, scope=admin, told=detail, refusals=(404, 409, 412, 428), headers=ETAG)
    routes.add("DELETE", one, delete_trigger, scope=admin, told=told.Deleted, refusals=(404, 412))
    routes.add("POST", f"{one}/pause", pause_trigger, scope=operate, told=detail, refusals=(404, 409), headers=ETAG)
    routes.add("POST", f"{one}/resume", resume_trigger, scope=operate, told=detail, refusals=(404, 409), headers=ETAG)
    routes.add(
        "POST",
        f"{one}/fire",
        fire_trigger,
        scope=operate,
        told=told.FiredRun,
        status=201,
        also={200: "The key was seen before; this is the run that it gave."},
        refusals=(404, 409),
        own_key=True,
    )
    routes.add("POST", f"{one}/backfills", backfill, scope=operate, told=told.Backfilled, refusals=(404, 409))
    routes.add(
        "DELETE",
        f"{one}/backfills/{{backfill}}",
        cancel_backfill,
        scope=operate,
        told=told.BackfillCancelled,
        refusals=(404,),
    )
    routes.add("GET", f"{one}/preview", preview_trigger, scope=read, told=told.Previewed, refusals=(404, 409))
    routes.add("GET", f"{one}/why", why, scope=read, told=told.Why, refusals=(404,))
    routes.add("POST", "/v1/preview", preview_schedule, scope=read, told=told.Previewed)


async def list_triggers(
    hub: Hub,
    *,
    agent: OfAgent = None,
    status: Annotated[Status | None, Query(description="Only those that stand so.")] = None,
    source: Annotated[str | None, Query(max_length=500, description="Only of this app.")] = None,
    after: After = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Triggers by name."""
    position = of_cursor(cursor, tuple[str])
    rows = await hub.triggers(
        limit=limit + 1, after=position[0] if position else after, agent=agent, status=status, source=source
    )
    return page(rows, limit, "name")


async def create_trigger(hub: Hub, body: asked.NewTrigger) -> Json:
    """A new trigger of a declared agent.

    With a schedule it is called at its instants, with an event rule by events, without either by hand. A schedule that
    is malformed or can never match is refused, and the refusal's ``field`` names the part of it that is at fault.
    """
    row = await hub.add_trigger(body.spec())
    return _trigger(row, 201, {"location": f"/v1/triggers/{quote(row['name'])}"})


async def show_trigger(hub: Hub, name: Name) -> Json:
    """One trigger with its policy and its input."""
    return _trigger(await hub.trigger(name))


async def edit_trigger(hub: Hub, name: Name, body: asked.TriggerChange, if_match: IfMatch = None) -> Json:
    """Change what is named; the rest stays as it is.

    A schedule takes the place of an event rule and the other way round; the policy stays, also its ``overlap``.

    ``If-Match`` must be the ETag of the version that was read: an edit that somebody else made in between is
    refused with 412, an edit without one with 428.
    """
    if if_match is None:
        raise Problem(428, "precondition_required", "read the trigger, and send its ETag as If-Match", field="If-Match")
    changes = body.changes()
    return _trigger(await hub.edit_trigger(name, lambda spec: replace(spec, **changes), if_version=_versions(if_match)))


async def delete_trigger(hub: Hub, name: Name, if_match: IfMatch = None) -> Json:
    """It fires no more; what is queued is withdrawn, its history stays."""
    return Json(await hub.delete_trigger(name, if_version=None if if_match is None else _versions(if_match)))


async def pause_trigger(hub: Hub, name: Name, body: asked.Pause | None = None) -> Json:
    """Let nothing become a run until every reason is cleared, by hand or at its end.

    Runs in hand go on, and it can still be fired by hand. What is due at the instant of ``until`` runs.
    """
    said = body or asked.Pause()
    return _trigger(await hub.pause(name, reason=said.reason, until=said.until))


async def resume_trigger(hub: Hub, name: Name, body: asked.Resume | None = None) -> Json:
    """Go on from now."""
    said = body or asked.Resume()
    catch_up = CatchUp(said.catch_up) if said.catch_up is not None else None
    return _trigger(await hub.resume(name, reason=said.reason, catch_up=catch_up))


async def fire_trigger(by: ByWhom, name: Name, body: asked.Fire | None = None) -> Json:
    """A run now, whatever the schedule says.

    The ``Idempotency-Key`` is the run's own: as long as the run is kept, the same key gives the same run, whoever
    asks and with whatever input.
    """
    run = await by.control.fire(name, key=by.key, input=body.input if body else None)
    if run["created"]:
        by.called(run["id"], name)
    return Json(run, 201 if run["created"] else 200, {"location": f"/v1/runs/{run['id']}"})


async def backfill(by: ByWhom, name: Name, body: asked.Backfill) -> Json:
    """Run past occurrences again, one at a time, beside live work; at most 1,000 in one go."""
    until = body.until or await by.control.now()
    return Json(await by.control.backfill(name, body.since, until, dry_run=body.dry_run, key=by.own_key))


async def cancel_backfill(
    hub: Hub, name: Name, backfill: Annotated[UUID, Path(description="The backfill's id.")]
) -> Json:
    """Cancel what is still queued of a backfill; what runs goes on."""
    return Json(await hub.cancel_backfill(name, str(backfill)))


async def preview_trigger(
    hub: Hub,
    name: Name,
    count: Annotated[int, Query(ge=1, le=1_000)] = 5,
    after: Annotated[asked.Instant | None, Query(description="Now, when left out.")] = None,
) -> Json:
    """The next instants, and what daylight saving does to each."""
    return Json(await hub.insight.preview(name, count=count, after=after))


async def preview_schedule(hub: Hub, body: asked.PreviewOf) -> Json:
    """The next instants of a schedule that is no trigger's yet."""
    schedule = Schedule.from_json(body.schedule)
    return Json(await hub.insight.preview_schedule(schedule, count=body.count, after=body.after))


async def why(hub: Hub, name: Name, since: Since = None, until: Until = None, limit: Limit = 50) -> Json:
    """Why did it run, or not? How it stands, and every decision on record in a range.

    The range is the last 24 hours unless it is told otherwise; the latest occurrence comes first.
    """
    return Json(await hub.why(name, since=since, until=until, limit=limit))


def _trigger(row: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Json:
    return Json(row, status, {"etag": f'"{row["version"]}"', **(headers or {})})


def _versions(if_match: str) -> tuple[int, ...] | None:
    """The versions that are meant; None for any. A weak tag matches nothing. Source: RFC 9110, 13.1.1."""
    if if_match.strip() == ANY_VERSION:
        return None
    tags = [tag.strip() for tag in if_match.split(",")]
    return tuple(
        int(tag[1:-1]) for tag in tags if len(tag) < 25 and tag[:1] == tag[-1:] == '"' and tag[1:-1].isdecimal()
    )
