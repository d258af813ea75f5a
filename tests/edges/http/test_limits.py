"""Bodies, heads and connections beyond their limits are refused, early, and cost nobody else anything."""

import asyncio
import gzip
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.edges.http.client import Client, a_front
from tests.engine.building import Heard, World, a_trigger
from tocsin.domain.errors import Refused
from tocsin.edges.http.front import MAX_BODY, Front
from tocsin.edges.http.health import Health
from tocsin.edges.http.listener import Listener, bound, url_of
from tocsin.edges.http.patience import MAX_HEAD, Corked, Impatient

pytestmark = pytest.mark.anyio

FIRE = "/v1/triggers/t/fire"


@asynccontextmanager
async def listening(front: Front) -> AsyncIterator[int]:
    """The port on which it is."""
    sock = bound("127.0.0.1:0")
    port = int(sock.getsockname()[1])
    async with Listener(sock, front):
        yield port


@pytest.fixture
async def port(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(Impatient, "within", 0.5)
    await world.declare(a_trigger("t"))
    log = Heard()
    async with listening(a_front(world.database, world.clock, log)) as port:
        yield port
    # Whatever a stranger does is no fault of ours.
    assert log.count("http.broken") == 0


class Raw:
    """A connection on which everything may be said."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Raw":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def say(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        with suppress(OSError):
            await self.writer.drain()

    async def hear(self) -> tuple[int, bytes]:
        """(status, body), (0, b"") where the connection was closed without a word."""
        async with asyncio.timeout(10):
            try:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.lower().splitlines()
                size = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
                return int(head.split()[1]), await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, b""


async def asked(port: int, text: str | bytes) -> tuple[int, str]:
    """(status, code) of the answer."""
    async with Raw(port) as connection:
        await connection.say(text)
        status, body = await connection.hear()
        return status, json.loads(body)["code"] if status >= 400 else ""


def a_post(path: str, *headers: str) -> str:
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers)
    return "\r\n".join([*lines, "", ""])


async def test_a_body_is_counted_whatever_it_says_of_its_length(port: int) -> None:
    assert await asked(port, a_post(FIRE, f"Content-Length: {MAX_BODY + 1}")) == (413, "payload_too_large")
    assert await asked(port, a_post(FIRE, "Content-Length: " + "9" * 15)) == (413, "payload_too_large")
    chunk = f"{0x10000:x}\r\n" + "x" * 0x10000 + "\r\n"
    assert await asked(port, a_post(FIRE, "Transfer-Encoding: chunked") + chunk * 20) == (413, "payload_too_large")


async def test_a_body_of_two_lengths_is_refused_and_nothing_after_it_is_read(port: int) -> None:
    """A proxy that goes by the other length would hand on somebody else's request in this one's body."""
    async with Raw(port) as connection:
        smuggled = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        length = f"Content-Length: {5 + len(smuggled)}"
        await connection.say(a_post("/v1/preview", length, "Transfer-Encoding: chunked") + "0\r\n\r\n" + smuggled)
        status, body = await connection.hear()
        assert (status, json.loads(body)["code"]) == (400, "bad_input")
        assert await connection.hear() == (0, b"")


async def test_a_body_without_end_is_not_kept(port: int) -> None:
    async with Raw(port) as connection:
        await connection.say(a_post(FIRE, "Transfer-Encoding: chunked"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chunk = f"{0x100000:x}\r\n".encode() + b" " * 0x100000 + b"\r\n"
        for _ in range(200):
            if connection.writer.is_closing():
                break
            await connection.say(chunk)
            await asyncio.sleep(0)
        assert (await connection.hear())[0] in (413, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_the_largest_body_is_taken(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    frame = len('{"input": ""}')
    assert (await client.post(FIRE, {"input": "x" * (MAX_BODY - frame)})).status == 201
    answer = await client.post(FIRE, {"input": "x" * (MAX_BODY - frame + 1)})
    assert (answer.status, answer.code) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 501 + b"]" * 501,
        b'{"input": ' * 501 + b"1" + b"}" * 501,
        b"{",
        b'{"input": 1} x',
        b'{"input": NaN}',
        b'{"input": 1e999}',
        b'{"input": "\\ud800"}',
        b'{"input": "\\u0000"}',
        b'{"input": ' + b"9" * 5_000 + b"}",
        b"\xff\xfe",
        b"null x",
    ],
)
async def test_what_is_no_json_or_too_deep_is_refused(world: World, client: Client, body: bytes) -> None:
    await world.declare(a_trigger("t"))
    answer = await client.ask("POST", FIRE, body=body)
    assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_input", "body")
    assert await world.value("SELECT count(*) FROM tocsin.runs") == 0


async def test_what_is_deep_but_within_the_limit_is_taken_and_read_back(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    body = b'{"input": ' + b"[" * 480 + b"]" * 480 + b"}"
    run = await client.ask("POST", FIRE, body=body)
    assert run.status == 201
    assert (await client.get(f"/v1/runs/{run.json['id']}")).status == 200
    large = await client.post(FIRE, {"input": [2**64, 10**40, -0.0, 1e308]})
    assert large.json["input"][:2] == [2**64, 10**40]


async def test_a_body_that_is_compressed_or_of_another_kind_is_refused(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    bomb = gzip.compress(b" " * 10_000_000)
    for headers in (
        {"content-encoding": "gzip"},
        {"content-encoding": "br, gzip"},
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
    ):
        answer = await client.ask("POST", FIRE, body=bomb, headers=headers)
        assert (answer.status, answer.code) == (415, "unsupported_media_type"), headers
    assert (await client.ask("POST", FIRE, body=b"{}", headers={"content-encoding": "identity"})).status == 201
    assert (await client.ask("POST", FIRE, body=b"{}", headers={"content-type": "application/ld+json"})).status == 201


async def test_a_head_beyond_the_limit_is_refused(port: int) -> None:
    assert await asked(port, a_post(FIRE, "X: " + "x" * MAX_HEAD)) == (431, "head_too_large")
    # What we did not read may cost the answer on its way.
    assert await asked(port, a_post(FIRE, *("X: y" for _ in range(200_000)))) in ((431, "head_too_large"), (0, ""))
    assert await asked(port, "GET /" + "x" * MAX_HEAD) == (431, "head_too_large")
    assert await asked(port, "NONSENSE\r\n\r\n") == (400, "bad_input")


async def test_a_request_that_trickles_in_is_given_up(port: int) -> None:
    for beginning in ("GET /v1/agents HT", a_post(FIRE, "Content-Length: 1000") + "{", a_post(FIRE)[:-2]):
        async with Raw(port) as connection:
            await connection.say(beginning)

            async def trickle(connection: Raw = connection) -> None:
                while True:
                    await asyncio.sleep(0.1)
                    await connection.say(" ")

            trickling = asyncio.create_task(trickle())
            status, body = await connection.hear()
            trickling.cancel()
            assert (status, json.loads(body)["code"]) == (408, "too_slow"), beginning


async def test_an_answer_that_nobody_reads_is_not_kept(world: World, port: int) -> None:
    for _ in range(12):
        await world.control.fire("t", input="x" * 1_000_000)
    async with Raw(port) as connection:
        await connection.say("GET /v1/runs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # The stream's own buffer is bounded: what it does not take stays with the hub until it gives up.
        await asyncio.sleep(2)
        assert await connection.hear() == (0, b"")


async def test_who_leaves_in_the_middle_is_no_fault(port: int) -> None:
    async with Raw(port) as connection:
        await connection.say(a_post(FIRE, "Content-Length: 1000") + "{")
    assert await asked(port, "GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n") == (200, "")


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    async with Raw(port) as connection:
        assert await connection.hear() == (0, b"")


async def test_a_connection_may_ask_many_times(port: int) -> None:
    async with Raw(port) as connection:
        for _ in range(3):
            await connection.say("GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await connection.hear())[0] == 200
            await asyncio.sleep(0.3)


async def test_an_answer_leaves_in_one_piece() -> None:
    class Transport(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__({"socket": "its own"})
            self.written: list[bytes] = []
            self.is_closed = False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            assert not self.is_closed
            self.written.append(bytes(data))

        def close(self) -> None:
            self.is_closed = True

    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())
    corked.write(b"head ")
    corked.write(b"body")
    assert transport.written == []
    await asyncio.sleep(0)
    assert transport.written == [b"head body"]
    corked.write(b"last")
    corked.close()
    assert (transport.written, transport.is_closed) == ([b"head body", b"last"], True)
    await asyncio.sleep(0)
    assert len(transport.written) == 2
    assert corked.get_extra_info("socket") == "its own"


async def test_the_others_are_served_while_some_are_slow(port: int) -> None:
    async with Raw(port) as slow, Raw(port) as quick:
        await slow.say("GET /v1/ag")
        await quick.say("GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await quick.hear())[0] == 200


async def test_every_answer_has_the_headers_that_keep_browsers_out(world: World, client: Client) -> None:
    await world.declare()
    answers = [
        await client.get("/v1/agents"),
        await client.get("/v1/nothing"),
        await client.get("/healthz"),
        await client.ask("PUT", "/v1/agents"),
        await client.having(address="192.0.2.7").get("/v1/agents"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 200, 405, 401]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (answers[1].code, answers[3].code) == ("not_found", "method_not_allowed")


async def test_health_is_answered_before_the_api_is_there_and_the_api_is_waited_for() -> None:
    state: list[str | None] = ["starting"]
    front = Front(Health("1.2.3", lambda: state[0]), log=Heard())
    client = Client(front, Heard())
    assert (await client.get("/healthz")).json == {"status": "alive", "version": "1.2.3"}
    unready = await client.get("/readyz")
    assert (unready.status, unready.json) == (503, {"status": "unready", "reason": "starting"})
    state[0] = None
    assert (await client.get("/readyz")).json == {"status": "ready"}
    assert (await client.ask("HEAD", "/readyz")).body == b""
    assert (await client.ask("POST", "/healthz")).status == 405
    waiting = asyncio.create_task(client.get("/v1/agents"))
    await asyncio.sleep(0)

    async def api(_scope: object, _receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    front.join(api)
    assert (await waiting).status == 204


async def test_a_fault_of_ours_is_one_request_s_and_says_nothing_of_what_was_sent() -> None:
    log = Heard()
    front = Front(Health("1", lambda: None), log=log)

    async def api(_scope: object, _receive: object, _send: object) -> None:
        raise RuntimeError("canary")

    front.join(api)
    answer = await Client(front, log).get("/v1/agents")
    assert (answer.status, answer.code) == (500, "error")
    assert "canary" not in f"{answer} {log.events}"
    assert log.count("http.broken") == 1


async def test_a_database_that_is_gone_is_told_without_its_particulars(world: World, client: Client) -> None:
    await world.declare(a_trigger("t"))
    await world.database.close()
    world.database.dsn = "postgresql://tocsin:canary@127.0.0.1:1/canary"
    answer = await client.get("/v1/agents")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "database_unavailable", "1")
    assert "canary" not in f"{answer} {client.log.events}"
    assert client.log.count("http.failed") == 1


def test_a_port_in_use_is_named() -> None:
    with bound("127.0.0.1:0") as sock:
        where = url_of(sock).removeprefix("http://")
        with pytest.raises(Refused, match=f"TOCSIN_HTTP_BIND={where}"):
            bound(where)


def test_no_part_of_an_answer_waits_for_the_receipt_of_the_one_before() -> None:
    with bound("127.0.0.1:0") as sock, socket.create_connection(sock.getsockname()):
        connection, _ = sock.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
