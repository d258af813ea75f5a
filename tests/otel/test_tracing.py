"""A run is one trace, whoever holds it: its spans, what its agent is told, and that nobody waits for an exporter."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.edges.http.client import Client
from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import SECOND, Heard, World, a_replica, a_trigger, an_app, an_end, eventually, no_agent
from tocsin import cron
from tocsin.domain.agent import OnLost
from tocsin.domain.errors import Fatal
from tocsin.domain.run import Succeeded
from tocsin.domain.trace import attempt_of, read_traceparent, root_of, trace_of, traceparent_of
from tocsin.domain.trigger import Overlap
from tocsin.edges.http.api import api_of
from tocsin.edges.metrics.tally import Tally
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.engine.observer import Both
from tocsin.hub import Replica
from tocsin.otel.pipeline import Pipeline
from tocsin.otel.tracing import Tracing
from tocsin.run import Run
from tocsin.store.database import Database

pytestmark = pytest.mark.anyio

TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Traced:
    """A pipeline into memory, and its observer."""

    def __init__(self, *exporters: SpanExporter) -> None:
        self.exporter = InMemorySpanExporter()
        self.log = Heard()
        self.pipeline = Pipeline(exporters or [self.exporter], instance="test", log=self.log)
        self.observer = Tracing(self.pipeline)
        self.watching = Watching(limit=1, log=self.log)
        self.watching._tracing = self.observer

    def spans(self, run_id: UUID | None = None) -> dict[str, ReadableSpan]:
        """By name, all that is over; of one run."""
        for processor in self.pipeline._processors:
            processor.force_flush()
        found = self.exporter.get_finished_spans()
        return {span.name: span for span in found if run_id is None or about(span)["tocsin.run.id"] == str(run_id)}


def about(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


def ids(span: ReadableSpan) -> tuple[int, int, int | None]:
    """(trace, parent or 0, span)"""
    return span.context.trace_id, span.context.span_id, span.parent.span_id if span.parent else None


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    traced = Traced()
    yield traced
    await traced.pipeline.close()


@pytest.fixture
async def control(dsn: str) -> AsyncIterator[Control]:
    async with a_control(dsn) as control:
        yield control


@asynccontextmanager
async def serving(
    dsn: str, agents: Mapping[str, Callable[..., Any]], traced: Traced, **options: Any
) -> AsyncIterator[Replica]:
    observer = Both(Tally(limit=10), traced.observer)
    async with a_replica(dsn, agents, observer=observer, within=traced.pipeline.within, **options) as replica:
        yield replica


async def ended(control: Control, run_id: UUID) -> dict[str, Any]:
    async def is_over() -> dict[str, Any] | None:
        shown = await control.run(run_id)
        return shown if shown["finished_at"] is not None else None

    shown: dict[str, Any] = await eventually(is_over)
    return shown


async def told(traced: Traced, run_id: UUID, *names: str) -> dict[str, ReadableSpan]:
    """The run's spans, once these are among them: an end is told of when it is written, which others may see first."""
    await eventually(lambda: set(names) <= set(traced.spans(run_id)), what=f"{names}")
    return traced.spans(run_id)


# --- spans


async def test_a_run_is_a_trace_of_its_wait_and_its_attempt(dsn: str, control: Control, traced: Traced) -> None:
    async def agent() -> None:
        await asyncio.sleep(0.05)

    await control.declare(an_app(a_trigger("t"), agents={"agent": agent}))
    async with serving(dsn, {"agent": agent}, traced):
        run_id = (await control.fire("t"))["id"]
        shown = await ended(control, run_id)
        spans = await told(traced, run_id, "run")
    assert set(spans) == {"queued", "attempt 1", "run"}
    root = spans["run"]
    assert ids(root) == (trace_of(run_id), root_of(run_id), None)
    assert ids(spans["attempt 1"]) == (trace_of(run_id), attempt_of(run_id, 1), root_of(run_id))
    assert ids(spans["queued"])[2] == root_of(run_id)
    assert dict(about(root)) == {
        "tocsin.run.id": str(run_id),
        "tocsin.trigger": "t",
        "tocsin.agent": "agent",
        "tocsin.kind": "manual",
        "tocsin.attempt": 1,
        "tocsin.fence": 1,
        "tocsin.state": "succeeded",
        "tocsin.lateness_seconds": pytest.approx((shown["started_at"] - shown["effective_at"]).total_seconds()),
    }
    assert root.status.status_code is StatusCode.UNSET
    assert root.resource.attributes["service.name"] == "tocsin"
    started = round(shown["started_at"].timestamp() * 1e6)
    assert times(spans["queued"])[1] == times(spans["attempt 1"])[0] == started * 1_000
    assert times(root)[0] == times(spans["queued"])[0]
    assert times(root)[1] == times(spans["attempt 1"])[1]
    assert 0.05 <= (times(root)[1] - times(spans["attempt 1"])[0]) / 1e9 < 30


async def test_an_occurrence_of_a_schedule_begins_at_its_instant(dsn: str, control: Control, traced: Traced) -> None:
    await control.declare(an_app(a_trigger("t", cron("* * * * * *"))))
    async with serving(dsn, {"agent": no_agent}, traced):
        await eventually(lambda: "run" in traced.spans())
        root = traced.spans()["run"]
    shown = await control.run(UUID(str(about(root)["tocsin.run.id"])))
    assert about(root)["tocsin.kind"] == "schedule"
    # At the instant, or when it was written, a moment later.
    assert (
        0 <= times(root)[0] / 1e9 - shown["effective_at"].timestamp() <= about(root)["tocsin.lateness_seconds"] + 0.001
    )


async def test_a_retry_is_an_event_of_one_attempt_and_the_next_is_a_span_of_the_same_trace(
    dsn: str, control: Control, traced: Traced
) -> None:
    async def agent(run: Run) -> None:
        raise ValueError("secret-planted") if run.attempt == 1 else Fatal("no")

    policy: dict[str, Any] = {"max_attempts": 3, "backoff_base": SECOND / 50}
    await control.declare(an_app(a_trigger("t"), agents={"agent": agent}, **policy))
    async with serving(dsn, {"agent": agent}, traced, policy=policy):
        run_id = (await control.fire("t"))["id"]
        await ended(control, run_id)
        spans = await told(traced, run_id, "run")
    first, second, root = spans["attempt 1"], spans["attempt 2"], spans["run"]
    assert {span.context.trace_id for span in spans.values()} == {trace_of(run_id)}
    assert {span.parent.span_id for span in (first, second) if span.parent} == {root_of(run_id)}
    (retry,) = first.events
    assert retry.name == "retry"
    assert retry.attributes is not None
    assert retry.attributes["tocsin.reason"] == "retry"
    assert 0 <= float(str(retry.attributes["tocsin.delay_seconds"])) <= 1
    assert (about(first)["tocsin.state"], about(first)["error.type"]) == ("queued", "ValueError")
    assert (about(second)["tocsin.state"], about(second)["tocsin.fence"], about(second)["error.type"]) == (
        "failed",
        2,
        "Fatal",
    )
    assert not second.events
    assert root.status.status_code is first.status.status_code is StatusCode.ERROR
    assert times(root)[0] <= times(first)[0] < times(second)[0]
    # The latter of the two: from when the retry's delay was over, which may be none, to the second attempt's begin.
    assert times(first)[0] < times(spans["queued"])[0] <= times(spans["queued"])[1] == times(second)[0]
    # What an error says may be anything, and goes nowhere.
    assert not [span for span in spans.values() if "secret-planted" in span.to_json()]


async def test_another_replica_goes_on_with_the_trace_of_one_that_died(world: World) -> None:
    """Each has a pipeline of its own; together they are one trace."""
    await world.declare(a_trigger("t", overlap=Overlap.ALLOW))
    one, other = Traced(), Traced()
    peer, heir = await world.peer(), await world.peer()
    run_id = await world.queue(max_attempts=3)
    peer.runner._observer = peer.settler._observer = one.observer
    heir.runner._observer = heir.settler._observer = heir.sweeper._observer = other.observer
    await peer.runner.run_once()
    world.clock.turn(31)
    await heir.leases.renew([], lease=timedelta(seconds=30))
    heir.sweeper._judges_from = 0
    await heir.sweeper.run_once()
    lost = other.spans()["attempt 1"]
    assert not one.spans()
    assert ids(lost) == (trace_of(run_id), attempt_of(run_id, 1), root_of(run_id))
    assert lost.status.status_code is StatusCode.ERROR
    (event,) = lost.events
    assert event.name == "lost"
    assert event.attributes is not None
    assert event.attributes["tocsin.holder"] == str(peer.who.holder)
    assert times(lost)[1] - times(lost)[0] == 31_000_000_000
    await heir.runner.run_once()
    await asyncio.sleep(0)
    await heir.executor.end_all(Succeeded(b"1"))  # type: ignore[attr-defined]  # a scripted one
    await heir.settler.run_once()
    spans = other.spans()
    assert ids(spans["run"]) == (trace_of(run_id), root_of(run_id), None)
    assert about(spans["run"])["tocsin.fence"] == 2
    assert spans["attempt 1"].context.span_id == attempt_of(run_id, 2)


async def test_a_run_that_its_loss_ends_has_its_root_from_whoever_found_it(world: World) -> None:
    await world.declare(a_trigger("t", overlap=Overlap.ALLOW), on_lost=OnLost.FAIL)
    traced = Traced()
    peer, heir = await world.peer(), await world.peer()
    run_id = await world.queue()
    await peer.claim_one()
    world.clock.turn(31)
    heir.sweeper._observer = traced.observer
    heir.sweeper._judges_from = 0
    await heir.sweeper.run_once()
    root = traced.spans()["run"]
    assert ids(root) == (trace_of(run_id), root_of(run_id), None)
    assert (about(root)["tocsin.state"], about(root)["tocsin.reason"]) == ("failed", "lost")


async def test_an_end_that_came_too_late_is_in_no_trace(world: World) -> None:
    await world.declare(a_trigger("t", overlap=Overlap.ALLOW))
    traced = Traced()
    peer, heir = await world.peer(), await world.peer()
    await world.queue(max_attempts=3)
    held = await peer.claim_one()
    world.clock.turn(31)
    await heir.sweep()
    peer.settler._observer = traced.observer
    peer.settler.put(None, an_end(held))
    await peer.settler.run_once()
    assert not traced.spans()


# --- what agents are told


async def test_agents_of_this_process_run_within_their_attempt(dsn: str, control: Control, traced: Traced) -> None:
    """Both kinds: by ``run.traceparent``, and as OpenTelemetry's own present span, so that theirs are its children."""
    tracer = traced.pipeline.agents.get_tracer("an agent's")
    seen: dict[str, Any] = {}

    async def async_agent(run: Run) -> None:
        with tracer.start_as_current_span("async work"):
            await asyncio.sleep(0)
        seen["async"] = run.traceparent, trace.get_current_span().get_span_context()

    def plain_agent(run: Run) -> None:
        with tracer.start_as_current_span("plain work"):
            pass
        seen["plain"] = run.traceparent, trace.get_current_span().get_span_context()

    agents = {"async": async_agent, "plain": plain_agent}
    await control.declare(an_app(*(a_trigger(name, agent=name) for name in agents), agents=agents))
    async with serving(dsn, agents, traced):
        runs = {name: (await control.fire(name))["id"] for name in agents}
        for run_id in runs.values():
            await ended(control, run_id)
    for processor in traced.pipeline._processors:
        processor.force_flush()
    work = {span.name: span for span in traced.exporter.get_finished_spans()}
    for name, run_id in runs.items():
        place = traceparent_of(run_id, 1, sampled=True)
        traceparent, context = seen[name]
        assert traceparent == str(place)
        assert (context.trace_id, context.span_id) == (place.trace_id, place.span_id)
        own = work[f"{name} work"]
        assert own.context.trace_id == place.trace_id
        assert own.parent is not None
        assert own.parent.span_id == place.span_id
        assert own.context.span_id not in (place.span_id, root_of(run_id))


async def test_an_agent_elsewhere_is_told_with_its_assignment(dsn: str, traced: Traced) -> None:
    async with (
        a_control(dsn, a_trigger("t")) as control,
        a_hub(dsn, observer=traced.observer) as hub,
        Process(hub.address) as process,
    ):
        await process.hello()
        await process.credit(1)
        run_id = (await control.fire("t"))["id"]
        (run,) = await process.assigned()
        assert run.traceparent == str(traceparent_of(run_id, 1, sampled=True))
        await process.finish(run)
        spans = await told(traced, run_id, "run")
        assert set(spans) == {"queued", "attempt 1", "run"}


async def test_where_nothing_is_traced_nobody_is_told_anything(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        (run,) = await process.assigned()
        assert run.traceparent == ""


async def test_a_run_that_is_not_sampled_has_no_spans_and_its_agent_is_told_so(
    dsn: str, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traced = Traced()
    seen: list[str | None] = []

    async def agent(run: Run) -> None:
        seen.append(run.traceparent)

    await control.declare(an_app(a_trigger("t"), agents={"agent": agent}))
    async with serving(dsn, {"agent": agent}, traced):
        await ended(control, (await control.fire("t"))["id"])
    place = read_traceparent(seen[0] or "")
    assert place is not None
    assert place.flags == 0
    assert not traced.spans()
    await traced.pipeline.close()


async def test_a_share_of_runs_is_sampled_whole(dsn: str, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    traced = Traced()
    await control.declare(an_app(a_trigger("t", overlap=Overlap.ALLOW)))
    async with serving(dsn, {"agent": no_agent}, traced):
        runs = [one["id"] for one in await control.fire_many("t", [(None, None)] * 200)]
        for run_id in runs:
            await ended(control, run_id)
    whole: dict[str, set[str]] = {}
    traced.spans()
    for span in traced.exporter.get_finished_spans():
        whole.setdefault(str(about(span)["tocsin.run.id"]), set()).add(span.name)
    assert 25 < len(whole) < 100
    assert set(map(frozenset, whole.values())) == {frozenset({"queued", "attempt 1", "run"})}
    await traced.pipeline.close()


# --- whoever calls by HTTP, and is traced


async def test_a_caller_s_trace_and_the_run_s_point_at_each_other(dsn: str, control: Control, traced: Traced) -> None:
    await control.declare(an_app(a_trigger("t", overlap=Overlap.ALLOW)))
    database = Database(dsn, size=2)
    try:
        async with serving(dsn, {"agent": no_agent}, traced) as replica:
            app, _ = api_of(
                database=database,
                of_hooks=database,
                replica=replica,
                watching=traced.watching,
                is_local=True,
                log=Heard(),
            )
            client = Client(app, Heard())
            for _ in range(2):
                answer = await client.post("/v1/triggers/t/fire", once="deploy-42", traceparent=TRACED)
            assert answer.status == 200
            for nothing in ("", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"):
                assert (await client.post("/v1/triggers/t/fire", traceparent=nothing)).status == 201
            run_id = UUID(answer.json["id"])
            await ended(control, run_id)
    finally:
        await database.close()
    caller = read_traceparent(TRACED)
    assert caller is not None
    traced.spans()
    spans = [span for span in traced.exporter.get_finished_spans() if span.name in ("fire", "called")]
    assert sorted(span.name for span in spans) == ["called", "fire"]
    fire, called = (next(span for span in spans if span.name == name) for name in ("fire", "called"))
    assert fire.parent is not None
    assert called.parent is not None
    assert (fire.context.trace_id, fire.parent.span_id) == (caller.trace_id, caller.span_id)
    assert [(link.context.trace_id, link.context.span_id) for link in fire.links] == [
        (trace_of(run_id), root_of(run_id))
    ]
    assert (called.context.trace_id, called.parent.span_id) == (trace_of(run_id), root_of(run_id))
    assert [(link.context.trace_id, link.context.span_id) for link in called.links] == [
        (caller.trace_id, caller.span_id)
    ]


# --- exporters


class Hanging(SpanExporter):
    """Never comes back."""

    def __init__(self) -> None:
        self.asked = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.asked += len(spans)
        threading.Event().wait(60)
        return SpanExportResult.FAILURE


class Failing(SpanExporter):
    """Fails until it is mended."""

    mended = False

    def export(self, spans: Any) -> SpanExportResult:
        if self.mended:
            return SpanExportResult.SUCCESS
        raise OSError("nobody there")


async def test_an_exporter_that_hangs_delays_no_run_and_no_drain(
    dsn: str, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50")
    loop = asyncio.get_running_loop()
    hanging = Hanging()
    traced = Traced(hanging)
    await control.declare(an_app(a_trigger("t", overlap=Overlap.ALLOW)))
    async with serving(dsn, {"agent": no_agent}, traced) as replica:
        began = loop.time()
        await control.fire_many("t", [(None, None)] * 1_000)

        async def over() -> bool:
            return not await control.runs(limit=1, states=None) or (
                len(replica.hands) == 0 and await _done(control, 1_000)
            )

        await eventually(over, within=20)
        assert hanging.asked
        left = loop.time()
    assert loop.time() - left < 3
    left = loop.time()
    await traced.pipeline.close()
    assert 1.5 < loop.time() - left < 5
    assert left - began < 20


async def _done(control: Control, count: int) -> bool:
    summary = await control.summary(await control.now() - timedelta(hours=1))
    return bool(summary["succeeded"] == count)


async def test_that_an_exporter_fails_is_told_once_and_that_it_works_again(traced: Traced) -> None:
    failing = Failing()
    other = Traced(failing)
    tracer = other.pipeline.agents.get_tracer("x")
    for _ in range(3):
        tracer.start_span("one").end()
        other.spans()
    assert [event for event, _ in other.log.events] == ["traces.failed"]
    assert other.log.events[0][1] == {"spans": 1, "error": "OSError"}
    failing.mended = True
    tracer.start_span("one").end()
    other.spans()
    assert [event for event, _ in other.log.events] == ["traces.failed", "traces.recovered"]
    await other.pipeline.close()
