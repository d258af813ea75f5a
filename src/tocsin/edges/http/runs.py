"""/v1/runs: what was called, and how it ended."""

from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Path, Query

from tocsin.domain.authority import Scope
from tocsin.domain.run import RunState
from tocsin.edges.http import told
from tocsin.edges.http.asked import Cursor, Limit, OfAgent, OfTrigger, Since, Until
from tocsin.edges.http.operation import ByWhom, Hub, Json, of_cursor, page
from tocsin.edges.http.routes import Routes

RunId = Annotated[UUID, Path(description="The run's id.")]


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "runs")
    one, detail = "/v1/runs/{run}", told.RunDetail
    routes.add("GET", "/v1/runs", list_runs, scope=Scope.READ, told=told.RunPage, refusals=(404,))
    routes.add("GET", one, show_run, scope=Scope.READ, told=detail, refusals=(404,))
    routes.add("POST", f"{one}/cancel", cancel_run, scope=Scope.OPERATE, told=detail, refusals=(404, 409))
    routes.add("POST", f"{one}/retry", retry_run, scope=Scope.OPERATE, told=detail, status=201, refusals=(404, 409))


async def list_runs(
    hub: Hub,
    *,
    trigger: OfTrigger = None,
    agent: OfAgent = None,
    state: Annotated[list[RunState] | None, Query(description="Only in these states; may be given again.")] = None,
    since: Since = None,
    until: Until = None,
    before: Annotated[UUID | None, Query(description="Only those with a lesser id: what was queued before it.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Runs, the newest first. The range is of when they were queued."""
    position = of_cursor(cursor, tuple[UUID])
    rows = await hub.runs(
        limit=limit + 1,
        trigger=trigger,
        agent=agent,
        states=state or None,
        before=position[0] if position else before,
        since=since,
        until=until,
    )
    return page(rows, limit, "id")


async def show_run(hub: Hub, run: RunId) -> Json:
    """One run with its transitions, what its attempts told (progress, usage, log) and late results."""
    return Json(await hub.run(run))


async def cancel_run(hub: Hub, run: RunId) -> Json:
    """Cancel a queued run; ask a running one to stop."""
    return Json(await hub.cancel_run(run))


async def retry_run(by: ByWhom, run: RunId) -> Json:
    """A new run with the input of one that has ended; the old one stays as it is."""
    new = await by.control.retry_run(run, key=by.own_key)
    return Json(new, 201, {"location": f"/v1/runs/{new['id']}"})
