"""Webhooks at a hub that is a process: killed or told to leave, it loses nothing that it has answered."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.edges.http.hooking import SECRET, Caller, encoded, github, hooked, secrets
from tests.edges.processes import Served, free_port
from tests.engine.building import World, an_app, eventually
from tocsin.clock import SystemClock
from tocsin.domain.event_rule import on_event
from tocsin.engine.control import Control

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("secrets")]

__all__ = ["secrets"]


@pytest.fixture
async def hub(world: World, tmp_path: Path) -> AsyncIterator[tuple[Served, int]]:
    """A hub, and the port of its API, once that answers."""
    control = Control(database=world.database, clock=SystemClock(), actor="test")
    await control.declare(an_app(hooked(event=on_event("*", input="id"))))
    port = free_port()
    served = Served(tmp_path, world.dsn, http_bind=f"127.0.0.1:{port}")
    try:
        await eventually(lambda: served.logged("api.joined"))
        yield served, port
    finally:
        if served.process.poll() is None:
            served.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_was_answered_is_there_however_the_hub_ends(
    world: World, hub: tuple[Served, int], number: signal.Signals
) -> None:
    served, port = hub
    answered: list[str] = []
    told: list[int] = []

    async def call_on(who: int) -> None:
        with closing(Caller(port)) as caller:
            for count in range(10_000):
                event_id, body = f"{who}-{count}", encoded({"who": who, "count": count})
                status, _, _ = await caller.post("/hooks/t", body, github(body, delivery=event_id))
                if status != 200:
                    told.append(status)
                    return
                answered.append(event_id)

    calling = asyncio.gather(*(call_on(who) for who in range(20)))
    await eventually(lambda: len(answered) > 300)
    served.process.send_signal(number)
    await calling
    assert served.process.wait(30) == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert set(told) <= ({0, 503} if number is signal.SIGTERM else {0}), told
    rows = await world.rows("SELECT input FROM tocsin.runs")
    there = [json.loads(row["input"]) for row in rows]
    assert set(answered) <= set(there)
    assert len(there) == len(set(there))


async def test_a_process_keeps_its_secrets_to_itself(world: World, hub: tuple[Served, int]) -> None:
    served, port = hub
    with closing(Caller(port)) as caller:
        for body, secret in ((b'{"n": 1}', SECRET), (b'{"n": 1}', "wrong"), (b"{", SECRET)):
            await caller.post("/hooks/t", body, github(body, secret=secret))
        await caller.post("/hooks/t", b"{}", {"x-hub-signature-256": f"sha256={SECRET}", "x-github-delivery": SECRET})
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    said = served.log.read_text()
    assert '"hook.refused"' in said
    assert '"trigger.fired"' in said
    assert "canary" not in said
    assert github(b'{"n": 1}')["x-hub-signature-256"].removeprefix("sha256=") not in said
