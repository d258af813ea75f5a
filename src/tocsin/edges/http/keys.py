"""/v1/keys: who may do what."""

from typing import Annotated

from fastapi import FastAPI, Path

from tocsin.domain.authority import Scope
from tocsin.edges.http import asked, told_fleet
from tocsin.edges.http.operation import Hub, Json
from tocsin.edges.http.routes import Routes

KeyName = Annotated[str, Path(description="The key's name.")]


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "keys")
    admin = Scope.ADMIN
    routes.add("GET", "/v1/keys", list_keys, scope=admin, told=told_fleet.Keys)
    routes.add(
        "POST",
        "/v1/keys",
        create_key,
        scope=admin,
        told=told_fleet.CreatedKey,
        status=201,
        refusals=(409,),
        own_key=True,
    )
    routes.add("DELETE", "/v1/keys/{name}", revoke_key, scope=admin, told=told_fleet.Revoked, refusals=(404,))


async def list_keys(hub: Hub) -> Json:
    """Keys by name, with what they are for and when they were used last."""
    return Json({"items": await hub.keys.all()})


async def create_key(hub: Hub, body: asked.NewKey) -> Json:
    """A new key. It is told in this answer and never again.

    An answer that holds a key is not kept for whoever asks again: its name is taken then, and the second request is
    refused.
    """
    row = await hub.keys.create(body.name, scopes=body.scopes, agents=body.agents, expires_at=body.expires_at)
    return Json(row, 201)


async def revoke_key(hub: Hub, name: KeyName) -> Json:
    """The key opens nothing any more, within a second on every replica."""
    await hub.keys.revoke(name)
    return Json({"key": name, "revoked": True})
