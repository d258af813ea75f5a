"""What watches a replica of this process: its counts, and the traces of its runs, where somebody wants them."""

import os
import socket
from typing import TYPE_CHECKING
from uuid import UUID

from tocsin.edges.metrics.tally import Tally
from tocsin.engine.observer import Both, Observer
from tocsin.executors.inprocess import Within, nothing
from tocsin.otel.wanted import open_pipeline
from tocsin.telemetry import Log

if TYPE_CHECKING:
    from tocsin.otel.pipeline import Pipeline
    from tocsin.otel.tracing import Tracing


class Watching:
    """observer: to be told by the replica. within: surrounds agents that are functions. limit: see Tally."""

    def __init__(self, *, limit: int, log: Log) -> None:
        self.tally = Tally(limit=limit)
        self.observer: Observer = self.tally
        self.within: Within = nothing
        self._tracing: Tracing | None = None
        self._pipeline: Pipeline | None = open_pipeline(instance=f"{socket.gethostname()}:{os.getpid()}", log=log)
        if self._pipeline is not None:
            self._trace(self._pipeline)

    def _trace(self, pipeline: "Pipeline") -> None:
        from tocsin.otel.tracing import Tracing  # noqa: PLC0415

        self._tracing = Tracing(pipeline)
        self.observer, self.within = Both(self.tally, self._tracing), pipeline.within

    def called(self, traceparent: str, run_id: UUID, trigger: str) -> None:
        """Somebody who is traced has called for a run."""
        if self._tracing is not None:
            self._tracing.called(traceparent, run_id, trigger)

    async def close(self) -> None:
        """The last spans are out, or their time is up; after the replica has left."""
        if self._pipeline is not None:
            await self._pipeline.close()
