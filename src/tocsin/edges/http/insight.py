"""/v1/decisions, /v1/forecast, /v1/usage: what is ahead and what has been, over many triggers."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query

from tocsin.domain.authority import Scope
from tocsin.domain.run import SkipReason
from tocsin.edges.http import told
from tocsin.edges.http.asked import Cursor, Limit, OfAgent, OfTrigger, Since, Until
from tocsin.edges.http.operation import Hub, Json, of_cursor, page
from tocsin.edges.http.routes import Routes
from tocsin.engine.insight import MOST_HOURS


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "insight")
    routes.add("GET", "/v1/decisions", list_decisions, scope=Scope.READ, told=told.SkippedPage, refusals=(404,))
    routes.add("GET", "/v1/forecast", forecast, scope=Scope.READ, told=told.Forecast)
    routes.add("GET", "/v1/now", now, scope=Scope.READ, told=told.Now)
    routes.add("GET", "/v1/usage", usage, scope=Scope.READ, told=told.Usage, refusals=(404,))


async def list_decisions(
    hub: Hub,
    *,
    trigger: OfTrigger = None,
    reason: Annotated[SkipReason | None, Query(description="Only for this reason.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Occurrences that became no run, or whose run was skipped, the latest decision first.

    The range is of when that was decided, and the last 24 hours unless it is told otherwise.
    """
    rows = await hub.insight.decisions(
        limit=limit + 1,
        since=since,
        until=until,
        trigger=trigger,
        reason=reason,
        before=of_cursor(cursor, tuple[datetime, str]),
    )
    return page(rows, limit, "decided_at", "key")


async def forecast(
    hub: Hub, hours: Annotated[float, Query(ge=0.01, le=MOST_HOURS, description="How far to look ahead.")] = 24
) -> Json:
    """The load ahead: fires by minute, what falls together, herds."""
    return Json(await hub.insight.forecast(hours))


async def usage(
    hub: Hub,
    *,
    by: Annotated[
        list[Literal["agent", "trigger", "model", "day"]] | None,
        Query(description="By what to add up; may be given again. By agent, when left out."),
    ] = None,
    since: Since = None,
    until: Until = None,
    agent: OfAgent = None,
    trigger: OfTrigger = None,
) -> Json:
    """What agents have reported with ``run.usage``, every number added up.

    The range is of when the runs began, and the last 24 hours unless it is told otherwise. A run that was queued more
    than a day before the range is not looked for.
    """
    return Json(await hub.insight.usage(by=by or ("agent",), since=since, until=until, agent=agent, trigger=trigger))


async def now(hub: Hub) -> Json:
    """The database's instant, which is the only wall clock that counts."""
    return Json({"now": await hub.now()})
