"""/v1/agents, /v1/instances, /v1/replicas: what can be called, and who is there to do it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Path, Query

from tocsin.domain.authority import Scope
from tocsin.edges.http import told_fleet
from tocsin.edges.http.asked import After, Cursor, Limit
from tocsin.edges.http.operation import Hub, Json, of_cursor, page
from tocsin.edges.http.routes import Routes

AgentName = Annotated[str, Path(description="The agent's name.", examples=["digest"])]
NameOrId = Annotated[str, Path(description="A name or an id.")]
Everything = Annotated[bool, Query(alias="all", description="Also those that have left or were lost.")]


def add_to(app: FastAPI) -> None:
    read = Scope.READ
    routes = Routes(app, "agents")
    routes.add("GET", "/v1/agents", list_agents, scope=read, told=told_fleet.AgentPage)
    routes.add("GET", "/v1/agents/{name}", show_agent, scope=read, told=told_fleet.Agent, refusals=(404,))
    routes = Routes(app, "instances")
    routes.add("GET", "/v1/instances", list_instances, scope=read, told=told_fleet.InstancePage)
    routes.add("GET", "/v1/instances/{name}", show_instance, scope=read, told=told_fleet.Instance, refusals=(404,))
    routes = Routes(app, "replicas")
    routes.add("GET", "/v1/replicas", list_replicas, scope=read, told=told_fleet.ReplicaPage)
    routes.add("GET", "/v1/replicas/{name}", show_replica, scope=read, told=told_fleet.Replica, refusals=(404,))


async def list_agents(hub: Hub, after: After = None, limit: Limit = 50, cursor: Cursor = None) -> Json:
    """Agents by name, with what they have in hand and who serves them."""
    position = of_cursor(cursor, tuple[str])
    rows = await hub.agents(limit=limit + 1, after=position[0] if position else after)
    return page(rows, limit, "name")


async def show_agent(hub: Hub, name: AgentName) -> Json:
    """One agent with its policy."""
    return Json(await hub.agent(name))


async def list_instances(hub: Hub, everything: Everything = False, limit: Limit = 50, cursor: Cursor = None) -> Json:
    """Processes that run agents elsewhere, the newest first."""
    before = of_cursor(cursor, tuple[datetime, UUID])
    rows = await hub.roster.instances(limit=limit + 1, everything=everything, before=before)
    return page(rows, limit, "started_at", "id")


async def show_instance(hub: Hub, name: NameOrId) -> Json:
    """One instance: what it runs and since when, and why it is suspected, if it is."""
    return Json(await hub.roster.instance(name))


async def list_replicas(hub: Hub, everything: Everything = False, limit: Limit = 50, cursor: Cursor = None) -> Json:
    """Hubs, the newest first."""
    before = of_cursor(cursor, tuple[datetime, UUID])
    rows = await hub.replicas(limit=limit + 1, everything=everything, before=before)
    return page(rows, limit, "started_at", "id")


async def show_replica(hub: Hub, name: NameOrId) -> Json:
    """One hub."""
    return Json(await hub.replica(name))
