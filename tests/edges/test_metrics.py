"""``/metrics``: what is counted is what has happened, on each replica, within bounds, and with the database away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics

from tests.edges.http.client import Client
from tests.edges.metering import Page, Watched, a_watched, watched_by
from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import (
    SECOND,
    Heard,
    World,
    a_trigger,
    an_app,
    an_end,
    eventually,
    no_agent,
)
from tests.engine.proxy import a_proxy
from tests.executors.conftest import an_assignment
from tocsin import cron, every, on_event
from tocsin.domain.errors import Fatal
from tocsin.domain.event import Event
from tocsin.domain.trigger import CatchUp, Overlap
from tocsin.edges.http.api import api_of
from tocsin.edges.http.front import Front
from tocsin.edges.http.health import Health
from tocsin.edges.metrics.tally import LAGS, OTHER, WAITS, Bounded, Spread, Tally
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control
from tocsin.run import Run
from tocsin.store.database import Database
from tocsin.store.gauges import Gauges
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio

ALLOW: dict[str, Any] = {"overlap": Overlap.ALLOW}


@pytest.fixture
async def control(dsn: str) -> AsyncIterator[Control]:
    """In the present, in a database that has nothing in it."""
    async with a_control(dsn) as control:
        yield control


async def until(watched: Watched, name: str, value: float, **labels: str) -> Page:
    """The page, once this stands on it."""

    async def stands() -> Page | None:
        page = await watched.page()
        return page if page.value(name, **labels) == value else None

    page: Page = await eventually(stands, what=f"{name} {labels} == {value:g}")
    return page


# --- what has happened


async def test_runs_are_counted_once_each_in_every_form(dsn: str, control: Control) -> None:
    await control.declare(an_app(a_trigger("t", **ALLOW)))
    async with a_watched(dsn, {"agent": no_agent}) as watched:
        await control.fire_many("t", [(None, None)] * 50)
        page = await until(watched, "tocsin_runs_ended_total", 50, state="succeeded")
    assert page.value("tocsin_runs_ended_total", trigger="t", agent="agent", state="succeeded", reason="") == 50
    assert page.value("tocsin_run_lateness_seconds_count", kind="manual", lane="live") == 50
    assert page.value("tocsin_run_lateness_seconds_bucket", kind="manual", lane="live", le="+Inf") == 50
    assert page.value("tocsin_trigger_lateness_seconds_count", trigger="t") == 50
    assert page.value("tocsin_queue_wait_seconds_count", agent="agent") == 50
    assert page.value("tocsin_attempt_duration_seconds_count", agent="agent") == 50
    assert 0 < page.value("tocsin_run_lateness_seconds_sum") < 50 * 30
    assert page.value("tocsin_runs_requeued_total") == page.value("tocsin_fires_total") == 0
    assert abs(page.value("tocsin_trigger_last_success_timestamp_seconds", trigger="t") - time.time()) < 60


async def test_a_schedule_s_lateness_is_what_its_trail_says(dsn: str, control: Control, world: World) -> None:
    await control.declare(an_app(a_trigger("t", cron("* * * * * *"))))
    async with a_watched(dsn, {"agent": no_agent}) as watched:
        await eventually(lambda: watched.tally.counts.fired["t"] >= 3)
        await control.pause("t")
        runs = await world.value("SELECT count(*) FROM tocsin.runs WHERE state <> 'skipped'")
        page = await until(watched, "tocsin_runs_ended_total", runs)
        late = await world.value(
            "SELECT sum(extract(epoch FROM started_at - effective_at))::float8 FROM tocsin.runs WHERE fence = 1"
        )
    assert page.value("tocsin_fires_total", trigger="t") == runs
    assert page.value("tocsin_run_lateness_seconds_count", kind="schedule", lane="live") == runs
    assert page.value("tocsin_run_lateness_seconds_sum") == pytest.approx(late)


async def test_a_retry_is_no_end_and_a_failure_is_one(dsn: str, control: Control) -> None:
    async def fails(run: Run) -> None:
        if run.attempt == 3:
            raise Fatal("enough")
        raise ValueError("no luck")

    policy: dict[str, Any] = {"max_attempts": 3, "backoff_base": SECOND / 100}
    await control.declare(an_app(a_trigger("t"), agents={"agent": fails}, **policy))
    async with a_watched(dsn, {"agent": fails}, policy=policy) as watched:
        await control.fire("t")
        page = await until(watched, "tocsin_runs_ended_total", 1)
    assert page.value("tocsin_runs_ended_total", state="failed", reason="fatal") == 1
    assert page.value("tocsin_runs_requeued_total", agent="agent", reason="retry") == 2
    # The wait of each attempt, and the lateness of the first.
    assert page.value("tocsin_queue_wait_seconds_count") == page.value("tocsin_attempt_duration_seconds_count") == 3
    assert page.value("tocsin_run_lateness_seconds_count") == 1


async def test_what_is_skipped_is_counted_by_its_reason_at_the_claim_and_before(dsn: str, control: Control) -> None:
    release = asyncio.Event()

    async def busy() -> None:
        await release.wait()

    await control.declare(an_app(a_trigger("t", every("1s")), agents={"agent": busy}))
    async with a_watched(dsn, {"agent": busy}) as watched:
        await eventually(lambda: watched.tally.counts.skipped["t", "overlap"] >= 2)
        await control.pause("t")
        release.set()
        page = await watched.page()
        decided = await control.insight.decisions(limit=100, reason="overlap")
        told = page.value("tocsin_skips_total", trigger="t", reason="overlap")
        assert 2 <= told <= sum(one["count"] for one in decided)
        assert page.value("tocsin_runs_ended_total", state="skipped") == 0
        # Those of a pause are decided upon as it ends.
        await control.resume("t")


async def test_what_the_planner_finds_missed_or_broken_is_counted(world: World) -> None:
    tally = Tally(limit=10)
    await world.declare(
        a_trigger("late", cron("0 * * * *"), catch_up=CatchUp.SKIP), a_trigger("bad", cron("0 * * * *"))
    )
    peer = await world.peer()
    peer.planner._observer = tally
    await world.admin.execute("UPDATE tocsin.triggers SET policy = '[]' WHERE name = 'bad'")
    world.clock.turn(3 * 3600 + 1800)
    await peer.planner.run_once()
    assert tally.counts.skipped["late", "missed"] == 3
    assert tally.counts.broken == 1
    assert not tally.counts.fired


async def test_what_events_call_for_and_what_comes_of_it_is_counted(world: World) -> None:
    tally = Tally(limit=10)
    rests, bad = (
        a_trigger("rests", event=on_event("push")),
        a_trigger("bad", event=on_event("push", where="length(data.a) > `0`")),
    )
    await world.declare(a_trigger("t", event=on_event("push")), rests, bad)
    await world.control.pause("rests")
    control = Control(database=world.database, clock=world.clock, actor="test", observer=tally)
    await control.emit([Event(id=str(n), source="https://shop", type="push", data={"a": 1}) for n in range(3)])
    assert tally.counts.fired == {"t": 3}
    assert tally.counts.skipped == {("rests", "paused"): 3, ("bad", "filter"): 3}
    await world.admin.execute("UPDATE tocsin.triggers SET policy = '[]' WHERE name = 'bad'")
    await control.emit([Event(id="last", source="https://shop", type="push")])
    assert tally.counts.broken == 1


async def test_a_replica_counts_what_its_matcher_takes_up(dsn: str, control: Control, world: World) -> None:
    await control.declare(an_app(a_trigger("t", event=on_event("push"))))
    async with a_watched(dsn, {"agent": no_agent}) as watched:
        await world.admin.execute(
            "INSERT INTO tocsin.events (source, id, type, data, depth, received_at)"
            " VALUES ('x', '1', 'push', '{}', 0, now())"
        )
        page = await until(watched, "tocsin_runs_ended_total", 1, trigger="t")
    assert page.value("tocsin_fires_total", trigger="t") == 1
    assert page.value("tocsin_run_lateness_seconds_count", kind="event", lane="live") == 1


async def test_an_end_that_came_too_late_and_what_was_swept_are_counted(world: World) -> None:
    tally = Tally(limit=10)
    await world.declare(a_trigger("t", **ALLOW))
    peer, other = await world.peer(), await world.peer()
    await world.queue(max_attempts=3)
    held = await peer.claim_one()
    world.clock.turn(31)
    other.sweeper._observer = peer.settler._observer = tally
    other.sweeper._judges_from = 0
    await other.sweeper.run_once()
    assert tally.counts.swept == {"lost": 1}
    assert tally.counts.requeued == {("agent", "lost"): 1}
    peer.settler.put(None, an_end(held))
    await peer.settler.run_once()
    assert tally.counts.fenced == 1
    assert not tally.counts.ended


async def test_a_lease_that_a_peer_has_ended_is_counted(dsn: str, world: World) -> None:
    async with a_watched(dsn, {"agent": no_agent}) as watched:
        assert (await watched.page()).value("tocsin_lease_losses_total", how="ended") == 0
        await world.admin.execute("UPDATE tocsin.leases SET ended_at = now(), end_reason = 'lost'")
        page = await until(watched, "tocsin_lease_losses_total", 1, how="ended")
    assert page.value("tocsin_lease_losses_total", how="expired") == 0


async def test_what_is_found_of_agent_processes_is_counted_and_how_they_stand_is_told(dsn: str) -> None:
    watching = Watching(limit=10, log=Heard())
    async with (
        a_control(dsn, a_trigger("t")) as control,
        a_hub(dsn, observer=watching.observer, suspect_after=1, dead_after=4) as hub,
        Process(hub.address) as process,
    ):
        await process.hello()
        await process.credit(1)
        await control.fire("t")
        await process.assigned()
        watched = watched_by(watching, hub.replica, hub.log)
        page = await until(watched, "tocsin_cluster_instances", 1, state="alive")
        assert page.value("tocsin_instances_connected") == page.value("tocsin_runs_executing") == 1
        process.frozen = True
        await until(watched, "tocsin_cluster_instances", 1, state="suspect")
        page = await until(watched, "tocsin_instance_verdicts_total", 1, verdict="suspect")
        assert page.value("tocsin_instance_verdicts_total", verdict="lost") == 0
        page = await until(watched, "tocsin_instance_verdicts_total", 1, verdict="lost")
        page = await until(watched, "tocsin_runs_swept_total", 1, reason="lost")
        assert page.value("tocsin_cluster_instances", state="lost") == 1
        await process.beat()
        page = await until(watched, "tocsin_instance_verdicts_total", 1, verdict="fenced")
        await until(watched, "tocsin_instances_connected", 0)


async def test_a_run_that_comes_again_with_its_process_is_as_long_as_it_was_and_begins_once(dsn: str) -> None:
    first, second = Tally(limit=10), Tally(limit=10)
    async with a_control(dsn, a_trigger("t")) as control:
        async with a_hub(dsn, observer=first) as hub, Process(hub.address) as process:
            welcome = await process.hello()
            await process.credit(1)
            await control.fire("t")
            (run,) = await process.assigned()
            await asyncio.sleep(1)
        async with a_hub(dsn, observer=second) as hub, Process(hub.address, instance_id=process.id) as again:
            held = [pb.Held(run_id=run.run_id, fence=run.fence)]
            await again.hello(held=held, last_stream=welcome.stream)
            await again.finish(run)
    assert (sum(first.counts.waits["agent"].counts), second.counts.waits) == (1, {})
    assert not first.counts.durations
    assert 1 < second.counts.durations["agent"].sum < 30
    assert second.counts.ended == {("t", "agent", "succeeded", ""): 1}


async def test_an_agent_that_blocks_the_event_loop_is_seen_in_its_lag(dsn: str, control: Control) -> None:
    async def blocks() -> None:
        time.sleep(1.2)

    await control.declare(an_app(a_trigger("t"), agents={"agent": blocks}))
    async with a_watched(dsn, {"agent": blocks}) as watched:
        before = (await watched.page()).value("tocsin_event_loop_lag_seconds_bucket", le="0.5")
        await control.fire("t")

        async def lags() -> Page | None:
            page = await watched.page()
            count = page.value("tocsin_event_loop_lag_seconds_count")
            return page if count > page.value("tocsin_event_loop_lag_seconds_bucket", le="0.5") else None

        page = await eventually(lags)
    assert page.value("tocsin_event_loop_lag_seconds_sum") > 0.5
    assert page.value("tocsin_event_loop_lag_seconds_bucket", le="0.5") >= before


# --- how it stands


async def test_queues_slots_sessions_and_loops_are_told_as_they_stand(dsn: str, control: Control) -> None:
    release = asyncio.Event()

    async def busy() -> None:
        await release.wait()

    agents = {"agent": busy}
    await control.declare(an_app(a_trigger("t", **ALLOW), agents=("agent", "nobody")))
    await control.add_trigger(a_trigger("idle", agent="nobody", **ALLOW))
    async with a_watched(dsn, agents, slots=2) as watched:
        await control.fire_many("idle", [(None, None)] * 7)
        await control.fire_many("t", [(None, None)] * 5)
        page = await until(watched, "tocsin_cluster_running_runs", 2, agent="agent")
        assert page.value("tocsin_runs_executing") == page.value("tocsin_slots") == 2
        assert page.value("tocsin_cluster_queued_runs", agent="agent", lane="live") == 3
        assert page.value("tocsin_cluster_queued_runs", agent="nobody", lane="live") == 7
        assert page.value("tocsin_cluster_queued_runs", lane="late") == 0
        assert 0 < page.value("tocsin_cluster_queue_oldest_seconds", agent="nobody", lane="live") < 60
        assert page.value("tocsin_cluster_replicas", state="alive") == page.value("tocsin_database_up") == 1
        assert page.value("tocsin_ready") == 1
        assert page.value("tocsin_database_sessions", pool="engine", state="in_use") >= 1
        assert page.value("tocsin_database_sessions_limit", pool="engine") == 6
        assert page.value("tocsin_database_waiting") == 0
        assert page.value("tocsin_database_statements_total", pool="keeper") > 0
        assert page.value("tocsin_database_sessions_limit", pool="hooks") == 6  # of a pool that stands for it
        assert page.value("tocsin_loop_steps_total", loop="planner") > 0
        assert page.value("tocsin_loop_healthy", loop="keeper") == page.value("tocsin_loop_healthy", loop="pulse") == 1
        assert page.value("process_resident_memory_bytes") > 0
        assert page.value("tocsin_build_info") == 1
        release.set()


async def test_who_waits_for_a_session_is_counted(dsn: str) -> None:
    database = Database(dsn, size=1)
    try:
        async with database.session():
            waits = asyncio.create_task(database.fetchrow("next_wake", now=None))
            await eventually(lambda: database.waiting == 1)
            assert (database.opened, database.in_use) == (1, 1)
        await waits
        assert database.waiting == 0
        await eventually(lambda: database.in_use == 0)
    finally:
        await database.close()


async def test_an_overdue_trigger_and_an_unmatched_event_are_seen(world: World) -> None:
    await world.declare(a_trigger("t", cron("0 13 * * *")))
    assert await whole_of(world) == {"overdue": 0, "unmatched": 0}
    world.clock.turn(3600 + 90)
    await world.admin.execute(
        "INSERT INTO tocsin.events (source, id, type, data, depth, received_at) VALUES ('x', '1', 'y', '{}', 0, now())"
    )
    assert await whole_of(world) == {"overdue": 90, "unmatched": 1}


async def whole_of(world: World) -> dict[str, float]:
    rows = await Gauges(database=world.database, clock=world.clock).read(agents=10, most=10)
    return {row.what: row.value + row.seconds for row in rows if row.what in ("overdue", "unmatched")}


async def test_a_backlog_is_as_old_as_its_first_run_and_what_is_not_due_does_not_wait(world: World) -> None:
    await world.declare(a_trigger("t", **ALLOW))
    for seconds in (-30, -90, 3600):
        await world.queue(at=seconds * SECOND)
    rows = await Gauges(database=world.database, clock=world.clock).read(agents=10, most=10)
    assert [(row.value, row.seconds) for row in rows if row.what == "queued" and row.detail == "live"] == [(2, 90)]


async def test_each_replica_counts_its_own_and_tells_the_same_of_the_whole(dsn: str, control: Control) -> None:
    async def brief() -> None:
        await asyncio.sleep(0.02)

    await control.declare(an_app(a_trigger("t", **ALLOW), agents={"agent": brief}))
    async with (
        a_watched(dsn, {"agent": brief}, slots=2) as one,
        a_watched(dsn, {"agent": brief}, slots=2) as two,
    ):
        await control.fire_many("t", [(None, None)] * 200)

        async def all_ended() -> bool:
            return sum(w.tally.counts.ended.total() for w in (one, two)) == 200

        await eventually(all_ended)
        pages = [await one.page(), await two.page()]
        own = [page.value("tocsin_runs_ended_total") for page in pages]
        assert sum(own) == 200
        assert all(own)
        assert [page.value("tocsin_cluster_replicas", state="alive") for page in pages] == [2, 2]


# --- bounds


async def test_a_thousand_triggers_make_no_more_labels_than_are_allowed(dsn: str, control: Control) -> None:
    await control.declare(an_app(*(a_trigger(f"t{n}", cron("* * * * * *"), **ALLOW) for n in range(1_000))))
    async with a_watched(dsn, {"agent": no_agent}, limit=20, slots=500) as watched:
        await eventually(lambda: watched.tally.counts.ended.total() >= 1_000)
        page = await watched.page()
    assert len(page.labels("trigger")) == 21
    assert OTHER in page.labels("trigger")
    assert page.value("tocsin_runs_ended_total", trigger=OTHER) >= 900
    assert len(page.samples) < 1_000
    assert len(page.text) < 100_000


async def test_agents_and_reasons_are_bounded_too() -> None:
    tally = Tally(limit=2)
    assert [tally.agents.of(name) for name in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
    assert Bounded(0).of("a") == OTHER
    tally.skipped("t", "a reason that nobody knows")
    tally.skipped("t", "overlap", 3)
    assert tally.counts.skipped == {("t", OTHER): 1, ("t", "overlap"): 3}


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001, 0.0011, 3600, 3601])
def test_a_figure_falls_into_the_first_bound_that_it_does_not_exceed(seconds: float) -> None:
    spread = Spread(WAITS)
    spread.add([seconds])
    expected = next((place for place, bound in enumerate(WAITS) if seconds <= bound), len(WAITS))
    assert [place for place, count in enumerate(spread.counts) if count] == [expected]
    assert spread.sum == max(0.0, seconds)


def test_many_figures_fall_where_each_would_have_fallen() -> None:
    figures = [n * 0.0137 % 12 for n in range(500)]
    together, apart = Spread(LAGS), Spread(LAGS)
    together.add(list(figures))
    for figure in figures:
        apart.add([figure])
    assert together.counts == apart.counts
    assert together.sum == pytest.approx(apart.sum)


def test_a_snapshot_is_not_changed_by_what_comes_after() -> None:
    tally = Tally(limit=2)
    run = an_assignment(fence=1, attempt=1)
    tally.lagged(0.2)
    tally.begun([run])
    kept = tally.counts.snapshot()
    tally.lagged(0.2)
    tally.begun([run])
    tally.skipped("t", "overlap")
    assert not kept.skipped
    for counts, expected in ((kept, 1), (tally.counts, 2)):
        assert sum(counts.lag.counts) == expected
        assert sum(counts.lateness["schedule", "live"].counts) == sum(counts.waits["agent"].counts) == expected
        assert counts.trigger_lateness["daily"][0] == expected


async def test_however_many_ask_there_is_one_page_and_one_statement_a_second(dsn: str) -> None:
    async with a_watched(dsn, {"agent": no_agent}) as watched:
        asked: list[str] = []
        fetch = watched.metrics._gauges._database.fetch

        async def fetched(name: str, /, **values: object) -> Any:
            if name == "read_gauges":
                asked.append(name)
            return await fetch(name, **values)

        watched.metrics._gauges._database.fetch = fetched  # type: ignore[method-assign]
        began = time.monotonic()
        pages = {(await watched.metrics.page(""))[0] for _ in range(20)}
        pages |= set(await asyncio.gather(*(_text(watched) for _ in range(200))))
        took = time.monotonic() - began
    assert len(asked) <= 1 + took
    assert len(pages) <= 1 + took
    assert asked


def _read(body: bytes) -> list[Metric]:
    return list(read_open_metrics(body.decode()))  # type: ignore[no-untyped-call]  # as the library has it


async def _text(watched: Watched) -> bytes:
    return (await watched.metrics.page(""))[0]


async def test_what_waits_is_counted_up_to_a_bound(world: World, dsn: str) -> None:
    await world.declare(a_trigger("t", **ALLOW), agents=("agent", "b", "c"))
    for n in range(5):
        await world.queue(at=-n * SECOND)
    rows = await Gauges(database=world.database, clock=world.clock).read(agents=2, most=3)
    queued = {(row.name, row.detail): row.value for row in rows if row.what == "queued"}
    assert queued == {("agent", "live"): 3, ("agent", "late"): 0, ("b", "live"): 0, ("b", "late"): 0}


# --- forms, and who may read


@asynccontextmanager
async def a_reader(dsn: str, watched: Watched, *, is_local: bool = True) -> AsyncIterator[Client]:
    """Somebody who asks the whole of what stands on a replica's port."""
    database = Database(dsn, size=2)
    try:
        await database.open()
        front = Front(Health("0", lambda: None), log=watched.log)
        api, _ = api_of(
            database=database,
            of_hooks=database,
            replica=watched.replica,
            watching=watched.watching,
            is_local=is_local,
            log=watched.log,
        )
        front.join(api)
        yield Client(front, watched.log)
    finally:
        await database.close()


async def test_it_is_told_in_both_forms_by_the_same_port(dsn: str, control: Control) -> None:
    await control.declare(an_app(a_trigger("t")))
    async with a_watched(dsn, {"agent": no_agent}) as watched, a_reader(dsn, watched) as reader:
        plain = await reader.get("/metrics")
        assert plain.status == 200
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert Page(plain.body.decode()).value("tocsin_database_up") == 1
        accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3"
        whole = await reader.ask("GET", "/metrics", headers={"accept": accept})
        assert whole.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in _read(whole.body)}
        assert families["tocsin_runs_ended"].type == "counter"
        assert (await reader.ask("POST", "/metrics")).status == 405
        assert "/metrics" not in (await reader.get("/v1/openapi.json")).json["paths"]


async def test_who_may_read_the_api_may_read_this_and_nobody_else(dsn: str, control: Control) -> None:
    async with a_watched(dsn, {"agent": no_agent}) as watched, a_reader(dsn, watched) as reader:
        assert (await reader.get("/metrics")).status == 200
        assert (await reader.having(address="192.0.2.7").get("/metrics")).status == 401
        assert (await reader.having(headers={"host": "evil.example"}).get("/metrics")).status == 403
        keys = {scope: (await control.keys.create(scope, scopes=[scope]))["key"] for scope in ("read", "emit")}

        async def closed() -> bool:
            return (await reader.get("/metrics")).status == 401

        await eventually(closed)
        assert (await reader.having(key=keys["read"], address="192.0.2.7").get("/metrics")).status == 200
        assert (await reader.having(key=keys["emit"]).get("/metrics")).status == 403


async def test_no_word_of_what_agents_are_told_and_say_and_no_key_stands_on_it(dsn: str, control: Control) -> None:
    secret = "hunter2-planted"

    async def tells(run: Run) -> str:
        run.progress(secret)
        run.log(secret)
        run.usage(model=secret)
        if run.input["fails"]:
            raise ValueError(secret)
        return secret

    await control.declare(an_app(a_trigger("t", **ALLOW), agents={"agent": tells}))
    key = (await control.keys.create("scraper", scopes=["read"]))["key"]
    async with a_watched(dsn, {"agent": tells}) as watched, a_reader(dsn, watched) as reader:
        for fails in (True, False):
            await control.fire("t", input={"fails": fails, "password": secret}, key=f"{secret}-{fails}")
        await until(watched, "tocsin_runs_ended_total", 2)
        answer = await reader.having(key=key).get("/metrics")
    text = answer.body.decode()
    assert answer.status == 200
    assert secret not in text
    assert key not in text
    assert dsn not in text


# --- the database is away


async def test_with_the_database_away_it_tells_what_the_replica_knows(dsn: str, control: Control) -> None:
    await control.declare(an_app(a_trigger("t", **ALLOW)))
    key = (await control.keys.create("scraper", scopes=["read"]))["key"]
    async with (
        a_proxy(dsn) as proxy,
        a_watched(proxy.dsn, {"agent": no_agent}, lease=2, renew_every=0.5, drain_timeout=0.1) as watched,
        a_reader(proxy.dsn, watched) as reader,
    ):
        await control.fire("t")
        await until(watched, "tocsin_runs_ended_total", 1)
        scraper = reader.having(key=key)
        assert (await scraper.get("/metrics")).status == 200
        await proxy.refuse()
        page = await until(watched, "tocsin_database_up", 0)
        assert page.value("tocsin_runs_ended_total") == 1
        assert not [name for name in page.families if name.startswith("tocsin_cluster")]
        page = await until(watched, "tocsin_lease_losses_total", 1, how="expired")
        await eventually(lambda: watched.log.count("metrics.partial"))
        assert (await scraper.get("/metrics")).status == 200
        assert (await reader.having(key="tocsin_unknown").get("/metrics")).status == 401
        assert (await scraper.get("/v1/triggers")).status == 503
        proxy.restore()
        await until(watched, "tocsin_database_up", 1)
    # Once for each of two pages: the reader's and the test's own.
    assert watched.log.count("metrics.partial") == 2


async def test_a_database_that_hangs_delays_no_page_beyond_its_bound(dsn: str) -> None:
    async with a_proxy(dsn) as proxy, a_watched(proxy.dsn, {"agent": no_agent}, drain_timeout=0.1) as watched:
        await watched.page()
        proxy.freeze()
        began = time.monotonic()
        assert (await watched.page()).value("tocsin_database_up") == 0
        assert time.monotonic() - began < 5
        proxy.restore()
