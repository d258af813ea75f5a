"""Python, HTTP, its client and the command line, here and elsewhere, are one: the same answer, and the same refusal,
for each operation.
"""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.cli.conftest import Answer, Hub
from tests.edges.http.client import Client as Asker
from tests.edges.http.client import a_client
from tests.engine.building import a_trigger, an_app
from tocsin.cli.exits import code_of
from tocsin.clock import SystemClock
from tocsin.domain.errors import TocsinError
from tocsin.domain.event import Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.hook import webhook
from tocsin.domain.jsonable import jsonable
from tocsin.domain.schedule import Schedule, cron, every
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec
from tocsin.engine.control import Control
from tocsin.sdk.client import Client
from tocsin.store.database import Database

Tocsin = Callable[..., Answer]
Ask = Callable[[Any, "Ids"], Any]
"""Of a Control or a Client: what is awaited, or gone through."""

SINCE = datetime(2026, 3, 1, tzinfo=UTC)
EDGES = ("python", "http", "client", "cli", "elsewhere")


@dataclass(frozen=True, slots=True)
class Ids:
    """What an edge has for itself. t: its trigger; queued, ended: its runs."""

    t: str
    queued: UUID
    ended: UUID


@dataclass(frozen=True, slots=True)
class Case:
    """One operation. http: (method, path, what is asked); {t}, {queued} and {ended} stand for what the edge has.

    client: what the client is asked, where that is not what Control is.
    """

    title: str
    python: Ask
    http: tuple[str, str, dict[str, Any]]
    words: str | None = None
    client: Ask | None = None

    def __str__(self) -> str:
        return self.title


def urgent(spec: TriggerSpec) -> TriggerSpec:
    return replace(spec, priority=9)


NEW_SCHEDULE = {"rules": [{"cron": "0 9 * * *", "tz": "Europe/Paris"}]}
PARIS = Schedule.from_json(NEW_SCHEDULE)
ON_ORDERS = on_event("order.paid", where="data.n > `1`", debounce="5s")
ORDERS = {"type": "order.paid", "where": "data.n > `1`", "debounce_seconds": 5}
ORDERS_IN_WORDS = '{{"type": "order.paid", "where": "data.n > `1`", "debounce": "5s"}}'
GITHUB = webhook("github", secret=["NEW_SECRET", "OLD_SECRET"])
HOOK = {"scheme": "github", "secret": ["NEW_SECRET", "OLD_SECRET"]}
HOOK_IN_WORDS = '{{"scheme": "github", "secret": ["NEW_SECRET", "OLD_SECRET"]}}'
RANGE = {"since": "2026-03-01T00:00:00Z", "until": "2026-03-01T03:00:00Z"}

DONE = [
    Case("list triggers", lambda c, i: c.triggers(limit=50), ("GET", "/v1/triggers", {}), "trigger list"),
    Case("show trigger", lambda c, i: c.trigger(i.t), ("GET", "/v1/triggers/{t}", {}), "trigger show {t}"),
    Case(
        "add trigger",
        lambda c, i: c.add_trigger(a_trigger(f"{i.t}-new", PARIS)),
        ("POST", "/v1/triggers", {"json": {"name": "{t}-new", "agent": "agent", "schedule": NEW_SCHEDULE}}),
        "trigger add {t}-new --agent agent --cron '0 9 * * *' --tz Europe/Paris",
    ),
    Case(
        "add a trigger that listens",
        lambda c, i: c.add_trigger(a_trigger(f"{i.t}-ear", event=ON_ORDERS, overlap=Overlap.QUEUE_ALL)),
        ("POST", "/v1/triggers", {"json": {"name": "{t}-ear", "agent": "agent", "event": ORDERS}}),
        f"trigger add {{t}}-ear --agent agent --on-event '{ORDERS_IN_WORDS}'",
    ),
    Case(
        "give it a schedule",
        lambda c, i: c.edit_trigger(f"{i.t}-ear", lambda spec: replace(spec, schedule=PARIS, event=None)),
        ("PATCH", "/v1/triggers/{t}-ear", {"json": {"schedule": NEW_SCHEDULE}, "headers": {"if-match": '"1"'}}),
        "trigger edit {t}-ear --cron '0 9 * * *' --tz Europe/Paris",
    ),
    Case(
        "let it listen again",
        lambda c, i: c.edit_trigger(f"{i.t}-ear", lambda spec: replace(spec, schedule=None, event=on_event("x.*"))),
        ("PATCH", "/v1/triggers/{t}-ear", {"json": {"event": {"type": "x.*"}}, "headers": {"if-match": '"2"'}}),
        "trigger edit {t}-ear --on-event x.*",
    ),
    Case(
        "add a trigger with a hook",
        lambda c, i: c.add_trigger(
            a_trigger(f"{i.t}-hook", event=on_event("push"), hook=GITHUB, overlap=Overlap.QUEUE_ALL)
        ),
        (
            "POST",
            "/v1/triggers",
            {"json": {"name": "{t}-hook", "agent": "agent", "event": {"type": "push"}, "hook": HOOK}},
        ),
        f"trigger add {{t}}-hook --agent agent --on-event push --hook '{HOOK_IN_WORDS}'",
    ),
    Case(
        "take its hook away",
        lambda c, i: c.edit_trigger(f"{i.t}-hook", lambda spec: replace(spec, hook=None, event=None)),
        ("PATCH", "/v1/triggers/{t}-hook", {"json": {"hook": None}, "headers": {"if-match": '"1"'}}),
        "trigger edit {t}-hook --hook {{}}",
    ),
    Case(
        "edit trigger",
        lambda c, i: c.edit_trigger(i.t, urgent, if_version=1),
        ("PATCH", "/v1/triggers/{t}", {"json": {"policy": {"priority": 9}}, "headers": {"if-match": '"1"'}}),
        "trigger edit {t} --priority 9 --if-version 1",
    ),
    Case(
        "pause",
        lambda c, i: c.pause(i.t, reason="why"),
        ("POST", "/v1/triggers/{t}/pause", {"json": {"reason": "why"}}),
        "trigger pause {t} --reason why",
    ),
    Case(
        "resume",
        lambda c, i: c.resume(i.t, catch_up=CatchUp.LATEST),
        ("POST", "/v1/triggers/{t}/resume", {"json": {"catch_up": "latest"}}),
        "trigger resume {t} --catch-up latest",
    ),
    Case(
        "fire",
        lambda c, i: c.fire(i.t, key="k", input={"n": 1}),
        ("POST", "/v1/triggers/{t}/fire", {"json": {"input": {"n": 1}}, "headers": {"idempotency-key": "k"}}),
        "trigger fire {t} --key k --input '{{\"n\": 1}}'",
    ),
    Case(
        "fire again",
        lambda c, i: c.fire(i.t, key="k"),
        ("POST", "/v1/triggers/{t}/fire", {"headers": {"idempotency-key": "k"}}),
        "trigger fire {t} --key k",
    ),
    Case(
        "why",
        lambda c, i: c.why(i.t, since=SINCE, until=SINCE),
        ("GET", "/v1/triggers/{t}/why", {"query": {"since": "2026-03-01T00:00:00Z", "until": "2026-03-01T00:00:00Z"}}),
    ),
    Case(
        "count a backfill",
        lambda c, i: c.backfill(i.t, SINCE, SINCE + timedelta(hours=3), dry_run=True),
        ("POST", "/v1/triggers/{t}/backfills", {"json": {**RANGE, "dry_run": True}}),
        "trigger backfill {t} --since 2026-03-01 --until 2026-03-01T03:00Z --dry-run",
    ),
    Case(
        "backfill",
        lambda c, i: c.backfill(i.t, SINCE, SINCE + timedelta(hours=3)),
        ("POST", "/v1/triggers/{t}/backfills", {"json": RANGE}),
        "trigger backfill {t} --since 2026-03-01 --until 2026-03-01T03:00Z",
    ),
    Case(
        "preview",
        lambda c, i: c.insight.preview(i.t, count=3, after=SINCE),
        ("GET", "/v1/triggers/{t}/preview", {"query": {"count": 3, "after": "2026-03-01T00:00:00Z"}}),
        client=lambda c, i: c.preview(
            i.t,
            count=3,
            after=SINCE,
        ),
    ),
    Case(
        "preview a schedule",
        lambda c, i: c.insight.preview_schedule(PARIS, count=3, after=SINCE),
        ("POST", "/v1/preview", {"json": {"schedule": NEW_SCHEDULE, "count": 3, "after": "2026-03-01T00:00:00Z"}}),
        client=lambda c, i: c.preview_schedule(
            PARIS,
            count=3,
            after=SINCE,
        ),
    ),
    Case(
        "list runs",
        lambda c, i: c.runs(limit=1, trigger=i.t),
        ("GET", "/v1/runs", {"query": {"trigger": "{t}", "limit": 1}}),
        "run list --trigger {t} --limit 1",
    ),
    Case("show run", lambda c, i: c.run(i.ended), ("GET", "/v1/runs/{ended}", {}), "run show {ended}"),
    Case(
        "cancel run",
        lambda c, i: c.cancel_run(i.queued),
        ("POST", "/v1/runs/{queued}/cancel", {}),
        "run cancel {queued}",
    ),
    Case("retry run", lambda c, i: c.retry_run(i.ended), ("POST", "/v1/runs/{ended}/retry", {}), "run retry {ended}"),
    Case("list agents", lambda c, i: c.agents(limit=50), ("GET", "/v1/agents", {}), "agent list"),
    Case("show agent", lambda c, i: c.agent("agent"), ("GET", "/v1/agents/agent", {}), "agent show agent"),
    Case("list replicas", lambda c, i: c.replicas(limit=50), ("GET", "/v1/replicas", {}), "replica list"),
    Case(
        "list instances",
        lambda c, i: c.roster.instances(limit=50),
        ("GET", "/v1/instances", {}),
        "instance list",
        client=lambda c, i: c.instances(
            limit=50,
        ),
    ),
    Case(
        "audit",
        lambda c, i: c.audit(limit=50, trigger=i.t),
        ("GET", "/v1/audit", {"query": {"trigger": "{t}"}}),
        "audit --trigger {t}",
    ),
    Case(
        "decisions",
        lambda c, i: c.insight.decisions(limit=50),
        ("GET", "/v1/decisions", {}),
        client=lambda c, i: c.decisions(
            limit=50,
        ),
    ),
    Case(
        "usage",
        lambda c, i: c.insight.usage(by=["model"]),
        ("GET", "/v1/usage", {"query": {"by": "model"}}),
        client=lambda c, i: c.usage(
            by=["model"],
        ),
    ),
    Case(
        "forecast",
        lambda c, i: c.insight.forecast(1),
        ("GET", "/v1/forecast", {"query": {"hours": 1}}),
        client=lambda c, i: c.forecast(
            1,
        ),
    ),
    Case(
        "list events",
        lambda c, i: c.events.page(limit=50),
        ("GET", "/v1/events", {}),
        "event list",
        client=lambda c, i: c.events(limit=50),
    ),
    Case(
        "show event",
        lambda c, i: c.events.show(1),
        ("GET", "/v1/events/1", {}),
        "event show 1",
        client=lambda c, i: c.event(1),
    ),
    Case(
        "emit",
        lambda c, i: c.emit([Event(id=f"{i.t}-1", source="/told", type="x")]),
        (
            "POST",
            "/v1/events",
            {
                "json": [{"specversion": "1.0", "id": "{t}-1", "source": "/told", "type": "x"}],
                "headers": {"content-type": "application/cloudevents-batch+json"},
            },
        ),
        "emit x --source /told --dedup-key {t}-1",
    ),
    Case(
        "create key",
        lambda c, i: c.keys.create(f"{i.t}-key", agents=["agent"]),
        ("POST", "/v1/keys", {"json": {"name": "{t}-key", "scopes": ["agent"], "agents": ["agent"]}}),
        "key create {t}-key --agent agent --json",
        client=lambda c, i: c.create_key(
            f"{i.t}-key",
            agents=["agent"],
        ),
    ),
    Case(
        "list keys",
        lambda c, i: c.keys.all(),
        ("GET", "/v1/keys", {}),
        "key list",
        client=lambda c, i: c.keys(),
    ),
    Case(
        "delete trigger", lambda c, i: c.delete_trigger(i.t), ("DELETE", "/v1/triggers/{t}", {}), "trigger delete {t}"
    ),
]

BEFORE = "2026-02-28T00:00:00Z"
BAD_SCHEDULE = {"rules": [{"cron": "61 * * * *"}]}
NOBODY = "00000000-0000-0000-0000-000000000000"
REFUSED = [
    Case("no trigger", lambda c, i: c.trigger("nope"), ("GET", "/v1/triggers/nope", {}), "trigger show nope"),
    Case(
        "a name that is taken",
        lambda c, i: c.add_trigger(a_trigger("shared")),
        ("POST", "/v1/triggers", {"json": {"name": "shared", "agent": "agent"}}),
        "trigger add shared --agent agent",
    ),
    Case(
        "no such agent",
        lambda c, i: c.add_trigger(a_trigger("new", agent="nope")),
        ("POST", "/v1/triggers", {"json": {"name": "new", "agent": "nope"}}),
        "trigger add new --agent nope",
    ),
    Case(
        "a bad name",
        lambda c, i: c.add_trigger(a_trigger("two words")),
        ("POST", "/v1/triggers", {"json": {"name": "two words", "agent": "agent"}}),
        "trigger add 'two words' --agent agent",
    ),
    Case(
        "a bad schedule",
        lambda c, i: _now(lambda: cron("61 * * * *")),
        (
            "POST",
            "/v1/triggers",
            {"json": {"name": "x", "agent": "agent", "schedule": BAD_SCHEDULE}},
        ),
        "trigger add x --agent agent --cron '61 * * * *'",
    ),
    Case(
        "a bad filter",
        lambda c, i: _now(lambda: on_event("x", where="data[")),
        ("POST", "/v1/triggers", {"json": {"name": "x", "agent": "agent", "event": {"type": "x", "where": "data["}}}),
        'trigger add x --agent agent --on-event \'{{"type": "x", "where": "data["}}\'',
    ),
    Case(
        "an event rule and an input",
        lambda c, i: _now(lambda: a_trigger("x", event=on_event("x"), input=5)),
        ("POST", "/v1/triggers", {"json": {"name": "x", "agent": "agent", "event": {"type": "x"}, "input": 5}}),
        "trigger add x --agent agent --on-event x --input 5",
    ),
    Case(
        "a hook without a secret",
        lambda c, i: _now(lambda: webhook("github")),
        ("POST", "/v1/triggers", {"json": {"name": "x", "agent": "agent", "hook": {"scheme": "github"}}}),
        'trigger add x --agent agent --hook \'{{"scheme": "github"}}\'',
    ),
    Case(
        "a hook and a schedule",
        lambda c, i: _now(lambda: a_trigger("x", PARIS, hook=GITHUB)),
        ("POST", "/v1/triggers", {"json": {"name": "x", "agent": "agent", "hook": HOOK, "schedule": NEW_SCHEDULE}}),
        f"trigger add x --agent agent --cron '0 9 * * *' --hook '{HOOK_IN_WORDS}'",
    ),
    Case(
        "no event",
        lambda c, i: c.events.show(77),
        ("GET", "/v1/events/77", {}),
        "event show 77",
        client=lambda c, i: c.event(77),
    ),
    Case(
        "an event in the hub's name",
        lambda c, i: c.emit([Event(id="1", source="tocsin", type="x")]),
        (
            "POST",
            "/v1/events",
            {
                "json": {"specversion": "1.0", "id": "1", "source": "tocsin", "type": "x"},
                "headers": {"content-type": "application/cloudevents+json"},
            },
        ),
        "emit x --source tocsin --dedup-key 1",
    ),
    Case(
        "a version that moved on",
        lambda c, i: c.edit_trigger("shared", urgent, if_version=7),
        ("PATCH", "/v1/triggers/shared", {"json": {"policy": {"priority": 9}}, "headers": {"if-match": '"7"'}}),
        "trigger edit shared --priority 9 --if-version 7",
    ),
    Case(
        "a pause that ends in the past",
        lambda c, i: c.pause("shared", until=SINCE),
        ("POST", "/v1/triggers/shared/pause", {"json": {"until": "2026-03-01T00:00:00Z"}}),
        "trigger pause shared --until 2026-03-01",
    ),
    Case(
        "resume what does not rest",
        lambda c, i: c.resume("shared"),
        ("POST", "/v1/triggers/shared/resume", {}),
        "trigger resume shared",
    ),
    Case(
        "a backfill of too many",
        lambda c, i: c.backfill("shared", SINCE - timedelta(days=60), SINCE),
        (
            "POST",
            "/v1/triggers/shared/backfills",
            {"json": {"since": "2025-12-31T00:00:00Z", "until": "2026-03-01T00:00:00Z"}},
        ),
        "trigger backfill shared --since 2025-12-31 --until 2026-03-01",
    ),
    Case(
        "no such backfill",
        lambda c, i: c.cancel_backfill("shared", NOBODY),
        ("DELETE", f"/v1/triggers/shared/backfills/{NOBODY}", {}),
        f"trigger backfill shared --cancel {NOBODY}",
    ),
    Case("no run", lambda c, i: c.run(UUID(NOBODY)), ("GET", f"/v1/runs/{NOBODY}", {}), f"run show {NOBODY}"),
    Case(
        "cancel what has ended",
        lambda c, i: c.cancel_run(i.ended),
        ("POST", "/v1/runs/{ended}/cancel", {}),
        "run cancel {ended}",
    ),
    Case(
        "retry what has not ended",
        lambda c, i: c.retry_run(i.queued),
        ("POST", "/v1/runs/{queued}/retry", {}),
        "run retry {queued}",
    ),
    Case("no agent", lambda c, i: c.agent("nope"), ("GET", "/v1/agents/nope", {}), "agent show nope"),
    Case("no replica", lambda c, i: c.replica("nope"), ("GET", "/v1/replicas/nope", {}), "replica show nope"),
    Case(
        "no instance",
        lambda c, i: c.roster.instance("nope"),
        ("GET", "/v1/instances/nope", {}),
        "instance show nope",
        client=lambda c, i: c.instance(
            "nope",
        ),
    ),
    Case(
        "a range that runs backwards",
        lambda c, i: c.why("shared", since=SINCE, until=SINCE - timedelta(days=1)),
        (
            "GET",
            "/v1/triggers/shared/why",
            {"query": {"since": "2026-03-01T00:00:00Z", "until": "2026-02-28T00:00:00Z"}},
        ),
        "trigger why shared --since 2026-03-01 --until 2026-02-28",
    ),
    Case(
        "no key",
        lambda c, i: c.keys.revoke("nope"),
        ("DELETE", "/v1/keys/nope", {}),
        "key revoke nope",
        client=lambda c, i: c.revoke_key(
            "nope",
        ),
    ),
    Case(
        "a key for nothing",
        lambda c, i: c.keys.create("x"),
        ("POST", "/v1/keys", {"json": {"name": "x"}}),
        "key create x",
        client=lambda c, i: c.create_key(
            "x",
        ),
    ),
]


async def _now(make: Callable[[], object]) -> object:
    return make()


VOLATILE = {"id", "key", "created_at", "changed_at", "created_by", "queued_at", "nominal_at", "effective_at", "at",
            "available_at", "paused_at", "next_at", "wake_at", "since", "until", "now", "finished_at", "actor",
            "after", "source", "decided_at", "renewed_at", "expires_at", "target_id"}  # fmt: skip
"""What differs between two askings: ids, instants, and who asked."""


def plain(value: Any) -> Any:
    """What is to be alike: without what differs, and with one name for the edges' own things."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return re.sub(rf"of-({'|'.join(EDGES)})", "of-edge", value) if isinstance(value, str) else value


@pytest.fixture
def ids(dsn: str) -> dict[str, Ids]:
    async def prepared() -> dict[str, Ids]:
        async with Opened(dsn) as control:
            names = [f"of-{edge}" for edge in EDGES]
            await control.declare(an_app(*(a_trigger(name, every("1h")) for name in [*names, "shared"])))
            await control.emit([Event(id="1", source="/shop", type="order.paid", data={"n": 1})])
            found = {}
            for edge, name in zip(EDGES, names, strict=True):
                ended = (await control.fire(name))["id"]
                await control.cancel_run(ended)
                found[edge] = Ids(name, (await control.fire(name))["id"], ended)
            return found

    return asyncio.run(prepared())


class Opened:
    """Control of a database, for as long as a block runs."""

    def __init__(self, dsn: str) -> None:
        self._database = Database(dsn, size=2)

    async def __aenter__(self) -> Control:
        await self._database.open()
        return Control(database=self._database, clock=SystemClock(), actor="test")

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()


def filled(value: Any, ids: Ids) -> Any:
    match value:
        case dict():
            return {name: filled(part, ids) for name, part in value.items()}
        case list():
            return [filled(part, ids) for part in value]
        case str():
            return value.replace("{t}", ids.t).replace("{queued}", str(ids.queued)).replace("{ended}", str(ids.ended))
        case _:
            return value


def by_python(dsn: str, case: Case, ids: Ids) -> Any:
    async def ask() -> Any:
        async with Opened(dsn) as control:
            return await _come(case.python(control, ids))

    return asyncio.run(ask())


def by_client(url: str, case: Case, ids: Ids) -> Any:
    async def ask() -> Any:
        async with Client(url) as client:
            return await _come((case.client or case.python)(client, ids))

    return asyncio.run(ask())


async def _come(asked: Any) -> Any:
    """What was asked for, as JSON has it."""
    rows = [row async for row in asked] if isinstance(asked, AsyncIterator) else await asked
    return msgspec.json.decode(msgspec.json.encode(jsonable(rows)))


def by_http(dsn: str, case: Case, ids: Ids) -> tuple[int, Any]:
    async def ask() -> tuple[int, Any]:
        database = Database(dsn, size=2)
        await database.open()
        try:
            async with a_client(database, SystemClock()) as client:
                return await _answered(client, case, ids)
        finally:
            await database.close()

    return asyncio.run(ask())


async def _answered(client: Asker, case: Case, ids: Ids) -> tuple[int, Any]:
    method, path, asked = case.http
    answer = await client.ask(method, filled(path, ids), **filled(asked, ids))
    return answer.status, answer.json


def by_cli(tocsin: Tocsin, case: Case, ids: Ids, *extra: str, **where: str) -> Answer:
    words = shlex.split(filled((case.words or "").replace("{{", "{").replace("}}", "}"), ids))
    return tocsin(*words, *(word for word in extra if word not in words), **where)


@pytest.fixture
def url(dsn: str, ids: dict[str, Ids], hub: Callable[..., Hub]) -> str:
    """A hub that serves no agents, so that what is queued stays so."""
    return hub("serve", TOCSIN_DATABASE_URL=dsn).url


def test_every_operation_is_answered_alike(dsn: str, url: str, ids: dict[str, Ids], tocsin: Tocsin) -> None:
    for case in DONE:
        told = plain(by_python(dsn, case, ids["python"]))
        status, answered = by_http(dsn, case, ids["http"])
        assert status < 300, (case.title, answered)
        if isinstance(told, list):
            answered = answered["items"]
        assert plain(answered) == told, case.title
        assert plain(by_client(url, case, ids["client"])) == told, case.title
        if case.words is None:
            continue
        objects = told if isinstance(told, list) else [told]
        for edge, where in {"cli": {"TOCSIN_DATABASE_URL": dsn}, "elsewhere": {"TOCSIN_URL": url}}.items():
            answer = by_cli(tocsin, case, ids[edge], "--json", **where)
            assert answer.code == 0, (case.title, edge, answer.err)
            assert plain(answer.objects) == objects, (case.title, edge)


def test_every_refusal_is_alike(dsn: str, url: str, ids: dict[str, Ids], tocsin: Tocsin) -> None:
    for case in REFUSED:
        with pytest.raises(TocsinError) as raised:
            by_python(dsn, case, ids["python"])
        error = raised.value
        status, problem = by_http(dsn, case, ids["python"])
        assert (problem.get("code"), status >= 400) == (error.code, True), (case.title, problem)
        assert problem["detail"] == str(error), case.title
        with pytest.raises(type(error)) as elsewhere:
            by_client(url, case, ids["python"])
        assert (elsewhere.value.code, str(elsewhere.value)) == (error.code, str(error)), case.title
        here = by_cli(tocsin, case, ids["python"], TOCSIN_DATABASE_URL=dsn)
        assert (here.code, here.out) == (code_of(error), ""), case.title
        if error.code != "not_found":  # the command line looks further for a name that is near
            assert here.lines[-1] == f"tocsin: {error}", case.title
        there = by_cli(tocsin, case, ids["python"], TOCSIN_URL=url)
        assert there == here, case.title
