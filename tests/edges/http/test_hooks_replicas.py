"""Webhooks at two hubs of one database: each call runs once whatever comes how often where, also while that is slow."""

import asyncio
import json
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks

from tests.edges.http.client import a_front
from tests.edges.http.hooking import JSON, Caller, encoded, github, hooked, secrets
from tests.edges.http.test_limits import Raw, listening
from tests.engine.building import Heard, World, a_trigger, an_app, eventually
from tests.engine.proxy import Proxy, a_proxy
from tocsin.clock import SystemClock
from tocsin.domain.event_rule import on_event
from tocsin.domain.hook import webhook
from tocsin.edges.http.front import MAX_BODY
from tocsin.edges.http.patience import MAX_HEAD, Impatient
from tocsin.engine.control import Control
from tocsin.store.database import Database

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("secrets")]

__all__ = ["secrets"]

MOST_WAITING = 150
STANDARD = webhook("standard", secret="STANDARD_SECRET")


@dataclass
class Hubs:
    """Two hubs, each with sessions of its own through a proxy of its own. answers: of each id, what was said of it."""

    ports: list[int]
    proxies: list[Proxy]
    log: Heard
    answers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    async def call(
        self, hub: int, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        caller = Caller(self.ports[hub])
        try:
            return await caller.post(path, body, headers)
        finally:
            caller.close()

    def note(self, event_id: str, status: int, content: bytes) -> None:
        said = json.loads(content)["status"] if status == 200 else ""
        self.answers.setdefault(event_id, []).append((status, said))


@pytest.fixture
async def hubs(world: World) -> AsyncIterator[Hubs]:
    log = Heard()
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    triggers = (
        hooked(event=on_event("*", input="id")),
        hooked("s", STANDARD, event=on_event("*", input="id")),
        a_trigger("manual"),
    )
    await control.declare(an_app(*triggers))
    async with AsyncExitStack() as stack:
        proxies, ports = [], []
        for _ in range(2):
            proxy = await stack.enter_async_context(a_proxy(world.dsn))
            database = Database(proxy.dsn, size=2)
            stack.push_async_callback(database.close)
            front = a_front(database, SystemClock(), log, failures=100_000, most_waiting=MOST_WAITING)
            ports.append(await stack.enter_async_context(listening(front)))
            proxies.append(proxy)
        yield Hubs(ports, proxies, log)
    assert log.count("http.broken") == 0, log.events


async def runs_by_id(world: World) -> Counter[str]:
    return Counter(json.loads(row["input"]) for row in await world.rows("SELECT input FROM tocsin.runs"))


def standard(event_id: str, body: bytes, *, off: float = 0, secret: str | None = None) -> dict[str, str]:
    at = datetime.now(UTC) + timedelta(seconds=off)
    signing = standardwebhooks.Webhook(secret or "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return {
        "content-type": JSON,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signing.sign(event_id, at, body.decode()),
    }


async def test_replayed_forged_stale_doubled_and_reordered_calls_run_once_each(world: World, hubs: Hubs) -> None:
    """F26: each genuine call comes four times, at both hubs at once, among others that nobody signed so."""
    count = 60
    good = [(f"m-{n}", encoded({"n": n})) for n in range(count)]
    calls: list[tuple[int, str, bytes, dict[str, str], bool]] = []
    for event_id, body in good:
        calls += [(hub, event_id, body, standard(event_id, body), True) for hub in (0, 1, 0, 1)]
        bad = [
            standard(event_id, body, off=-301),
            standard(event_id, body, off=310),
            standard(event_id, body, secret="whsec_AAAA"),
            standard(f"x{event_id}", body) | {"webhook-id": event_id},
            standard(event_id, body + b" "),
            {name: value for name, value in standard(event_id, body).items() if name != "webhook-signature"},
        ]
        calls += [(number % 2, event_id, body, headers, False) for number, headers in enumerate(bad)]
    random.Random(7).shuffle(calls)
    gate = asyncio.Semaphore(40)

    async def one(hub: int, event_id: str, body: bytes, headers: dict[str, str], is_good: bool) -> None:
        async with gate:
            status, _, content = await hubs.call(hub, "/hooks/s", body, headers)
        assert (status == 200) == is_good, (status, content)
        if is_good:
            hubs.note(event_id, status, content)

    await asyncio.gather(*(one(*call) for call in calls))
    assert {event_id: Counter(said for _, said in told) for event_id, told in hubs.answers.items()} == {
        event_id: {"accepted": 1, "duplicate": 3} for event_id, _ in good
    }
    assert await runs_by_id(world) == Counter({event_id: 1 for event_id, _ in good})


async def test_the_same_call_at_both_hubs_at_the_same_moment_runs_once(world: World, hubs: Hubs) -> None:
    """And what somebody recorded, under other ids at both."""
    for round_ in range(40):
        body = encoded({"round": round_})
        ids = [f"r-{round_}", f"r-{round_}", f"x-{round_}", f"y-{round_}"]
        told = await asyncio.gather(
            *(hubs.call(n % 2, "/hooks/t", body, github(body, delivery=event_id)) for n, event_id in enumerate(ids))
        )
        said = Counter(json.loads(content)["status"] for status, _, content in told if status == 200)
        assert said == {"accepted": 1, "duplicate": 3}
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 40


async def test_a_flood_while_the_database_is_slow_loses_nothing_and_is_bounded(world: World, hubs: Hubs) -> None:
    """F27: what is answered with 200 is there; the rest is told when to come again, and that doubles nothing."""
    for proxy in hubs.proxies:
        proxy.delay(0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body_of = {f"f-{n}": encoded({"n": n, "padding": "x" * 2_000}) for n in range(1_200)}
    left = asyncio.Queue[str]()
    for event_id in body_of:
        left.put_nowait(event_id)

    async def flood(number: int) -> None:
        caller = Caller(hubs.ports[number % 2])
        while not left.empty():
            event_id = left.get_nowait()
            body = body_of[event_id]
            status, headers, content = await caller.post("/hooks/t", body, github(body, delivery=event_id))
            hubs.note(event_id, status, content)
            if status == 503:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(content)["code"] in ("busy", "database_unavailable")
        caller.close()

    async with asyncio.timeout(120):
        await asyncio.gather(*(flood(number) for number in range(800)))
    statuses = Counter(status for told in hubs.answers.values() for status, _ in told)
    assert set(statuses) <= {200, 503}, statuses
    assert all(proxy.met for proxy in hubs.proxies)
    assert min(statuses[200], statuses[503]) > 100, statuses
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 * 1024
    sessions = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tocsin'"
    )
    # Two of each hub, and the test's own.
    assert await world.value(sessions) <= 2 * 2 + 6
    acknowledged = {event_id for event_id, told in hubs.answers.items() if (200, "accepted") in told}
    there = await runs_by_id(world)
    assert acknowledged <= set(there)
    assert set(there.values()) == {1}
    # What was refused comes again, at the other hub.
    for proxy in hubs.proxies:
        proxy.restore()
    again = [event_id for event_id in body_of if event_id not in acknowledged]
    gate = asyncio.Semaphore(50)

    async def once_more(number: int, event_id: str) -> None:
        async with gate:
            body = body_of[event_id]
            status, _, _ = await hubs.call(number % 2, "/hooks/t", body, github(body, delivery=event_id))
            assert status == 200

    await asyncio.gather(*(once_more(number, event_id) for number, event_id in enumerate(again)))
    assert await runs_by_id(world) == Counter(dict.fromkeys(body_of, 1))


async def test_calls_whose_answer_is_lost_on_its_way_from_the_database_run_once(world: World, hubs: Hubs) -> None:
    """Whether the transaction was committed is not known: it is told as 503, and the call comes again elsewhere."""

    async def cut_after(count: int) -> tuple[str, ...]:
        """What was said of a call while a new session to the database carries so many bytes."""
        event_id = f"c-{len(hubs.answers)}"
        body = encoded({"id": event_id.rjust(10)})
        await hubs.proxies[0].cut()
        hubs.proxies[0].cut_after(count)
        status, _, content = await hubs.call(0, "/hooks/t", body, github(body, delivery=event_id.rjust(10, "_")))
        hubs.proxies[0].restore()
        hubs.note(event_id, status, content)
        if status != 200:
            assert status == 503
            status, _, content = await hubs.call(1, "/hooks/t", body, github(body, delivery=event_id.rjust(10, "_")))
            hubs.note(event_id, status, content)
        assert status == 200
        return tuple(said for _, said in hubs.answers[event_id])

    too_few, enough = 1_000, 60_000
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        said = await cut_after(middle)
        too_few, enough = (too_few, middle) if said == ("accepted",) else (middle, enough)
    for fewer in range(40):
        await cut_after(enough - fewer)
    said_of = Counter(tuple(said for _, said in told) for told in hubs.answers.values())
    assert set(said_of) == {("accepted",), ("", "accepted"), ("", "duplicate")}, said_of
    assert set((await runs_by_id(world)).values()) == {1}
    assert await world.value("SELECT count(*) FROM tocsin.runs") == len(hubs.answers)


async def test_a_database_that_is_gone_is_told_and_forgotten_once_it_is_back(world: World, hubs: Hubs) -> None:
    body = b'{"n": 1}'
    await hubs.proxies[0].refuse()
    status, headers, content = await hubs.call(0, "/hooks/t", body, github(body))
    assert (status, headers["retry-after"], json.loads(content)["code"]) == (503, "1", "database_unavailable")
    hubs.proxies[0].restore()

    async def taken() -> bool:
        return (await hubs.call(0, "/hooks/t", body, github(body)))[0] == 200

    await eventually(taken)
    assert await runs_by_id(world) == Counter({"d-1": 1})


async def test_bodies_that_are_slow_endless_or_too_large_are_given_up(
    world: World, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F25."""
    monkeypatch.setattr(Impatient, "within", 0.5)
    signed = "".join(f"{name}: {value}\r\n" for name, value in github(b"{}").items())
    post = f"POST /hooks/t HTTP/1.1\r\nhost: hub\r\n{signed}"
    chunk = f"{0x10000:x}\r\n" + "x" * 0x10000 + "\r\n"
    cases: list[tuple[str, int]] = [
        (post + f"content-length: {MAX_BODY + 1}\r\n\r\n", 413),
        (post + "transfer-encoding: chunked\r\n\r\n" + chunk * 20, 413),
        (post + "content-length: 1000\r\n\r\n{", 408),
        (post + "x: " + "x" * MAX_HEAD + "\r\n\r\n", 431),
        (post + "content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", 415),
    ]
    for text, expected in cases:
        async with Raw(hubs.ports[0]) as connection:
            await connection.say(text)
            assert (await connection.hear())[0] == expected, expected
    async with Raw(hubs.ports[0]) as connection:
        await connection.say(post + "content-length: 1000\r\n\r\n{")
    status, _, _ = await hubs.call(0, "/hooks/t", b"{}", github(b"{}"))
    assert status == 200
    assert await world.value("SELECT count(*) FROM tocsin.events") == 1
