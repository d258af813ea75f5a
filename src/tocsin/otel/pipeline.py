"""Where spans go: to the exporters that OTEL_TRACES_EXPORTER names, else by OTLP, in batches, on threads of their own.

Nobody waits for an exporter. What it does not take in time is dropped, oldest first; that it fails is logged once. A
process that leaves gives it two seconds for the rest.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from typing import Any, Final, Self

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import BadInput
from tocsin.domain.trace import Traceparent, read_traceparent
from tocsin.telemetry import Log
from tocsin.version import __version__

LEAVES_WITHIN: Final = 2.0
"""Seconds that the last spans have."""

GROUP: Final = "opentelemetry_traces_exporter"


class FollowingIds(RandomIdGenerator):
    """The next span's ids are those that were laid out for it; others are random."""

    def __init__(self) -> None:
        self.trace_id: int | None = None
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        laid_out, self.trace_id = self.trace_id, None
        return laid_out or super().generate_trace_id()

    def generate_span_id(self) -> int:
        laid_out, self.span_id = self.span_id, None
        return laid_out or super().generate_span_id()


class Pipeline:
    """runs: makes our spans, on one thread. Agents' own spans come from a provider of their own, which is made the
    global one unless the app has set another.
    """

    def __init__(self, exporters: Sequence[SpanExporter], *, instance: str, log: Log) -> None:
        resource = Resource.create(_described(instance))
        self.ids = FollowingIds()
        self.runs = TracerProvider(resource=resource, id_generator=self.ids, shutdown_on_exit=False)
        self.agents = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._processors = [BatchSpanProcessor(_Watched(exporter, log)) for exporter in exporters]
        for processor in self._processors:
            self.runs.add_span_processor(processor)
            self.agents.add_span_processor(processor)

    @classmethod
    def from_environment(cls, *, instance: str, log: Log) -> Self:
        """Raises: BadInput, naming the variable."""
        # What goes wrong with an exporter is told once, by us.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        names = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",") if name.strip()]
        pipeline = cls([_exporter(name) for name in names], instance=instance, log=log)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(pipeline.agents)
        log.info("traces.on", exporters=names)
        return pipeline

    @contextmanager
    def within(self, assignment: Assignment) -> Iterator[None]:
        """Spans that are begun here, by whomever, are the attempt's."""
        place = read_traceparent(assignment.traceparent or "")
        if place is None:
            yield
            return
        token = attach(trace.set_span_in_context(NonRecordingSpan(context_of(place))))
        try:
            yield
        finally:
            detach(token)

    async def close(self) -> None:
        """The last spans are out, or their time is up."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def leave() -> None:
            self._shut_down()
            with suppress(RuntimeError):  # nobody has waited for so long
                loop.call_soon_threadsafe(gone.set)

        # A daemon: the process can end though an exporter hangs.
        threading.Thread(target=leave, name="tocsin-traces-leave", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVES_WITHIN):
                await gone.wait()

    def _shut_down(self) -> None:
        for processor in self._processors:
            processor.shutdown()  # type: ignore[no-untyped-call]  # as the library has it


def context_of(place: Traceparent) -> SpanContext:
    return SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=TraceFlags(place.flags))


class _Watched(SpanExporter):
    """An exporter that never raises, and of whose failures the first in a row is logged."""

    def __init__(self, exporter: SpanExporter, log: Log) -> None:
        self._exporter = exporter
        self._log = log
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        error = ""
        try:
            result = self._exporter.export(spans)
        except Exception as failure:  # whatever it is, it is not the engine's affair
            result, error = SpanExportResult.FAILURE, type(failure).__name__
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            self._log.warning("traces.failed", spans=len(spans), error=error or "the exporter could not send them")
        elif self._fails and not fails:
            self._log.info("traces.recovered")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _described(instance: str) -> dict[str, Any]:
    """Us; the environment's word on the service's name goes before ours."""
    told = {"service.version": __version__, "service.instance.id": instance}
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return told if named else {"service.name": "tocsin", **told}


def _exporter(name: str) -> SpanExporter:
    """Raises: BadInput."""
    wanted = name
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        wanted = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = list(entry_points(group=GROUP, name=wanted))
    if not found:
        there = ", ".join(sorted({one.name for one in entry_points(group=GROUP)})) or "none"
        raise BadInput(f"OTEL_TRACES_EXPORTER={name}: no exporter {wanted} is installed; there is {there}")
    try:
        made: SpanExporter = found[0].load()()
    except Exception as error:  # of whoever wrote it; most likely a variable that it could not read
        raise BadInput(f"OTEL_TRACES_EXPORTER={name}: it could not be set up: {error}") from error
    return made
