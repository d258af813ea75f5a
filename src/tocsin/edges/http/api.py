"""The API: every operation on one application, and its description."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tocsin.clock import SystemClock
from tocsin.domain.errors import TocsinError
from tocsin.edges.http import audit, events, fleet, insight, keys, metrics, runs, stream, triggers
from tocsin.edges.http.describe import described
from tocsin.edges.http.gate import Gate
from tocsin.edges.http.once import Once
from tocsin.edges.http.operation import Edge, Operation
from tocsin.edges.http.problems import (
    DESCRIPTION_AT,
    Problem,
    on_broken,
    on_error,
    on_gone,
    on_http,
    on_invalid,
    on_problem,
)
from tocsin.edges.http.streams import Streams
from tocsin.edges.http.throttle import Throttle
from tocsin.edges.metrics.page import Metrics
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.engine.keys import KeyRing
from tocsin.hub import Replica
from tocsin.store.answers import Answers
from tocsin.store.database import Database
from tocsin.store.feed import Feed
from tocsin.telemetry import Log
from tocsin.version import __version__

MOST_ACTORS: Final = 1_000
"""In whose names operations are kept at hand."""


def api_of(
    *, database: Database, of_hooks: Database, replica: Replica, watching: Watching, is_local: bool, log: Log
) -> tuple[FastAPI, Streams]:
    """The API of a replica, on sessions of its own, and its streams, which are to be entered.

    of_hooks: sessions of which metrics tell, too. watching: the replica. is_local: only processes of this host can
    reach it.
    """
    clock = SystemClock()
    controls: dict[str, Control] = {}

    def control(actor: str) -> Control:
        if actor not in controls:
            if len(controls) >= MOST_ACTORS:
                controls.clear()
            controls[actor] = Control(
                database=database,
                clock=clock,
                actor=actor,
                desk=replica.desk,
                hearing=replica.hearing,
                log=log,
                observer=replica.observer,
            )
        return controls[actor]

    gate = Gate(
        ring=KeyRing(database=database, clock=clock), throttle=Throttle(clock=clock), is_local=is_local, log=log
    )
    once = Once(answers=Answers(database=database, clock=clock), log=log)
    streams = Streams(
        feed=Feed(database=database, clock=clock),
        admits=gate.still_admits,
        clock=clock,
        log=log,
        most=replica.settings.streams,
    )
    app = make_api(Edge(control=control, gate=gate, once=once, streams=streams, log=log, called=watching.called))
    beside = {"api": database, "hooks": of_hooks}
    metrics.add_to(app, Metrics(replica=replica, beside=beside, tally=watching.tally, clock=clock, log=log))
    # Made here, in the caller's thread, it holds nobody up when it is first asked for.
    app.openapi()
    return app, streams


def make_api(edge: Edge) -> FastAPI:
    """The application. It takes a second to make, once."""
    app = FastAPI(
        title="Tocsin",
        version=__version__,
        openapi_url=DESCRIPTION_AT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.router.route_class = Operation
    app.state.edge = edge
    app.state.log = edge.log
    for noun in (triggers, runs, events, stream, fleet, insight, keys, audit):
        noun.add_to(app)
    app.add_exception_handler(Exception, on_broken)
    app.add_exception_handler(ClientDisconnect, on_gone)
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(TocsinError, on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """The description is made when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way
