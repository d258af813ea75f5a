"""The live stream over real connections: what is sent, and how each of its ends comes."""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID

import pytest

from tests.edges.http.following import SMALL, Block, Following, Hub, a_hub, following
from tests.engine.building import Heard, World, a_replica, a_trigger, an_app, eventually, no_agent
from tocsin.clock import SystemClock
from tocsin.domain.feed import Position
from tocsin.domain.trigger import Overlap
from tocsin.edges.http import sse, streams
from tocsin.edges.http.front import Front
from tocsin.edges.http.health import Health
from tocsin.edges.http.hosting import hosted_api
from tocsin.edges.http.listener import Listener, bound
from tocsin.edges.watching import Watching
from tocsin.engine.control import Control

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(world: World) -> AsyncIterator[Hub]:
    async with a_hub(world.dsn) as hub:
        await hub.control.declare(an_app(a_trigger("t", overlap=Overlap.ALLOW), a_trigger("u", overlap=Overlap.ALLOW)))
        yield hub


async def fire(hub: Hub, count: int = 1, trigger: str = "t") -> list[str]:
    return [str(one["id"]) for one in await hub.control.fire_many(trigger, [(None, None)] * count)]


async def is_open(stream: Following) -> None:
    """It has begun, and said where."""
    async with asyncio.timeout(10):
        async for block in stream.blocks():
            if block.id is not None:
                return
    raise AssertionError("it has ended")


def runs(blocks: list[Block]) -> list[str]:
    return [block.data["run_id"] for block in blocks]


async def test_a_transition_is_told_as_an_event_with_the_place_to_go_on_from(hub: Hub) -> None:
    async with following(hub.port) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        first = await anext(stream.blocks())
        assert (first.retry, first.event) == (sse.RETRY, "")
        await is_open(stream)
        [run] = await fire(hub)
        [told] = await stream.events(1)
        assert told.id is not None
        Position.of_text(told.id)
        at = (await hub.control.run(UUID(run)))["transitions"][0]["at"]
        assert told.data == {
            "run_id": run,
            "trigger": "t",
            "agent": "agent",
            "kind": "manual",
            "seq": 1,
            "from_state": None,
            "to_state": "queued",
            "attempt": 0,
            "fence": 0,
            "actor": "test",
            "reason": "manual",
            "at": at.isoformat().replace("+00:00", "Z"),
        }


async def test_a_stream_goes_on_at_another_replica_without_a_gap_or_a_double(world: World, hub: Hub) -> None:
    async with a_hub(world.dsn) as other:
        heard: list[str] = []
        place: str | None = None
        async with following(hub.port) as stream:
            await is_open(stream)
            place = stream.last_id
        asking = asyncio.create_task(_ask(hub, 40))
        for turn in range(40):
            async with following((hub, other)[turn % 2].port, after=place) as stream:
                heard += runs(await stream.events(5))
                place = stream.last_id
        assert Counter(heard) == Counter(await asking)


async def _ask(hub: Hub, parts: int) -> list[str]:
    asked = []
    for _ in range(parts):
        asked += await fire(hub, 5)
        await asyncio.sleep(0.01)
    return asked


async def test_only_what_is_asked_for_is_told(hub: Hub) -> None:
    async with following(hub.port, "?trigger=u&state=queued&state=failed&kind=manual") as stream:
        await is_open(stream)
        await fire(hub, 3)
        [run] = await fire(hub, 1, "u")
        assert runs(await stream.events(1)) == [run]
        async with following(hub.port, f"?run={run}&agent=agent", after=stream.last_id) as later:
            await hub.control.cancel_run(UUID(run))
            [cancelled] = await later.events(1)
            assert (cancelled.data["to_state"], cancelled.data["from_state"]) == ("cancelled", "queued")


@pytest.mark.parametrize(
    ("query", "after", "status"),
    [
        ("?trigger=nobody", None, 404),
        ("?agent=nobody", None, 404),
        ("?run=01a21630-dd9d-760f-9a3b-f2dcee862feb", None, 404),
        ("?run=x", None, 422),
        ("?state=asleep", None, 422),
        ("?triger=t", None, 422),
        ("", "42", 422),
        ("", "a.1+0.1+0", 422),
        ("", "a.0+0", 422),
        ("", "a.2+1.1+1.1", 422),
        ("", "a.1+ffffffffffffffff", 422),
        ("", "a.1+3+2+1", 422),
        ("", "a." + "1+" * 5_000 + "1", 422),
    ],
)
async def test_what_cannot_be_followed_is_refused(hub: Hub, query: str, after: str | None, status: int) -> None:
    async with following(hub.port, query, after=after) as answer:
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert hub.log.count("http.broken") == 0


async def test_where_something_may_be_missing_it_says_so_first(world: World, hub: Hub) -> None:
    async with following(hub.port) as stream:
        await is_open(stream)
        assert stream.last_id is not None
        elsewhere = f"x{stream.last_id}"
    async with following(hub.port, after=elsewhere) as stream:
        [gap] = await stream.events(1, "gap")
        assert gap.data == {"reason": "renewed"}
        run = await fire(hub)
        assert runs(await stream.events(1)) == run


async def test_whoever_hears_nothing_is_given_a_sign_of_life_and_its_place(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STILL_AFTER", 0.2)
    async with following(hub.port, "?state=failed") as stream:
        await is_open(stream)
        place = stream.last_id
        await fire(hub)
        async with asyncio.timeout(10):
            async for block in stream.blocks():
                assert (block.event, block.comment) == ("", "still here")
                if block.id != place:
                    break
        # What was not wanted is behind it.
        async with following(hub.port, after=stream.last_id) as later:
            run = await fire(hub)
            assert runs(await later.events(1)) == run


async def test_a_stream_that_nobody_reads_is_cut_while_others_go_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """And costs no more than what the system and one piece hold: the readers have no buffers of their own."""
    monkeypatch.setattr(streams, "TAKEN_WITHIN", 0.5)
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(following(hub.port, buffer=SMALL)) for _ in range(20)]
        quick = await stack.enter_async_context(following(hub.port))
        for stream in (*slow, quick):
            await is_open(stream)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        asked: list[str] = []
        for _ in range(12):
            part = await fire(hub, 1_000)
            asked += part
            assert runs(await quick.events(1_000)) == part
        await eventually(lambda: hub.log.count("stream.slow") == 20)
        # Each of them would have had some five megabytes to be told.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024
        run = await fire(hub)
        assert runs(await quick.events(1)) == run
        # It goes on where it was, from the database by now.
        for stream in slow[:1]:
            heard = [block async for block in stream.blocks() if block.event == "transition"]
            assert not stream.ended
            async with following(hub.port, after=stream.last_id) as again:
                rest = await again.events(len(asked) + 1 - len(heard))
            assert runs(heard) + runs(rest) == asked + run
    assert hub.log.count("http.broken") == 0


async def test_there_is_room_for_so_many_and_no_more(world: World) -> None:
    async with a_hub(world.dsn, most=2) as hub, following(hub.port) as first:
        async with following(hub.port) as second:
            await is_open(first)
            await is_open(second)
            async with following(hub.port) as third:
                assert (third.status, third.headers["retry-after"]) == (503, "5")
        await eventually(lambda: not hub.streams.is_full)
        async with following(hub.port) as third:
            assert third.status == 200


async def test_a_drain_sees_everybody_off_to_another_replica(world: World, hub: Hub) -> None:
    async with a_hub(world.dsn) as other, AsyncExitStack() as stack:
        open_ = [await stack.enter_async_context(following(hub.port)) for _ in range(5)]
        for stream in open_:
            await is_open(stream)
        run = await fire(hub)
        await hub.stack.aclose()
        ends = [[block async for block in stream.blocks()] for stream in open_]
        assert all(stream.ended for stream in open_)
        assert [blocks[-1].data for blocks in ends] == [{"reason": "draining"}] * 5
        low, high = sse.COMES_WITHIN
        assert all(low <= (blocks[-1].retry or 0) <= high for blocks in ends)
        # A client that comes back too soon is sent on, and not told to give up.
        async with following(hub.port, after=open_[0].last_id) as again:
            assert (again.status, len(await again.events(1, "end"))) == (200, 1)
        for stream, blocks in zip(open_, ends, strict=True):
            told = [block for block in blocks if block.event == "transition"]
            async with following(other.port, after=stream.last_id) as later:
                assert runs(told) + runs(await later.events(1 - len(told))) == run


async def test_a_key_that_is_revoked_or_expires_ends_its_streams_within_a_second_and_no_other(
    hub: Hub,
) -> None:
    keys = hub.control.keys
    soon = await hub.control.now() + timedelta(seconds=1.5)
    revoked = (await keys.create("revoked", scopes=["read"]))["key"]
    expiring = (await keys.create("expiring", scopes=["read"], expires_at=soon))["key"]
    valid = (await keys.create("valid", scopes=["operate"]))["key"]
    async with (
        following(hub.port, key=revoked) as one,
        following(hub.port, key=expiring) as two,
        following(hub.port, key=valid) as three,
    ):
        for stream in (one, two, three):
            await is_open(stream)
        await keys.revoke("revoked")
        async with asyncio.timeout(1):
            [end] = await one.events(1, "end")
        assert end.data == {"reason": "revoked"}
        assert [block.data for block in await two.events(1, "end")] == [{"reason": "revoked"}]
        run = await fire(hub)
        assert runs(await three.events(1)) == run
        async with following(hub.port, key=revoked, after=one.last_id) as again:
            assert again.status == 401


async def test_the_first_key_ends_the_streams_that_had_none(hub: Hub) -> None:
    async with following(hub.port) as stream:
        await is_open(stream)
        await hub.control.keys.create("first", scopes=["read"])
        async with asyncio.timeout(1):
            [end] = await stream.events(1, "end")
        assert end.data == {"reason": "revoked"}


async def test_a_client_that_has_left_is_followed_by_nothing(hub: Hub) -> None:
    async with following(hub.port) as stream:
        await is_open(stream)
    await eventually(lambda: not hub.streams.tail.is_followed)
    await eventually(lambda: hub.streams.tail.history is None)


async def test_a_replica_hosts_streams_and_sees_them_off_as_it_drains(world: World) -> None:
    present = Control(database=world.database, clock=SystemClock(), actor="test")
    await present.declare(an_app(a_trigger("t", overlap=Overlap.ALLOW)))
    async with a_replica(world.dsn, {"agent": no_agent}) as replica:
        front = Front(Health("0", lambda: None), log=Heard())
        sock = bound("127.0.0.1:0")
        async with Listener(sock, front):
            watching = Watching(limit=0, log=Heard())
            hosting = hosted_api(front, dsn=world.dsn, replica=replica, watching=watching, log=Heard())
            async with hosting, AsyncExitStack() as stack:
                stream = await stack.enter_async_context(following(int(sock.getsockname()[1])))
                await is_open(stream)
                await present.fire("t")
                told = await stream.events(3)
                assert [block.data["to_state"] for block in told] == ["queued", "running", "succeeded"]
                leaving = stack.pop_all()
            async with leaving:
                [end] = await stream.events(1, "end")
                assert end.data == {"reason": "draining"}
