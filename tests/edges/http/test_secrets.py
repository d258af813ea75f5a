"""What was sent in confidence stands in its own column and nowhere else: no refusal, no log, no other table has it."""

import asyncio
import json
import re
from typing import Any, Final

import pytest

from tests.edges.http.client import Client, a_front
from tests.engine.building import Heard, World, a_trigger
from tocsin.clock import SystemClock
from tocsin.domain.schedule import every
from tocsin.edges.http.listener import Listener, bound
from tocsin.engine.control import Control
from tocsin.store.database import Database
from tocsin.store.statements import load

pytestmark = pytest.mark.anyio

PLANTED: Final = "planted4c0ffee"
HOLDS: Final = {"triggers.input", "runs.input"}
"""Where it may stand: as what each run is given."""

INPUT: Final = {"token": PLANTED}
SCHEDULE: Final = {"rules": [{"every_seconds": 60}]}
LOOK: Final = """
SELECT format('SELECT DISTINCT %L || e.key FROM %I.%I t, jsonb_each_text(to_jsonb(t)) e'
              ' WHERE e.value ILIKE $1 OR e.value ILIKE $2', c.relname || '.', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'tocsin' AND c.relkind = 'r'
"""


async def columns_with(world: World, text: str) -> set[str]:
    """Every column of every table in which the text stands, as it is or as bytes."""
    found: set[str] = set()
    for row in await world.rows(LOOK):
        (query,) = row.values()
        found |= {next(iter(hit.values())) for hit in await world.rows(query, f"%{text}%", f"%{text.encode().hex()}%")}
    return found


#: How a request can be refused: (method, path, what it says, headers, the status).
REFUSED: Final[dict[str, tuple[str, str, Any, dict[str, str], int]]] = {
    "no JSON": ("POST", "/v1/triggers", b'{"input": {"token": "' + PLANTED.encode() + b'"', {}, 400),
    "no UTF-8": ("POST", "/v1/triggers/t/fire", b'{"input": "\xff' + PLANTED.encode() + b'"}', {}, 400),
    "half a pair": ("POST", "/v1/triggers/t/fire", b'{"input": "\\ud800' + PLANTED.encode() + b'"}', {}, 400),
    "NUL": ("POST", "/v1/triggers/t/fire", b'{"input": "\\u0000' + PLANTED.encode() + b'"}', {}, 400),
    "too deep": ("POST", "/v1/triggers/t/fire", b"[" * 501 + b'"' + PLANTED.encode() + b'"' + b"]" * 501, {}, 400),
    "too large": ("POST", "/v1/triggers/t/fire", {"input": PLANTED * 100_000}, {}, 413),
    "no object": ("POST", "/v1/triggers/t/fire", PLANTED, {}, 422),
    "a list": ("POST", "/v1/triggers/t/fire", [INPUT], {}, 422),
    "an unknown field": ("POST", "/v1/triggers/t/fire", {"inputs": INPUT}, {}, 422),
    "another type": ("POST", "/v1/triggers", {"name": "n", "agent": INPUT, "input": INPUT}, {}, 422),
    "two faults": ("POST", "/v1/triggers", {"name": 5, "agent": "agent", "priority": INPUT, "input": INPUT}, {}, 422),
    "a bad schedule": (
        "POST",
        "/v1/triggers",
        {"name": "n", "agent": "agent", "input": INPUT, "schedule": {"rules": [{"cron": "61 * * * *"}]}},
        {},
        422,
    ),
    "a rule with it": (
        "POST",
        "/v1/triggers",
        {"name": "n", "agent": "agent", "schedule": {"rules": [INPUT]}, "input": INPUT},
        {},
        422,
    ),
    "an event with it": (
        "POST",
        "/v1/triggers",
        {"name": "n", "agent": "agent", "event": {"type": "x", "input": INPUT, "where": INPUT}},
        {},
        422,
    ),
    "no agent": ("POST", "/v1/triggers", {"name": "n", "agent": "nobody", "input": INPUT}, {}, 404),
    "a name that is taken": ("POST", "/v1/triggers", {"name": "t", "agent": "agent", "input": INPUT}, {}, 409),
    "a bad name": ("POST", "/v1/triggers", {"name": "two words", "agent": "agent", "input": INPUT}, {}, 422),
    "no version": ("PATCH", "/v1/triggers/t", {"input": INPUT}, {}, 428),
    "a version that moved on": ("PATCH", "/v1/triggers/t", {"input": INPUT}, {"if-match": '"7"'}, 412),
    "no version at all": ("PATCH", "/v1/triggers/t", {"input": INPUT}, {"if-match": PLANTED}, 412),
    "nothing of that name": ("PATCH", "/v1/triggers/z", {"input": INPUT}, {"if-match": "*"}, 404),
    "another media type": ("POST", "/v1/triggers/t/fire", INPUT, {"content-type": f"text/{PLANTED}"}, 415),
    "an encoding": ("POST", "/v1/triggers/t/fire", INPUT, {"content-encoding": PLANTED}, 415),
    "no way": ("PUT", "/v1/triggers/t", {"input": INPUT}, {}, 405),
    "no path": ("POST", "/v1/nothing", {"input": INPUT}, {"x-api-key": PLANTED}, 404),
    "a wrong key": ("POST", "/v1/triggers/t/fire", {"input": INPUT}, {"authorization": f"Bearer {PLANTED}"}, 401),
    "another scheme": ("GET", "/v1/triggers", None, {"authorization": f"Basic {PLANTED}"}, 401),
    "a cookie": ("GET", "/v1/runs/latest", None, {"cookie": f"session={PLANTED}"}, 422),
    "a cursor": ("GET", "/v1/runs", None, {"x-cursor": PLANTED}, 200),
}


@pytest.mark.parametrize("title", list(REFUSED))
async def test_no_refusal_repeats_what_was_sent_in_confidence(world: World, client: Client, title: str) -> None:
    await world.declare(a_trigger("t", every("1h")))
    method, path, says, headers, status = REFUSED[title]
    body = says if isinstance(says, bytes) else b"" if says is None else json.dumps(says).encode()
    answer = await client.ask(method, path, body=body, headers={"content-type": "application/json", **headers})
    assert answer.status == status, answer
    assert PLANTED not in f"{answer.headers} {answer.body!r}"
    assert PLANTED not in str(client.log.events)
    assert await columns_with(world, PLANTED) == set()


async def test_what_is_taken_stands_in_its_own_columns_alone(world: World, client: Client) -> None:
    await world.declare()
    root = client.having(key=str((await world.control.keys.create("root", scopes=["admin"]))["key"]))
    world.clock.turn(1)
    form = {"name": "t", "agent": "agent", "schedule": SCHEDULE, "input": INPUT}
    assert (await root.post("/v1/triggers", form, **{"x-token": PLANTED})).status == 201
    assert (await root.patch("/v1/triggers/t", {"input": {**INPUT, "n": 1}}, if_match='"1"')).status == 200
    run = (await root.post("/v1/triggers/t/fire", {"input": INPUT}, once="k")).json["id"]
    for path in (f"/v1/runs/{run}/cancel", f"/v1/runs/{run}/retry", "/v1/triggers/t/pause", "/v1/triggers/t/resume"):
        assert (await root.post(path)).status in (200, 201), path
    assert await columns_with(world, PLANTED) == HOLDS
    for path in ("/v1/audit", "/v1/triggers", "/v1/triggers/t/why", "/v1/decisions", "/v1/agents", "/v1/keys"):
        answer = await root.get(path)
        assert (answer.status, PLANTED in answer.body.decode()) == (200, False), path
    assert PLANTED not in str(client.log.events)
    # Nor does the key, of which the database has only the digest.
    assert root.key is not None
    assert await columns_with(world, root.key) == set()
    assert (await root.delete("/v1/triggers/t")).status == 200
    assert PLANTED not in str(
        await world.rows("SELECT a.query FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid()")
    )


async def test_what_the_database_refuses_is_told_without_the_value(world: World) -> None:
    """Of a value that it cannot take, the database's own words hold the value."""
    await world.declare(a_trigger("t"))
    (place,) = re.findall(r"coalesce\((\$\d+)::jsonb, t\.input\)", load()["fire"].text)
    number = f"to_jsonb(({place}::jsonb ->> 'token')::integer)"
    database = Database(world.dsn, statements=load().altered("fire", f"coalesce({place}::jsonb, t.input)", number))
    log = Heard()
    try:
        answer = await Client(a_front(database, world.clock, log), log).post("/v1/triggers/t/fire", {"input": INPUT})
    finally:
        await database.close()
    assert (answer.status, answer.code) == (500, "statement_refused")
    assert answer.json["detail"] == "something went wrong here; the hub's log says what"
    (fields,) = [fields for event, fields in log.events if event == "http.failed"]
    assert "fire: invalid input syntax for type integer (InvalidTextRepresentationError)" in fields["error"]
    assert PLANTED not in f"{answer} {log.events}"


class Careless(Control):
    """With a fault of ours, whose text has everything in it."""

    async def triggers(self, **_: Any) -> Any:
        raise RuntimeError(f"cannot make sense of {PLANTED}")


async def test_a_fault_of_ours_is_logged_by_its_place_and_told_to_nobody(world: World) -> None:
    log = Heard()
    answer = await Client(a_front(world.database, world.clock, log, control=Careless), log).get("/v1/triggers")
    assert (answer.status, answer.code) == (500, "error")
    assert log.count("http.broken") == 1
    assert PLANTED not in f"{answer} {log.events}"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (f"GET /v1/triggers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {'x' * 17_000}{PLANTED}\r\n\r\n", 431),
        (f"GET /v1/triggers HTTP/1.1\r\nHost: localhost\r\nbad header {PLANTED}\r\n\r\n", 400),
        (f"{PLANTED} nonsense\r\n\r\n", 400),
        (f"GET /v1/triggers HTTP/9.{PLANTED}\r\nHost: localhost\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_not_repeated_either(
    world: World, sent: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Heard()
    async with Listener(sock := bound("127.0.0.1:0"), a_front(world.database, SystemClock(), log)):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(sent.encode())
        told = await reader.read()
        writer.close()
    assert told.split()[1] == str(status).encode()
    assert PLANTED.encode() not in told
    assert PLANTED not in f"{log.events} {capfd.readouterr()}"
