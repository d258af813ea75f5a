"""Runs as traces, from the call to the end: a span for the run, and for each attempt two: its wait, and its work.

Ids follow from the run's, so that whichever replica writes an end can tell the span that its attempt's agent was told
of, and the root of all. A span is made when it is over. What a replica had not yet sent when it died is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.util.types import AttributeValue

from tocsin.domain.assignment import Assignment
from tocsin.domain.run import TERMINAL, RunState
from tocsin.domain.trace import (
    SAMPLED,
    attempt_of,
    called_at,
    queued_of,
    read_traceparent,
    root_of,
    trace_of,
    traceparent_of,
)
from tocsin.engine.hands import Hand
from tocsin.engine.observer import Unobserved
from tocsin.otel.pipeline import Pipeline, context_of
from tocsin.store.attempts import Ended
from tocsin.store.runs import Swept
from tocsin.version import __version__

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
ROOT: Final = "run"

Attributes = dict[str, AttributeValue]


@dataclass(slots=True)
class Span:
    """A span that is over. span_id: None for the run's own, which is the root."""

    name: str
    run_id: UUID
    since: datetime
    until: datetime
    attributes: Attributes
    span_id: int | None = None
    event: tuple[str, Attributes] | None = None
    failed: bool = False


class Tracing(Unobserved):
    """An observer. Told on the replica's event loop."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._ids = pipeline.ids
        self._sampler = pipeline.runs.sampler
        self._tracer = pipeline.runs.get_tracer("tocsin", __version__)

    def begun(self, assignments: Sequence[Assignment]) -> None:
        for one in assignments:
            sampled = self._is_sampled(one.run_id)
            one.traceparent = str(traceparent_of(one.run_id, one.fence, sampled=sampled))

    def ended(self, ends: Sequence[tuple[Hand | None, Ended]], *, at: float) -> None:
        for hand, end in ends:
            if hand is not None and hand.task is not None and self._is_sampled(end.run_id):
                self._ended(hand, end, at=at)

    def _ended(self, hand: Hand, end: Ended, *, at: float) -> None:
        one, settlement = hand.assignment, end.settlement
        self._waited(one)
        until = one.started_at + timedelta(seconds=max(0.0, at - hand.begun_at))
        about = _of(one) | _how(settlement.state, settlement.reason)
        if one.fence == 1:
            about["tocsin.lateness_seconds"] = max(0.0, (one.started_at - one.effective_at).total_seconds())
        if settlement.error is not None:
            about["error.type"] = settlement.error.kind
        attempt = Span(
            f"attempt {one.attempt}",
            one.run_id,
            one.started_at,
            until,
            about,
            span_id=attempt_of(one.run_id, one.fence),
            failed=settlement.error is not None,
        )
        if settlement.state is RunState.QUEUED:
            attempt.event = (
                "retry",
                {
                    "tocsin.reason": settlement.reason or "",
                    "tocsin.delay_seconds": settlement.delay.total_seconds(),
                },
            )
        self._tell(attempt)
        if settlement.state in TERMINAL:
            failed = settlement.state is RunState.FAILED
            self._tell(Span(ROOT, one.run_id, _since(one), until, about, failed=failed))

    def _waited(self, one: Assignment) -> None:
        """Told at the end as well: a burst that begins is not the moment to make spans."""
        since = one.available_at if one.fence > 1 and one.available_at is not None else _since(one)
        span_id = queued_of(one.run_id, one.fence)
        self._tell(Span("queued", one.run_id, since, one.started_at, _of(one), span_id=span_id))

    def swept(self, runs: Sequence[Swept]) -> None:
        for run in runs:
            if self._is_sampled(run.run_id):
                self._swept(run)

    def _swept(self, run: Swept) -> None:
        about: Attributes = {
            "tocsin.run.id": str(run.run_id),
            "tocsin.trigger": run.trigger,
            "tocsin.agent": run.agent,
            "tocsin.attempt": run.attempt,
            "tocsin.fence": run.fence,
            **_how(run.state, run.reason),
        }
        name, span_id = f"attempt {run.attempt}", attempt_of(run.run_id, run.fence)
        attempt = Span(name, run.run_id, run.started_at, run.at, about, span_id=span_id, failed=True)
        attempt.event = "lost", {"tocsin.holder": str(run.holder), "tocsin.reason": run.reason}
        self._tell(attempt)
        if RunState(run.state) in TERMINAL:
            since = called_at(run.run_id, run.effective_at, run.started_at)
            self._tell(Span(ROOT, run.run_id, since, run.at, about, failed=run.state == RunState.FAILED))

    def called(self, traceparent: str, run_id: UUID, trigger: str) -> None:
        """Somebody who is traced has called for a run: the two traces point at each other."""
        caller = read_traceparent(traceparent)
        if caller is None:
            return
        about: Attributes = {"tocsin.run.id": str(run_id), "tocsin.trigger": trigger}
        if caller.flags & SAMPLED:
            links = [Link(_context(run_id, root_of(run_id)))]
            self._tracer.start_span("fire", _within(context_of(caller)), attributes=about, links=links).end()
        if self._is_sampled(run_id):
            links = [Link(context_of(caller))]
            parent = _within(_context(run_id, root_of(run_id)))
            self._tracer.start_span("called", parent, attributes=about, links=links).end()

    def _is_sampled(self, run_id: UUID) -> bool:
        """Every replica comes to the same answer, where all have the same sampler, and none that draws lots."""
        decision = self._sampler.should_sample(Context(), trace_of(run_id), ROOT).decision
        return decision in (Decision.RECORD_ONLY, Decision.RECORD_AND_SAMPLE)

    def _tell(self, told: Span) -> None:
        run_id = told.run_id
        if told.span_id is None:
            self._ids.trace_id, self._ids.span_id, parent = trace_of(run_id), root_of(run_id), Context()
        else:
            self._ids.span_id, parent = told.span_id, _within(_context(run_id, root_of(run_id)))
        span = self._tracer.start_span(
            told.name, parent, attributes=told.attributes, start_time=_nanoseconds(told.since)
        )
        until = _nanoseconds(max(told.since, told.until))
        if told.event is not None:
            name, attributes = told.event
            span.add_event(name, attributes, timestamp=until)
        if told.failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=until)
        # A sampler of the user's own may have kept it from being made.
        self._ids.trace_id = self._ids.span_id = None


def _of(one: Assignment) -> Attributes:
    return {
        "tocsin.run.id": str(one.run_id),
        "tocsin.trigger": one.trigger,
        "tocsin.agent": one.agent,
        "tocsin.kind": one.kind,
        "tocsin.attempt": one.attempt,
        "tocsin.fence": one.fence,
    }


def _how(state: str, reason: str | None) -> Attributes:
    return {"tocsin.state": str(state), **({"tocsin.reason": reason} if reason is not None else {})}


def _since(one: Assignment) -> datetime:
    return called_at(one.run_id, one.effective_at, one.started_at)


def _context(run_id: UUID, span_id: int) -> SpanContext:
    return SpanContext(trace_of(run_id), span_id, is_remote=True, trace_flags=TraceFlags(SAMPLED))


def _within(parent: SpanContext) -> Any:
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _nanoseconds(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND * 1_000
