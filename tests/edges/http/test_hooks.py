"""/hooks/NAME: a signed call is an event of its trigger, committed before it is answered; whatever else is refused."""

import asyncio
import base64
import gzip
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks

from tests.edges.http.client import Answer, Client, a_front
from tests.edges.http.hooking import GITHUB, JSON, SECRET, call, encoded, github, hooked, secrets
from tests.engine.building import SECOND, Heard, World, a_trigger, an_end
from tocsin.domain.event import MAX_BODY_KEPT, Event
from tocsin.domain.event_rule import on_event
from tocsin.domain.hook import webhook
from tocsin.edges.http.hooks import Room
from tocsin.edges.http.throttle import FAILURES, REFILL

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("secrets")]

__all__ = ["secrets"]

FORM = "application/x-www-form-urlencoded"
STANDARD = webhook("standard", secret="STANDARD_SECRET")


async def inputs(world: World) -> list[Any]:
    return [json.loads(row["input"]) for row in await world.rows("SELECT input FROM tocsin.runs ORDER BY id")]


async def events(world: World) -> list[dict[str, Any]]:
    return await world.rows("SELECT * FROM tocsin.events ORDER BY seq")


# --- a call is an event


async def test_a_call_is_a_run_of_its_trigger_and_of_no_other(world: World, client: Client) -> None:
    await world.declare(
        hooked(event=on_event("push", where="data.ref == 'refs/heads/main'", input="data.head")),
        hooked("u"),
        a_trigger("any", event=on_event("*")),
        a_trigger("all", event=on_event("push", source="*")),
    )
    answer = await call(client, body=encoded({"ref": "refs/heads/main", "head": "abc"}))
    assert (answer.status, answer.json) == (200, {"status": "accepted", "id": "d-1"})
    assert await inputs(world) == ["abc"]
    await call(client, body=encoded({"ref": "refs/heads/other"}), delivery="d-2")
    await call(client, body=encoded({"zen": "…"}), delivery="d-3", event="ping")
    rows = await world.rows(
        "SELECT t.name, r.kind, r.asked_by FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id"
    )
    assert [tuple(row.values()) for row in rows] == [("t", "event", "hooks")]
    assert [(row["id"], row["source"], row["type"]) for row in await events(world)] == [
        ("d-1", "/hooks/t", "push"),
        ("d-2", "/hooks/t", "push"),
        ("d-3", "/hooks/t", "ping"),
    ]


async def test_others_may_listen_to_a_hook_by_its_name(world: World, client: Client) -> None:
    await world.declare(
        hooked(),
        a_trigger("ear", event=on_event("push", source="/hooks/t", input="id")),
        a_trigger("wide", event=on_event("*", source="/hooks/*", input="id")),
        a_trigger("deaf", event=on_event("*", source="/hooks/u", input="id")),
    )
    await call(client)
    rows = await world.rows("SELECT t.name FROM tocsin.runs r JOIN tocsin.triggers t ON t.id = r.trigger_id ORDER BY 1")
    assert [row["name"] for row in rows] == ["ear", "t", "wide"]


async def test_a_hook_hears_nothing_of_the_hub_and_so_nothing_is_written_for_it(world: World, client: Client) -> None:
    await world.declare(hooked(), hooked("runs", event=on_event("run.*")))
    await world.control.fire("t")
    peer = await world.peer()
    await peer.settle(an_end(await peer.claim_one()))
    assert await events(world) == []


async def test_nobody_else_speaks_in_a_hook_s_name(world: World, client: Client) -> None:
    await world.declare(hooked())
    form = {"specversion": "1.0", "id": "1", "source": "/hooks/t", "type": "push"}
    body, media = encoded(form), {"content-type": "application/cloudevents+json"}
    assert (await client.ask("POST", "/v1/events", body=body, headers=media)).status == 422
    forged = encoded(form | {"source": "/shop"})
    assert (await client.ask("POST", "/v1/events", body=forged, headers=media)).status == 200
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


async def test_windows_pauses_and_input_are_as_of_any_event(world: World, client: Client) -> None:
    await world.declare(
        hooked(event=on_event("*", batch="5s", input="data.n")),
        hooked("asleep"),
        hooked("typo", event=on_event("*", where="length(data.n)")),
    )
    await world.control.pause("asleep")
    for n in (1, 2):
        await call(client, body=encoded({"n": n}), delivery=f"d-{n}")
    assert await inputs(world) == [[1, 2]]
    for name in ("asleep", "typo"):
        assert (await call(client, name)).json["status"] == "accepted"
    listed = (await client.get("/v1/events")).json["items"]
    assert [[one["reason"] for one in row["calls"]] for row in listed] == [["filter"], ["paused"], [None], [None]]


async def test_a_body_is_read_as_its_type_says(world: World, client: Client) -> None:
    await world.declare(hooked(event=on_event("*", input="data")))
    cases: list[tuple[bytes, str, Any]] = [
        (b"[1, 2]", JSON, [1, 2]),
        (b'"text"', "application/json; charset=utf-8", "text"),
        (b'{"a": 1}', "application/vnd.acme+json", {"a": 1}),
        (b"", JSON, None),
        (b"", "", None),
        (b"a=1&b=&a=%C3%A4&c=x+y", FORM, {"a": ["1", "ä"], "b": "", "c": "x y"}),
        (b"payload=%7B%22ref%22%3A%20%22main%22%7D", FORM, {"ref": "main"}),
    ]
    for number, (body, media, _) in enumerate(cases):
        headers = github(body, delivery=f"d-{number}", media=media)
        answer = await client.ask("POST", "/hooks/t", body=body, headers=headers)
        # The two empty ones are the same signed bytes, whatever they are called.
        assert answer.json["status"] == ("duplicate" if number == 4 else "accepted"), answer.json
    assert await inputs(world) == [value for number, (_, _, value) in enumerate(cases) if number != 4]


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"{", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"[" * 501 + b"]" * 501, JSON, 400),
        (b'"\\u0000"', JSON, 400),
        (b'{"n": 1e999}', JSON, 400),
        (b"payload=%7B", FORM, 400),
        (b"a=%FF", FORM, 400),
        (b"a=%00", FORM, 400),
        (b"&".join(b"a=1" for _ in range(1_001)), FORM, 400),
        (b"<a/>", "text/xml", 415),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"--x\r\n\r\nhi\r\n--x--", "multipart/form-data; boundary=x", 415),
        (b'"' + b"x" * 1_048_574 + b'"', JSON, 413),
        (b'"' + b"x" * 1_045_000 + b'"', JSON, 413),
    ],
)
async def test_what_cannot_be_read_is_refused_and_not_written(
    world: World, client: Client, body: bytes, media: str, status: int
) -> None:
    await world.declare(hooked())
    answer = await client.ask("POST", "/hooks/t", body=body, headers=github(body, media=media))
    assert (answer.status, bool(answer.code)) == (status, True)
    assert await events(world) == []
    # The same call, once it is mended, is no duplicate.
    assert (await call(client)).json["status"] == "accepted"


async def test_the_signature_counts_before_anything_is_read(world: World, client: Client) -> None:
    await world.declare(hooked())
    for body, media in ((b"{", JSON), (b"<a/>", "text/xml"), (b"[" * 100_000, JSON)):
        answer = await client.ask("POST", "/hooks/t", body=body, headers=github(body, secret="no", media=media))
        assert answer.code == "unverified"


async def test_the_bytes_are_kept_as_they_came_up_to_a_limit(world: World, client: Client) -> None:
    await world.declare(hooked())
    for number, body in enumerate((b'{ "n":1 ,"n": 2 }\n', b'"' + b"x" * MAX_BODY_KEPT + b'"')):
        headers = github(body, delivery=f"d-{number}", media="application/json; charset=utf-8")
        assert (await client.ask("POST", "/hooks/t", body=body, headers=headers)).status == 200
    latest, first = (await client.get("/v1/events")).json["items"]
    shown = (await client.get(f"/v1/events/{first['number']}")).json
    assert (shown["body"], shown["size"], shown["data"]) == ('{ "n":1 ,"n": 2 }\n', 18, {"n": 2})
    assert shown["media"] == "application/json; charset=utf-8"
    shown = (await client.get(f"/v1/events/{latest['number']}")).json
    assert (len(shown["body"]), shown["size"], len(shown["data"])) == (MAX_BODY_KEPT, MAX_BODY_KEPT + 2, MAX_BODY_KEPT)


# --- once


async def test_a_call_that_comes_again_is_told_so_and_runs_nothing(world: World, client: Client) -> None:
    await world.declare(hooked())
    assert (await call(client)).json == {"status": "accepted", "id": "d-1"}
    again = await call(client)
    assert (again.status, again.json) == (200, {"status": "duplicate", "id": "d-1"})
    assert (await call(client, body=b'{"n": 2}')).json["status"] == "duplicate"
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 1


async def test_signed_bytes_under_another_name_are_no_new_call(world: World, client: Client) -> None:
    """GitHub signs neither the delivery's id nor the event's name: who has recorded a call could change both."""
    await world.declare(hooked(), hooked("u"))
    await call(client)
    assert (await call(client, delivery="d-2")).json == {"status": "duplicate", "id": "d-2"}
    assert (await call(client, delivery="d-3", event="release")).json["status"] == "duplicate"
    headers = github(b'{"n": 1}')
    del headers["x-github-delivery"]
    assert (await client.ask("POST", "/hooks/t", body=b'{"n": 1}', headers=headers)).json["status"] == "duplicate"
    assert (await call(client, "u")).json["status"] == "accepted"
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 2


async def test_calls_at_once_are_written_together_and_each_is_told_its_own(world: World, client: Client) -> None:
    await world.declare(hooked(event=on_event("*", input="data.n")))
    bodies = [encoded({"n": n % 50}) for n in range(100)]
    before = world.database.calls
    answers = await asyncio.gather(
        *(call(client, body=body, delivery=f"d-{number % 50}") for number, body in enumerate(bodies))
    )
    assert world.database.calls - before < 60
    assert [answer.json["status"] for answer in answers].count("accepted") == 50
    assert sorted(await inputs(world)) == list(range(50))


# --- Standard Webhooks


def standard(body: bytes, *, at: Any, event_id: str = "msg_1") -> dict[str, str]:
    signature = standardwebhooks.Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign(event_id, at, body.decode())
    return {
        "content-type": JSON,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }


async def test_a_standard_webhook_says_its_type_in_its_body(world: World, client: Client) -> None:
    await world.declare(hooked("invoices", STANDARD, event=on_event("invoice.*", input="data.data")))
    for number, kind in enumerate(("invoice.paid", "user.created")):
        body = encoded({"type": kind, "timestamp": "2026-03-01T12:00:00Z", "data": {"n": number}})
        headers = standard(body, at=world.clock.now(), event_id=f"msg_{number}")
        assert (await client.ask("POST", "/hooks/invoices", body=body, headers=headers)).status == 200
    assert await inputs(world) == [{"n": 0}]
    assert [row["type"] for row in await events(world)] == ["invoice.paid", "user.created"]


async def test_an_old_call_is_refused_by_the_database_s_clock(world: World, client: Client) -> None:
    await world.declare(hooked("t", STANDARD))
    headers = standard(b"{}", at=world.clock.now())
    world.clock.turn(timedelta(seconds=300))
    assert (await client.ask("POST", "/hooks/t", body=b"{}", headers=headers)).json["status"] == "accepted"
    world.clock.turn(SECOND)
    answer = await client.ask("POST", "/hooks/t", body=b"{}", headers=headers)
    assert (answer.status, answer.code) == (401, "unverified")
    assert "301 s old" in answer.json["detail"]


async def test_between_two_looks_the_clock_goes_on(world: World, client: Client) -> None:
    await world.declare(hooked("t", STANDARD))
    headers = standard(b"{}", at=world.clock.now() - timedelta(seconds=299))
    assert (await client.ask("POST", "/hooks/t", body=b"{}", headers=headers)).status == 200
    world.clock.turn(0.5)
    headers = standard(b"{}", at=world.clock.now() - timedelta(seconds=300.5))
    assert (await client.ask("POST", "/hooks/t", body=b"{}", headers=headers)).status == 401


async def test_a_call_tells_why_others_do_not_hear_it_and_an_event_why_a_hook_does_not(
    world: World, client: Client
) -> None:
    await world.declare(
        hooked("t", event=on_event("push")),
        hooked("u", event=on_event("push")),
        a_trigger("deaf", event=on_event("push")),
        a_trigger("heard", event=on_event("push", source="/hooks/u")),
    )
    await call(client)
    await world.control.emit([Event(id="1", source="/shop", type="push")])
    ours, told = [(await client.get(f"/v1/events/{number}")).json["uncalled"] for number in (1, 2)]
    assert {one["trigger"]: one["because"] for one in ours} == {
        "deaf": "a webhook's call is for those whose rule names its source: '/hooks/t'",
        "heard": "source '/hooks/t' is not /hooks/u",
        "u": "it has a hook: only calls of /hooks/u are for it",
    }
    assert {one["trigger"]: one["because"] for one in told} == {
        "heard": "source '/shop' is not /hooks/u",
        "t": "it has a hook: only calls of /hooks/t are for it",
        "u": "it has a hook: only calls of /hooks/u are for it",
    }


# --- who is refused


async def test_a_hook_that_is_not_there_is_refused_as_one_that_is_called_wrongly(world: World, client: Client) -> None:
    await world.declare(hooked(), a_trigger("plain", event=on_event("*")), a_trigger("hand"))
    answers = [
        await call(client, name, secret="wrong") for name in ("t", "nobody", "plain", "hand", "", "t/", "T", "ü")
    ]
    unsigned = await client.ask("POST", "/hooks/t", body=b"{}")
    odd = await client.ask("POST", "/hooks/t", body=b"{}", headers={"x-github-delivery": "x" * 501})
    for answer in [*answers, unsigned, odd]:
        assert (answer.status, answer.code) == (401, "unverified")
        assert answer.headers["www-authenticate"]
        assert (answer.body, answer.headers) == (
            answers[0].body,
            answers[0].headers | {"content-length": answer.headers["content-length"]},
        )
    assert await events(world) == []
    whys = [fields["error"] for event, fields in client.log.events if event == "hook.refused"]
    assert len(whys) == len(answers) + 2
    assert whys[0] == "its x-hub-signature-256 fits no secret that the hub has for this hook"
    assert whys[1] == "no trigger of that name has a hook"
    assert whys[-1] == "it has no x-hub-signature-256"


async def test_a_hook_is_called_with_post(world: World, client: Client) -> None:
    await world.declare(hooked())
    for method in ("GET", "PUT", "HEAD"):
        answer = await client.ask(method, "/hooks/t")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_every_call_is_counted_by_how_it_was_answered(world: World) -> None:
    await world.declare(hooked())
    answers: list[str] = []
    log = Heard()
    client = Client(a_front(world.database, world.clock, log, failures=1, tell=answers.append), log)
    body = encoded({"a": 1})
    for said in ("accepted", "duplicate"):
        assert (await call(client, body=body)).json["status"] == said
    await call(client, body=body, secret="another")
    await call(client, body=body, secret="another")
    await call(client, body=b"{", delivery="d-2")
    await client.get("/hooks/t")
    assert answers == ["accepted", "duplicate", "unverified", "throttled", "bad_input", "method_not_allowed"]


async def test_failures_are_held_up_and_signed_calls_never(world: World, client: Client) -> None:
    await world.declare(hooked())
    stranger = client.having(address="192.0.2.7")
    told = [(await call(stranger, secret="wrong")).status for _ in range(FAILURES + 3)]
    assert told == [401] * FAILURES + [429] * 3
    assert int((await call(stranger, secret="wrong")).headers["retry-after"]) >= 1
    assert client.log.count("hook.refused") == FAILURES
    assert (await call(stranger)).status == 200
    assert (await call(client.having(address="192.0.2.8"), secret="wrong")).status == 401
    world.clock.turn(REFILL)
    assert (await call(stranger, secret="wrong")).status == 401


async def test_no_key_is_asked_for_and_no_proxy_is_in_the_way(world: World, client: Client) -> None:
    await world.declare(hooked())
    await world.control.keys.create("k", scopes=["admin"])
    world.clock.turn(SECOND)
    body = b'{"n": 1}'
    headers = github(body) | {"host": "hub.example.org", "x-forwarded-for": "140.82.112.1"}
    answer = await client.having(address="10.0.0.9").ask("POST", "/hooks/t", body=body, headers=headers)
    assert answer.status == 200


async def test_both_secrets_count_while_one_takes_the_place_of_the_other(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_NEXT", "the next one")
    await world.declare(hooked(hook=webhook("github", secret=["HOOK_SECRET", "HOOK_NEXT"])))
    assert (await call(client)).status == 200
    assert (await call(client, body=b"2", secret="the next one", delivery="d-2")).status == 200
    await world.declare(hooked(hook=webhook("github", secret="HOOK_NEXT")))
    world.clock.turn(SECOND)
    assert (await call(client, body=b"3", delivery="d-3")).status == 401
    assert (await call(client, body=b"3", secret="the next one", delivery="d-3")).status == 200


async def test_a_secret_that_is_not_there_opens_nothing_and_is_told_once(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_EMPTY", "")
    monkeypatch.setenv("HOOK_TORN", "whsec_canary!")
    monkeypatch.setenv("HOOK_HOLLOW", "whsec_")
    await world.declare(
        hooked(hook=webhook("github", secret="HOOK_EMPTY")),
        hooked("u", webhook("github", secret="HOOK_MISSING")),
        hooked("v", webhook("standard", secret="HOOK_TORN")),
        hooked("w", webhook("standard", secret="HOOK_HOLLOW")),
    )
    for name in ("t", "u", "v", "t"):
        assert (await call(client, name, secret="")).code == "unverified"
    mac = hmac.digest(b"", f"1.{int(world.clock.now().timestamp())}.{{}}".encode(), "sha256")
    forged = {
        "content-type": JSON,
        "webhook-id": "1",
        "webhook-timestamp": str(int(world.clock.now().timestamp())),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }
    assert (await client.ask("POST", "/hooks/w", body=b"{}", headers=forged)).code == "unverified"
    told = [fields for event, fields in client.log.events if event == "hook.secretless"]
    assert [(one["trigger"], one["variable"]) for one in told] == [
        ("t", "HOOK_EMPTY"),
        ("u", "HOOK_MISSING"),
        ("v", "HOOK_TORN"),
        ("w", "HOOK_HOLLOW"),
    ]
    assert "canary" not in str(client.log.events)
    refused = [fields["error"] for event, fields in client.log.events if event == "hook.refused"]
    assert refused == ["the hub has no secret for this hook: see hook.secretless in its log"] * 5


async def test_a_hook_without_verification_is_open_to_all_but_pages_in_browsers(world: World, client: Client) -> None:
    await world.declare(hooked(hook=webhook("none"), event=on_event("*", input="data")))
    ask = {"content-type": JSON}
    for n in (1, 1):
        assert (await client.ask("POST", "/hooks/t", body=encoded(n), headers=ask)).json["status"] == "accepted"
    for status in ("accepted", "duplicate"):
        answer = await client.ask("POST", "/hooks/t", body=b"2", headers=ask | {"webhook-id": "7"})
        assert answer.json == {"status": status, "id": "7"}
    for more in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert (await client.ask("POST", "/hooks/t", body=b"3", headers=ask | more)).status == 403
    assert await inputs(world) == [1, 1, 2]
    assert client.log.count("hook.unverified") == 1


async def test_a_change_of_a_hook_counts_within_a_second_and_a_new_one_sooner(world: World, client: Client) -> None:
    await world.declare(hooked())
    assert (await call(client)).status == 200
    await world.control.delete_trigger("t")
    assert (await call(client, body=b"2", delivery="d-2")).status == 200
    assert await world.value("SELECT count(*) FROM tocsin.runs WHERE state = 'queued'") == 0
    world.clock.turn(0.81)
    assert (await call(client, body=b"3", delivery="d-3")).status == 401
    await world.declare(hooked("fresh"))
    assert (await call(client, "fresh")).status == 401
    world.clock.turn(0.11)
    assert (await call(client, "fresh")).status == 200


async def test_a_flood_of_unknown_names_asks_the_database_ten_times_a_second(world: World, client: Client) -> None:
    await world.declare(hooked())
    stranger = client.having(address="192.0.2.7")
    before = world.database.calls
    for number in range(200):
        await call(stranger, f"n{number}")
        world.clock.turn(0.005)
    assert world.database.calls - before <= 11


async def test_a_trigger_that_is_quarantined_is_called_again_later(world: World, client: Client) -> None:
    await world.declare(hooked())
    await world.admin.execute("UPDATE tocsin.triggers SET status = 'broken', broken_reason = 'x'")
    answer = await call(client)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "conflict", "1")
    assert (await call(client, secret="wrong")).status == 401
    assert await events(world) == []


async def test_a_hook_that_was_written_behind_our_back_is_no_hook(world: World, client: Client) -> None:
    await world.declare(hooked(), hooked("u"))
    await world.admin.execute(
        """UPDATE tocsin.triggers SET policy = policy || '{"hook": {"scheme": 5}}' WHERE name = 't'"""
    )
    assert (await call(client)).status == 401
    assert (await call(client, "u")).status == 200
    assert client.log.count("hook.secretless") == 1


# --- limits


async def test_compressed_bodies_are_not_even_read(world: World, client: Client) -> None:
    await world.declare(hooked())
    bomb = gzip.compress(b" " * 10_000_000)
    for encoding in ("gzip", "br", "deflate, gzip"):
        headers = github(bomb) | {"content-encoding": encoding}
        assert (await client.ask("POST", "/hooks/t", body=bomb, headers=headers)).code == "unsupported_media_type"


async def test_bodies_take_up_so_much_together_and_no_more(world: World) -> None:
    await world.declare(hooked())
    log = Heard()
    room = Room(most=100)
    client = Client(a_front(world.database, world.clock, log, room=room), log)
    assert (await call(client, body=b'"' + b"x" * 90 + b'"')).status == 200
    answer = await call(client, body=b'"' + b"x" * 99 + b'"', delivery="d-2")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "busy", "1")
    answers: list[Answer] = await asyncio.gather(
        *(call(client, body=b'"' + str(n).encode() + b"x" * 40 + b'"', delivery=f"d-1{n}") for n in range(5))
    )
    assert sorted(answer.status for answer in answers) == [200, 200, 503, 503, 503]
    assert room.held == 0
    assert await world.value("SELECT count(*) FROM tocsin.events") == 3


async def test_what_has_two_of_a_header_is_signed_by_nobody(world: World, client: Client) -> None:
    await world.declare(hooked())
    body = b'{"n": 1}'
    headers = github(body) | {"X-Hub-Signature-256": "sha256=" + "0" * 64}
    answer = await client.ask("POST", "/hooks/t", body=body, headers=headers)
    assert answer.code == "unverified"


async def test_a_poisoned_call_takes_no_other_along(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.declare(hooked())
    await world.admin.execute("ALTER TABLE tocsin.events ADD CONSTRAINT planted CHECK (data <> '{\"n\": 13}')")
    answers = await asyncio.gather(*(call(client, body=encoded({"n": n}), delivery=f"d-{n}") for n in range(10, 16)))
    assert [answer.status for answer in answers] == [200, 200, 200, 500, 200, 200]
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 5


# --- how it is written and shown


async def test_a_hook_is_made_edited_and_taken_away_over_http(world: World, client: Client) -> None:
    await world.declare()
    form = {"scheme": "github", "secret": "HOOK_SECRET"}
    made = await client.post("/v1/triggers", {"name": "t", "agent": "agent", "hook": form, "event": {"type": "push"}})
    assert made.status == 201, made.json
    assert (made.json["hook"], made.json["hook_text"]) == (form, "github, secret HOOK_SECRET")
    assert (made.json["status"], made.json["event"], made.json["policy"]["overlap"]) == (
        "listening",
        {"type": "push"},
        "queue_all",
    )
    assert "hook" not in made.json["policy"]
    again = {name: made.json[name] for name in ("agent", "schedule", "event", "hook", "input", "policy")}
    edited = await client.patch("/v1/triggers/t", again, if_match='"1"')
    assert (edited.status, edited.json["hook"]) == (200, form)
    told = (await client.get("/v1/triggers/t/why")).json["standing"][0]
    assert told == "It runs when it is called at /hooks/t (github, secret HOOK_SECRET): on push."
    bare = await client.patch("/v1/triggers/t", {"hook": None}, if_match="*")
    assert (bare.json["status"], bare.json["hook"], bare.json["event"]) == ("manual", None, None)
    back = await client.patch("/v1/triggers/t", {"hook": {"scheme": "none"}}, if_match="*")
    assert (back.json["status"], back.json["event"], back.json["hook_text"]) == (
        "listening",
        {"type": "*"},
        "called by anybody",
    )
    scheduled = await client.patch("/v1/triggers/t", {"schedule": {"rules": [{"every_seconds": 60}]}}, if_match="*")
    assert (scheduled.json["status"], scheduled.json["hook"], scheduled.json["event"]) == ("armed", None, None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hook": {"scheme": "github"}}, "secret"),
        ({"hook": {"scheme": "x"}}, "scheme 'x'"),
        ({"hook": {"scheme": "github", "secret": "whsec_canary!"}}, "not the secret"),
        ({"hook": {"scheme": "none"}, "schedule": {"rules": [{"every_seconds": 60}]}}, "two triggers"),
        ({"hook": {"scheme": "none"}, "event": {"type": "x", "source": "/y"}}, "the source itself"),
        ({"hook": {"scheme": "none"}, "input": {}}, "brings its own"),
    ],
)
async def test_a_hook_that_makes_no_sense_is_refused(
    world: World, client: Client, fields: dict[str, Any], said: str
) -> None:
    await world.declare()
    answer = await client.post("/v1/triggers", {"name": "t", "agent": "agent", **fields})
    assert (answer.status, answer.code) == (422, "bad_input")
    assert said in answer.json["detail"]
    assert "canary" not in answer.body.decode()


async def test_secrets_are_nowhere_but_in_the_environment(world: World, client: Client) -> None:
    """Planted: the secret, and a signature made with it, in whatever a caller may get wrong."""
    await world.declare(hooked(), hooked("other", webhook("standard", secret="STANDARD_SECRET")))
    said = [
        await call(client),
        await call(client, secret=SECRET + "x"),
        await call(client, body=b"{"),
        await call(client, body=encoded({"n": 2}), media="text/plain"),
        await call(client, "other"),
        await client.get("/v1/triggers"),
        await client.get("/v1/triggers/t"),
        await client.get("/v1/events"),
        await client.get("/v1/events/1"),
        await client.get("/v1/triggers/t/why"),
        await client.post(
            "/v1/triggers", {"name": "x", "agent": "agent", "hook": {"scheme": "github", "secret": SECRET}}
        ),
    ]
    await world.admin.execute("ALTER TABLE tocsin.events ADD CONSTRAINT planted CHECK (id <> 'd-5')")
    said.append(await call(client, body=b"5", delivery="d-5"))
    assert [answer.status for answer in said] == [200, 401, 400, 415, 401, 200, 200, 200, 200, 200, 422, 500]
    signature = github(b'{"n": 1}')["x-hub-signature-256"].removeprefix("sha256=")
    whole = [answer.body.decode() + str(answer.headers) for answer in said] + [str(client.log.events)]
    tables = await world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'tocsin'")
    assert len(tables) > 15
    for table in tables:
        whole += [str(row) for row in await world.rows(f"SELECT t::text FROM tocsin.{table['tablename']} t")]
    assert GITHUB.secret[0] in "".join(whole)
    for canary in ("canary", SECRET, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", signature):
        assert not [text for text in whole if canary in text], canary
