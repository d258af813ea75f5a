"""``/metrics``, for whoever may read. Keys that were known before the database went away open it meanwhile."""

from typing import Final

from fastapi import FastAPI, Request, Response

from tocsin.domain.authority import Scope
from tocsin.edges.http.operation import Edge
from tocsin.edges.metrics.page import Metrics

PATH: Final = "/metrics"

KEYS_WITHIN: Final = 2.0
"""Seconds that the database has for telling which keys there are."""


def add_to(app: FastAPI, metrics: Metrics) -> None:
    async def told(request: Request) -> Response:
        edge: Edge = request.app.state.edge
        await edge.gate.admit(request, Scope.READ, patience=KEYS_WITHIN)
        page, media = await metrics.page(request.headers.get("accept", ""))
        return Response(page, media_type=media)

    app.add_route(PATH, told, methods=["GET"], include_in_schema=False)
