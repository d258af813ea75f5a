"""The API's description: whole, true, and no operation that answers without a key."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edges.http.client import Client, a_front
from tests.edges.http.test_limits import listening
from tests.engine.building import Heard, World, a_trigger, an_app
from tocsin.clock import SystemClock
from tocsin.domain.authority import Scope
from tocsin.domain.schedule import every
from tocsin.edges.http import problems
from tocsin.engine.control import Control
from tocsin.store.database import Database

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "http.md"
NEVER_HERE = {"refused", "lease_lost"}
"""Codes that no operation of the API comes to: the one is only a root, the other is told to holders."""

NOT_CHECKED = "positive_data_acceptance"
"""A name that fits the pattern may be one that nobody has declared: that is refused, and is no fault."""


@pytest.fixture
async def described(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/v1/openapi.json")).json
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1"):
                yield method.upper(), path, operation


async def test_every_operation_names_its_scope_its_refusals_and_its_answer(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    names = set()
    for method, path, operation in operations(described):
        scope = operation["x-tocsin-scope"]
        assert scope in list(Scope), path
        assert operation["security"] == [{"key": [scope]}]
        assert operation["summary"]
        assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys()
        told = [response for status, response in operation["responses"].items() if status < "300"]
        media = "text/event-stream" if path == "/v1/stream" else "application/json"
        assert all("$ref" in one["content"][media]["schema"] for one in told), path
        assert (method == "GET") <= (scope in ("read", "admin")), path
        keyed = [one for one in operation.get("parameters", ()) if one["name"] == "Idempotency-Key"]
        assert len(keyed) == (method == "POST")
        names.add(operation["operationId"])
    assert len(names) == len(list(operations(described)))


async def test_every_body_has_an_example(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    for method, path, operation in operations(described):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            names = re.findall(r"schemas/(\w+)", str(media["schema"]))
            assert any("examples" in schemas[name] for name in names), (method, path)


async def test_no_operation_answers_without_a_key_or_with_one_that_opens_nothing(
    world: World, client: Client, described: dict[str, Any]
) -> None:
    await world.declare(a_trigger("x"))
    keys = {scope: (await world.control.keys.create(scope, scopes=[scope]))["key"] for scope in ("read", "emit")}
    world.clock.turn(1)
    tables = (
        "SELECT (SELECT count(*) FROM tocsin.triggers), (SELECT count(*) FROM tocsin.runs),"
        " (SELECT count(*) FROM tocsin.events)"
    )
    before = await world.rows(tables)
    asked = 0
    for method, path, operation in operations(described):
        concrete = re.sub(r"\{(run|backfill)\}", "01a21630-dd9d-760f-9a3b-f2dcee862feb", path).replace("{name}", "x")
        concrete = concrete.replace("{number}", "1")
        assert (await client.ask(method, concrete)).status == 401, path
        # Nor is the body read, or found fault with, before it is known who asks.
        assert (await client.ask(method, concrete, body=b"{")).status == 401, path
        assert (await client.having(address="192.0.2.7").ask(method, concrete)).status == 401, path
        if operation["x-tocsin-scope"] != "emit":
            assert (await client.having(key=keys["emit"]).ask(method, concrete)).status == 403, path
        if operation["x-tocsin-scope"] != "read":
            assert (await client.having(key=keys["read"]).ask(method, concrete)).status == 403, path
        asked += 1
    assert asked > 25
    assert await world.rows(tables) == before


async def test_every_operation_stands_in_the_reference(described: dict[str, Any]) -> None:
    written = set(re.findall(r"^\| `(\w+) (\S+)` \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert written == {(method, path, operation["x-tocsin-scope"]) for method, path, operation in operations(described)}


async def test_every_code_stands_in_the_reference() -> None:
    written = set(re.findall(r"^\| \d+ \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    pattern = re.compile(r"""(?:Problem\(\s*\d{3},|_tell\(\d{3},|refuse\(\s*\d{3}, "[\w ]+",)\s*"(\w+)\"""")
    sources = [source.read_text(encoding="utf-8") for source in Path(problems.__file__).parent.glob("*.py")]
    said = {code for text in sources for code in pattern.findall(text)}
    assert {"stale", "key_reused", "too_slow", "starting"} <= said | {kind.code for kind, _ in problems.STATUSES}
    assert {kind.code for kind, _ in problems.STATUSES} | said <= written | NEVER_HERE


@pytest.fixture
async def hub(dsn: str) -> AsyncIterator[tuple[int, str, Heard]]:
    """(port, a key of scope admin, the log) of an API on the system's clock."""
    database = Database(dsn, size=4)
    await database.open()
    log = Heard()
    try:
        control = Control(database=database, clock=SystemClock(), actor="test")
        await control.declare(an_app(a_trigger("daily-digest", every("1h")), agents=("digest", "agent")))
        await control.fire("daily-digest")
        key = (await control.keys.create("fuzzer", scopes=["admin"]))["key"]
        async with listening(a_front(database, SystemClock(), log, failures=100_000)) as port:
            yield port, key, log
    finally:
        await database.close()


async def fuzzed(port: int, place: Path, *options: str, examples: int) -> tuple[int, str]:
    """(exit code, what it said) of schemathesis, in all its phases. place: where it keeps what it has learnt."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        "run",
        f"http://127.0.0.1:{port}/v1/openapi.json",
        *("--exclude-checks", NOT_CHECKED, "--max-examples", str(examples), "--seed", "1", "--no-color", *options),
        cwd=place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")


@pytest.mark.timeout(600)
async def test_a_fuzzer_with_a_key_finds_no_fault(hub: tuple[int, str, Heard], tmp_path: Path) -> None:
    port, key, log = hub
    # A stream has no end that a fuzzer could wait for.
    options = ("--header", f"Authorization: Bearer {key}", "--exclude-path", "/v1/stream")
    code, said = await fuzzed(port, tmp_path, *options, examples=10)
    assert code == 0, said[-8_000:]
    assert log.count("http.broken") == 0, log.events
    assert log.count("http.failed") == 0, log.events


@pytest.mark.timeout(300)
async def test_a_fuzzer_without_a_key_is_told_so_and_nothing_else(hub: tuple[int, str, Heard], tmp_path: Path) -> None:
    port, _, log = hub
    code, said = await fuzzed(port, tmp_path, "--exclude-path-regex", "z$", examples=5)
    assert code == 0, said[-8_000:]
    selected = re.search(r"(\d+) selected", said)
    assert selected is not None
    assert f"{selected[1]} operations returned only 401/403" in said, said[-8_000:]
    assert log.count("http.broken") == 0
