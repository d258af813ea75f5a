"""/v1/stream: every transition of every run as it is committed, to whoever follows along."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Header, Query, Request, Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from tocsin.domain.agent import MAX_NAME
from tocsin.domain.authority import Scope as Authority
from tocsin.domain.feed import MAX_POSITION, Position, Wanted
from tocsin.domain.run import RunKind, RunState
from tocsin.edges.http import told
from tocsin.edges.http.operation import ByWhom, Edge
from tocsin.edges.http.problems import Problem
from tocsin.edges.http.routes import Routes
from tocsin.edges.http.streams import Stream, Streams
from tocsin.engine.control import Control

Names = list[Annotated[str, Field(max_length=MAX_NAME)]]
Several = Query(max_length=50, description="Only of these; may be given again.")


class EventStream(Response):
    """An answer that goes on. Its media type is told with the stream: here, the framework would describe it as text."""

    def __init__(self, streams: Streams, stream: Stream) -> None:
        super().__init__()
        self._streams = streams
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream.serve(receive, send)
        finally:
            self._streams.close(self._stream)


def add_to(app: FastAPI) -> None:
    routes = Routes(app, "stream")
    routes.add(
        "GET",
        "/v1/stream",
        follow,
        scope=Authority.READ,
        told=told.StreamedTransition,
        streamed_as=EventStream,
        refusals=(404,),
    )


async def follow(
    request: Request,
    asked: ByWhom,
    *,
    trigger: Annotated[Names | None, Several] = None,
    agent: Annotated[Names | None, Several] = None,
    run: Annotated[list[UUID] | None, Several] = None,
    state: Annotated[list[RunState] | None, Query(description="Only into these states.")] = None,
    kind: Annotated[list[RunKind] | None, Query(description="Only of runs of these kinds.")] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            max_length=MAX_POSITION,
            description="Go on after this event, whichever replica has told it.",
            examples=["7a1ebb83e24d.2f3+1.2f5+0.4d"],
        ),
    ] = None,
) -> Response:
    """Every transition as it is committed, as server-sent events.

    `transition` tells one, of the form shown; its id says where to go on, on any replica. `gap`: what came before may
    be missing; read the runs anew. `end`: the stream ends, and may be opened again. Those of one run come in order.
    """
    edge: Edge = request.app.state.edge
    after = None if last_event_id is None else Position.of_text(last_event_id)
    if after is None:
        await _check(asked.control, trigger or (), agent or (), run or ())
    if edge.streams.is_full:
        raise Problem(
            503,
            "too_many_streams",
            f"{edge.streams.most} streams are open here: try another replica, or later",
            headers={"retry-after": "5"},
        )
    wanted = Wanted.of(triggers=trigger, agents=agent, runs=[str(one) for one in run or ()], states=state, kinds=kind)
    return EventStream(edge.streams, await edge.streams.open(asked.caller, wanted, after))


async def _check(hub: Control, triggers: Sequence[str], agents: Sequence[str], runs: Sequence[UUID]) -> None:
    """A name that is misspelt would never be heard of. Raises: NotFound."""
    for trigger in triggers:
        await hub.trigger(trigger)
    for agent in agents:
        await hub.agent(agent)
    for run in runs:
        await hub.run(run)
