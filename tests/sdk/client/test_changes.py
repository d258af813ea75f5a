"""The stream: what is said is read as it was meant, and goes on where it broke off."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.sdk.client.asking import Scripted, Still, asking, problem
from tests.sdk.client.fake import HOLD, STREAM, FakeHub, answer
from tocsin.domain.errors import Forbidden, HubUnavailable
from tocsin.sdk.client import Change, Client, StreamedTransition
from tocsin.sdk.client.asking import Request
from tocsin.sdk.client.changes import Changes, stirred

pytestmark = pytest.mark.anyio


async def told(hub: FakeHub, count: int, *, within: float = 30.0, **only: Any) -> list[Change]:
    """So many changes."""
    found: list[Change] = []
    async with Client(hub.url, timeout=within) as client, aclosing(client.stream(**only)) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == count:
                return found
    raise AssertionError


def an_event(number: int, kind: str = "news") -> bytes:
    return f'id: {number}\nevent: {kind}\ndata: {{"n": {number}}}\n\n'.encode()


async def test_changes_have_their_id_their_kind_and_what_they_tell() -> None:
    async with FakeHub([STREAM, an_event(1), an_event(2, "usage"), HOLD]) as hub:
        assert await told(hub, 2, trigger="t") == [
            Change("1", "news", {"n": 1}),
            Change("2", "usage", {"n": 2}),
        ]
        assert hub.targets == ["/v1/stream?trigger=t"]
        assert "last-event-id" not in hub.heads[0]
        assert hub.heads[0]["accept"] == "text/event-stream"


@pytest.mark.parametrize(
    "parts",
    [
        [b'id: 7\r\nevent: x\r\ndata: {\r\ndata: "n": 1}\r\n\r\n'],
        [b'id: 7\revent: x\rdata: {"n": 1}\r\r', b": more\r"],
        [b': hello\n\nid: 7\n: again\nevent:x\ndata:{"n": 1}\nnonsense\nother: 5\n\n'],
        [bytes([byte]) for byte in b'id: 7\r\nevent: x\r\ndata: {"n": 1}\r\n\r\n'],
        [b'\n\n\nretry: 5\nid: 7\nevent: x\ndata: {"n": 1}\n\n'],
    ],
    ids=["several lines", "CR", "comments", "byte by byte", "retry"],
)
async def test_an_event_may_come_in_any_form(parts: list[bytes]) -> None:
    async with FakeHub([STREAM, *parts, HOLD]) as hub:
        assert await told(hub, 1) == [Change("7", "x", {"n": 1})]


async def test_a_line_ends_only_where_the_stream_says_so() -> None:
    data = '{"text": "a\u2028b\u0085cd é"}'.encode()
    async with FakeHub([STREAM, b"id: 1\ndata: " + data[:17], data[17:] + b"\n\n", HOLD]) as hub:
        assert (await told(hub, 1))[0].data == {"text": "a\u2028b\u0085cd é"}


async def test_it_goes_on_where_it_broke_off() -> None:
    scripts: list[list[bytes]] = [
        [STREAM, b"retry: 1\n\n", an_event(1), an_event(2), b'id: 3\ndata: {"n"'],  # cut in the middle of a third
        [answer(b"busy", status="503 Service Unavailable", media="text/plain")],
        [STREAM, b"id: 9\n\n"],  # nothing but an id
        [STREAM, an_event(10), HOLD],
    ]
    async with FakeHub(*scripts) as hub:
        assert [change.id for change in await told(hub, 3)] == ["1", "2", "10"]
        assert [head.get("last-event-id") for head in hub.heads] == [None, "2", "2", "9"]


async def test_a_transition_is_read_to_its_types() -> None:
    data = (
        b'{"run_id": "0199f0c2-7c1e-7000-8000-4d1b2f3a5c6e", "trigger": "t", "agent": "a", "kind": "event", "seq": 3, '
        b'"from_state": "running", "to_state": "failed", "attempt": 1, "fence": 1, "actor": "x", "reason": null, '
        b'"at": "2027-01-04T08:00:01.25Z", "more": 1}'
    )
    async with FakeHub([STREAM, b"id: 1\nevent: transition\ndata: " + data + b"\n\n", HOLD]) as hub:
        (change,) = await told(hub, 1)
    assert set(change.data) == set(StreamedTransition.__required_keys__)
    assert (change.data["run_id"].version, change.data["at"].year, change.data["to_state"]) == (7, 2027, "failed")


async def test_a_hub_that_leaves_is_come_back_to_and_what_may_be_missing_is_told() -> None:
    scripts: list[list[bytes]] = [
        [STREAM, an_event(1), b'event: end\ndata: {"reason":"draining"}\nretry: 1\n\n'],
        [STREAM, b": still here\nid: 5\n\n"],
        [STREAM, b'id: 6\nevent: gap\ndata: {"reason":"old"}\n\n', HOLD],
    ]
    async with FakeHub(*scripts) as hub:
        assert [change.kind for change in await told(hub, 2)] == ["news", "gap"]
        assert [head.get("last-event-id") for head in hub.heads] == [None, "1", "5"]


async def test_a_hub_that_is_full_says_when_to_come_again() -> None:
    clock = Still()
    hub = Scripted(problem(503, "too_many_streams", retry_after="5"), problem(403, "forbidden"))
    changes = Changes(asking(hub, clock), Request(method="GET", path=("stream",)), after=None)
    with pytest.raises(Forbidden):
        await anext(changes.follow())
    assert clock.slept == [5.0]


async def test_it_begins_behind_the_change_that_is_named() -> None:
    async with FakeHub([STREAM, an_event(6), HOLD]) as hub:
        await told(hub, 1, after="5")
        assert hub.heads[0]["last-event-id"] == "5"


async def test_a_connection_that_falls_silent_is_made_again() -> None:
    async with (
        FakeHub([STREAM, an_event(1), HOLD], [STREAM, an_event(2), HOLD]) as hub,
        Client(hub.url) as client,
    ):
        changes = Changes(client._asking, Request(method="GET", path=("stream",)), after=None, silence=0.1)
        async with aclosing(changes.follow()) as follow:
            assert [(await anext(follow)).id, (await anext(follow)).id] == ["1", "2"]


async def test_what_is_refused_is_not_asked_again() -> None:
    form = b'{"code": "forbidden", "detail": "this needs a key of scope read", "status": 403}'
    async with FakeHub([answer(form, status="403 Forbidden", media="application/problem+json")]) as hub:
        with pytest.raises(Forbidden, match="scope read"):
            await told(hub, 1)
        assert len(hub.heads) == 1


@pytest.mark.parametrize(
    "script",
    [[answer(b"<html>", media="text/html")], [STREAM, b"data: no JSON\n\n", HOLD]],
    ids=["html", "text"],
)
async def test_who_is_no_hub_is_told_apart(script: list[bytes]) -> None:
    async with FakeHub(script) as hub:
        with pytest.raises(HubUnavailable, match="check TOCSIN_URL"):
            await told(hub, 1)
        assert len(hub.heads) == 1


class Endless:
    """A clock on which no time goes by."""

    def __init__(self) -> None:
        self.sleeps = asyncio.Event()

    async def sleep(self, _: float) -> None:
        self.sleeps.set()
        await asyncio.get_running_loop().create_future()


async def test_a_change_ends_a_wait() -> None:
    async with (
        asyncio.timeout(10),
        FakeHub([STREAM, an_event(1), HOLD]) as hub,
        Client(hub.url) as client,
        stirred(client.stream(), Endless()) as wait,  # type: ignore[arg-type]
    ):
        await wait(3600)


async def test_where_there_is_no_stream_a_wait_is_a_wait() -> None:
    form = b'{"code": "not_found", "detail": "there is nothing here", "status": 404}'
    none = [answer(form, status="404 Not Found", media="application/problem+json")]
    clock = Endless()
    async with FakeHub(none) as hub, Client(hub.url) as client:
        async with stirred(client.stream(), clock) as wait:  # type: ignore[arg-type]
            waiting = asyncio.ensure_future(wait(3600))
            await clock.sleeps.wait()
            await hub.asked.wait()
            assert not waiting.done()
            waiting.cancel()
        async with stirred(client.stream(), Still()) as wait:
            await wait(3600)


async def test_no_hub_is_looked_for_without_an_end() -> None:
    async with FakeHub([STREAM]) as hub:
        url = hub.url
    async with Client(url, timeout=0.5) as client, aclosing(client.stream()) as changes:
        with pytest.raises(HubUnavailable, match="no answer from"):
            await anext(changes)


async def test_a_stream_that_ends_again_and_again_is_no_stream() -> None:
    async with FakeHub([answer(b"busy", status="503 Service Unavailable", media="text/plain")]) as hub:
        with pytest.raises(HubUnavailable, match="503"):
            await told(hub, 1, within=0.5)
        assert len(hub.heads) > 1
