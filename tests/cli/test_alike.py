"""Python, HTTP and the command line are one: the same answer, and the same refusal, for each operation."""

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.cli.conftest import Answer
from tests.edges.http.client import Client, a_client
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
from tocsin.store.database import Database

Tocsin = Callable[..., Answer]
Ask = Callable[[Control, "Ids"], Awaitable[Any]]

SINCE = datetime(2026, 3, 1, tzinfo=UTC)
EDGES = ("python", "http", "cli")


@dataclass(frozen=True, slots=True)
class Ids:
    """What an edge has for itself. t: its trigger; queued, ended: its runs."""

    t: str
    queued: UUID
    ended: UUID


@dataclass(frozen=True, slots=True)
class Case:
    """One operation. http: (method, path, what is asked); {t}, {queued} and {ended} stand for what the edge has."""

    title: str
    python: Ask
    http: tuple[str, str, dict[str, Any]]
    words: str | None = None

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
    ),
    Case(
        "preview a schedule",
        lambda c, i: c.insight.preview_schedule(PARIS, count=3, after=SINCE),
        ("POST", "/v1/preview", {"json": {"schedule": NEW_SCHEDULE, "count": 3, "after": "2026-03-01T00:00:00Z"}}),
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
    Case("list instances", lambda c, i: c.roster.instances(limit=50), ("GET", "/v1/instances", {}), "instance list"),
    Case("list events", lambda c, i: c.events.page(limit=50), ("GET", "/v1/events", {}), "event list"),
    Case("show event", lambda c, i: c.events.show(1), ("GET", "/v1/events/1", {}), "event show 1"),
    Case("decisions", lambda c, i: c.insight.decisions(limit=50), ("GET", "/v1/decisions", {})),
    Case("usage", lambda c, i: c.insight.usage(by=["model"]), ("GET", "/v1/usage", {"query": {"by": "model"}})),
    Case("forecast", lambda c, i: c.insight.forecast(1), ("GET", "/v1/forecast", {"query": {"hours": 1}})),
    Case(
        "create key",
        lambda c, i: c.keys.create(f"{i.t}-key", agents=["agent"]),
        ("POST", "/v1/keys", {"json": {"name": "{t}-key", "scopes": ["agent"], "agents": ["agent"]}}),
        "key create {t}-key --agent agent --json",
    ),
    Case("list keys", lambda c, i: c.keys.all(), ("GET", "/v1/keys", {}), "key list"),
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
    Case("no event", lambda c, i: c.events.show(77), ("GET", "/v1/events/77", {}), "event show 77"),
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
        "no instance", lambda c, i: c.roster.instance("nope"), ("GET", "/v1/instances/nope", {}), "instance show nope"
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
    Case("no key", lambda c, i: c.keys.revoke("nope"), ("DELETE", "/v1/keys/nope", {}), "key revoke nope"),
    Case(
        "a key for nothing",
        lambda c, i: c.keys.create("x"),
        ("POST", "/v1/keys", {"json": {"name": "x"}}),
        "key create x",
    ),
]


async def _now(make: Callable[[], object]) -> object:
    return make()


VOLATILE = {"id", "key", "created_at", "changed_at", "created_by", "queued_at", "nominal_at", "effective_at", "at",
            "available_at", "paused_at", "next_at", "wake_at", "since", "until", "now", "finished_at", "actor",
            "after", "source", "decided_at"}  # fmt: skip
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
        case str():
            return value.replace("{t}", ids.t).replace("{queued}", str(ids.queued)).replace("{ended}", str(ids.ended))
        case _:
            return value


def by_python(dsn: str, case: Case, ids: Ids) -> Any:
    async def ask() -> Any:
        async with Opened(dsn) as control:
            return msgspec.json.decode(msgspec.json.encode(jsonable(await case.python(control, ids))))

    return asyncio.run(ask())


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


async def _answered(client: Client, case: Case, ids: Ids) -> tuple[int, Any]:
    method, path, asked = case.http
    answer = await client.ask(method, filled(path, ids), **filled(asked, ids))
    return answer.status, answer.json


def by_cli(tocsin: Tocsin, dsn: str, case: Case, ids: Ids, *extra: str) -> Answer:
    words = shlex.split(filled((case.words or "").replace("{{", "{").replace("}}", "}"), ids))
    return tocsin(*words, *(word for word in extra if word not in words), TOCSIN_DATABASE_URL=dsn)


def test_every_operation_is_answered_alike(dsn: str, ids: dict[str, Ids], tocsin: Tocsin) -> None:
    for case in DONE:
        told = plain(by_python(dsn, case, ids["python"]))
        status, answered = by_http(dsn, case, ids["http"])
        assert status < 300, (case.title, answered)
        if isinstance(told, list):
            answered = answered["items"]
        assert plain(answered) == told, case.title
        if case.words is None:
            continue
        answer = by_cli(tocsin, dsn, case, ids["cli"], "--json")
        assert answer.code == 0, (case.title, answer.err)
        objects = plain(answer.objects)
        if isinstance(told, list):
            assert objects == told, case.title
        else:
            assert objects == [told], case.title


def test_every_refusal_is_alike(dsn: str, ids: dict[str, Ids], tocsin: Tocsin) -> None:
    for case in REFUSED:
        with pytest.raises(TocsinError) as raised:
            by_python(dsn, case, ids["python"])
        error = raised.value
        status, problem = by_http(dsn, case, ids["python"])
        assert (problem.get("code"), status >= 400) == (error.code, True), (case.title, problem)
        assert problem["detail"] == str(error), case.title
        answer = by_cli(tocsin, dsn, case, ids["python"])
        assert (answer.code, answer.out) == (code_of(error), ""), case.title
        if error.code != "not_found":  # the command line looks further for a name that is near
            assert answer.lines[-1] == f"tocsin: {error}", case.title
