"""What is asked again and what never is, for how long, and what becomes of a refusal."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.sdk.client.asking import Scripted, Still, asking, problem, said
from tocsin.domain import errors
from tocsin.domain.errors import BadInput, HubUnavailable, NotFound, Refused, Stale, TocsinError
from tocsin.sdk.client.asking import Request

pytestmark = pytest.mark.anyio

UNREACHED = httpx2.ConnectError("connection refused")
CUT = httpx2.ReadError("connection reset")
GET = Request(method="GET", path=("runs",))
KEYED = Request(method="POST", path=("triggers", "t", "fire"), key="k")
UNKEYED = Request(method="POST", path=("keys",), body={"name": "x"})
DELETE = Request(method="DELETE", path=("triggers", "t"))
PATCH = Request(method="PATCH", path=("triggers", "t"), body={"agent": "a"}, if_match='"1"')
FINE = {"fine": True}


@pytest.mark.parametrize("request_", [GET, KEYED, DELETE], ids=["GET", "POST with a key", "DELETE"])
@pytest.mark.parametrize(
    "fault",
    [
        UNREACHED,
        CUT,
        httpx2.RemoteProtocolError("gone"),
        problem(429, "throttled"),
        problem(503, "database_unavailable"),
        problem(503, "contended"),
        problem(409, "in_progress"),
        httpx2.Response(502, content=b"<html>"),
    ],
    ids=str,
)
async def test_what_can_be_done_twice_is_asked_again(request_: Request, fault: Any) -> None:
    hub, clock = Scripted(fault, said(FINE)), Still()
    assert await asking(hub, clock).ask(request_, dict[str, Any]) == FINE
    assert len(hub.asked) == 2
    assert hub.asked[0].content == hub.asked[1].content
    assert len(set(hub.keys)) == 1


@pytest.mark.parametrize("fault", [UNREACHED, CUT, problem(429, "throttled"), problem(503, "starting")], ids=str)
async def test_a_post_without_a_key_is_asked_once(fault: Any) -> None:
    hub, clock = Scripted(fault, said(FINE)), Still()
    with pytest.raises(TocsinError):
        await asking(hub, clock).ask(UNKEYED, dict[str, Any])
    assert (len(hub.asked), clock.slept) == (1, [])


@pytest.mark.parametrize("fault", [UNREACHED, problem(429, "throttled"), problem(503, "contended")], ids=str)
async def test_an_edit_is_asked_again_where_it_was_surely_not_done(fault: Any) -> None:
    hub = Scripted(fault, said(FINE))
    assert await asking(hub, Still()).ask(PATCH, dict[str, Any]) == FINE
    assert hub.asked[1].headers["if-match"] == '"1"'


@pytest.mark.parametrize("fault", [CUT, httpx2.ReadTimeout("slow"), problem(503, "database_unavailable")], ids=str)
async def test_an_edit_that_may_have_been_done_is_not_asked_again(fault: Any) -> None:
    hub = Scripted(fault, said(FINE))
    with pytest.raises(TocsinError):
        await asking(hub, Still()).ask(PATCH, dict[str, Any])
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (422, "bad_input"), (500, "error"), (409, "conflict")]
)
async def test_what_would_be_refused_again_is_asked_once(status: int, code: str) -> None:
    hub = Scripted(problem(status, code), said(FINE))
    with pytest.raises(TocsinError) as refused:
        await asking(hub, Still()).ask(GET, dict[str, Any])
    assert (refused.value.code, str(refused.value), len(hub.asked)) == (code, "it says no", 1)


async def test_the_pauses_grow_to_a_limit_and_are_drawn() -> None:
    hub, clock = Scripted(*[UNREACHED] * 10, said(FINE)), Still()
    await asking(hub, clock).ask(GET, dict[str, Any])
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
    hub, clock = Scripted(UNREACHED, said(FINE)), Still()
    await asking(hub, clock, draw=0.5).ask(GET, dict[str, Any])
    assert clock.slept == [0.05]


async def test_why_it_is_asked_again_is_told() -> None:
    told: list[str] = []
    ask = asking(
        Scripted(UNREACHED, problem(503, "starting"), said(FINE)), Still(), again=lambda e: told.append(e.code)
    )
    await ask.ask(GET, dict[str, Any])
    assert told == ["hub_unavailable", "starting"]


async def test_the_hub_says_how_long_to_wait() -> None:
    date = {"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry_after": "Wed, 21 Oct 2026 07:28:03 GMT"}
    hub = Scripted(
        problem(503, "starting", retry_after="7"),
        problem(503, "starting", **date),
        problem(503, "starting", retry_after="soon"),
        said(FINE),
    )
    clock = Still()
    await asking(hub, clock).ask(GET, dict[str, Any])
    assert clock.slept == [7.0, 3.0, 0.4]


async def test_no_time_is_lost_on_a_wait_that_is_too_long() -> None:
    hub, clock = Scripted(problem(429, "throttled", retry_after="31")), Still()
    with pytest.raises(Refused) as refused:
        await asking(hub, clock, timeout=30).ask(GET, dict[str, Any])
    assert (refused.value.code, clock.slept) == ("throttled", [])


async def test_the_time_is_limited_over_all_tries() -> None:
    hub, clock = Scripted(*[UNREACHED] * 100), Still()
    with pytest.raises(HubUnavailable, match=r"http://hub\.test: connection refused"):
        await asking(hub, clock, timeout=10).ask(GET, dict[str, Any])
    assert sum(clock.slept) <= 10


async def test_an_answer_that_does_not_come_is_not_waited_for_beyond_that() -> None:
    async def never(_: httpx2.Request) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(HubUnavailable, match="it takes too long"):
        await asking(never, Still(), timeout=0.05).ask(UNKEYED, dict[str, Any])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx2.Response(200, content=b"<html>hello</html>"), "does not answer as a hub does"),
        (said({"other": 1}), "does not answer as a hub does"),
        (httpx2.Response(404, content=b"<html>nothing</html>"), "404 Not Found"),
        (
            httpx2.Response(301, headers={"location": "https://hub.test/v1"}),
            "301 Moved Permanently to https://hub.test",
        ),
        (httpx2.Response(599, content=b"x"), "599"),
    ],
)
async def test_who_is_no_hub_is_told_apart(answer: httpx2.Response, told: str) -> None:
    with pytest.raises(HubUnavailable) as refused:
        await asking(Scripted(answer), Still()).ask(GET, dict[str, bool])
    assert told in str(refused.value)
    assert "TOCSIN_URL" in str(refused.value)


@pytest.mark.parametrize(
    "kind",
    [
        errors.BadInput,
        errors.InvalidSchedule,
        errors.PayloadTooLarge,
        errors.NotFound,
        errors.Conflict,
        errors.Stale,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.DatabaseUnavailable,
        errors.SchemaMismatch,
    ],
)
async def test_a_refusal_is_the_error_that_it_is_elsewhere(kind: type[TocsinError]) -> None:
    hub = Scripted(problem(400, kind.code, "as it was said"))
    with pytest.raises(kind) as refused:
        await asking(hub, Still()).ask(UNKEYED, dict[str, Any])
    assert type(refused.value) is kind
    assert (refused.value.code, str(refused.value)) == (kind.code, "as it was said")


async def test_what_an_error_names_comes_along() -> None:
    hub = Scripted(
        problem(404, "not_found", about={"kind": "trigger", "name": "t"}), problem(412, "stale", about={"version": 3})
    )
    ask = asking(hub, Still())
    with pytest.raises(NotFound) as missing:
        await ask.ask(GET, dict[str, Any])
    assert (missing.value.kind, missing.value.name) == ("trigger", "t")
    with pytest.raises(Stale) as stale:
        await ask.ask(GET, dict[str, Any])
    assert stale.value.version == 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "key_reused", BadInput),
        (409, "in_progress", Refused),
        (503, "starting", HubUnavailable),
        (418, "new", TocsinError),
    ],
)
async def test_a_code_that_only_the_api_has_stays_what_it_is(status: int, code: str, kind: type[TocsinError]) -> None:
    with pytest.raises(kind) as refused:
        await asking(Scripted(problem(status, code)), Still()).ask(UNKEYED, dict[str, Any])
    assert refused.value.code == code
    assert kind.code != code


async def test_names_are_quoted_and_what_leads_elsewhere_is_nobodys_name() -> None:
    hub = Scripted(said(FINE), said(FINE))
    ask = asking(hub, Still())
    await ask.ask(Request(method="GET", path=("triggers", "a?b%2F#é")), dict[str, Any])
    assert hub.asked[0].url.raw_path == b"/v1/triggers/a%3Fb%252F%23%C3%A9"
    query = {"state": ["queued", "running"], "all": True, "cursor": None, "trigger": "a&b"}
    await ask.ask(Request(method="GET", path=("runs",), query=query), dict[str, Any])
    assert hub.asked[1].url.raw_path == b"/v1/runs?state=queued&state=running&all=true&trigger=a%26b"
    for name in ("", ".", ".."):
        with pytest.raises(NotFound, match="no trigger"):
            await ask.ask(Request(method="GET", path=("triggers", name, "why")), dict[str, Any])
    assert len(hub.asked) == 2


async def test_a_key_that_no_header_can_have_is_refused() -> None:
    with pytest.raises(BadInput, match="must be ASCII"):
        await asking(Scripted(), Still()).ask(Request(method="POST", path=("runs",), key="é"), dict[str, Any])
