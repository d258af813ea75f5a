"""/v1/audit: who did what, when, to which thing."""

from typing import Annotated

from fastapi import FastAPI, Query

from tocsin.domain.audit import Action
from tocsin.domain.authority import Scope
from tocsin.edges.http import told
from tocsin.edges.http.asked import Before, Cursor, Limit, OfTrigger, Since, Until
from tocsin.edges.http.operation import Hub, Json, of_cursor, page
from tocsin.edges.http.routes import Routes


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "audit")
    # A reader may not list keys, and records of keys say as much.
    routes.add("GET", "/v1/audit", list_audit, scope=Scope.ADMIN, told=told.DeedPage, refusals=(404,))


async def list_audit(
    hub: Hub,
    *,
    trigger: OfTrigger = None,
    actor: Annotated[str | None, Query(max_length=500, description="Only by this actor, as it is told.")] = None,
    action: Annotated[Action | None, Query(description="Only what was done in this way.")] = None,
    since: Since = None,
    until: Until = None,
    before: Before = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Who did what, when, to which thing, the latest first.

    With ``trigger``, also of one that was deleted, and with its runs and backfills.
    """
    position = of_cursor(cursor, tuple[int])
    rows = await hub.audit(
        limit=limit + 1,
        trigger=trigger,
        actor=actor,
        action=action,
        since=since,
        until=until,
        before=position[0] if position else before,
    )
    return page(rows, limit, "id")
