"""What senders of webhooks do: sign, and call."""

import asyncio
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest

from tests.edges.http.client import Answer, Client
from tests.engine.building import a_trigger
from tocsin.domain.event_rule import EventRule
from tocsin.domain.hook import Hook, webhook
from tocsin.domain.trigger import Overlap, TriggerSpec

SECRET = "canary-It's a Secret"
GITHUB = webhook("github", secret="HOOK_SECRET")
JSON = "application/json"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's environment has them."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("STANDARD_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def hooked(name: str = "t", hook: Hook = GITHUB, *, event: EventRule | None = None, **options: Any) -> TriggerSpec:
    return a_trigger(name, hook=hook, event=event, **{"overlap": Overlap.QUEUE_ALL} | options)


def github(
    body: bytes, *, secret: str = SECRET, delivery: str = "d-1", event: str = "push", media: str = JSON
) -> dict[str, str]:
    """The headers of a call as GitHub makes it."""
    digest = hmac.new(secret.encode(), body, sha256).hexdigest()
    return {
        "content-type": media,
        "x-hub-signature-256": f"sha256={digest}",
        "x-github-delivery": delivery,
        "x-github-event": event,
    }


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


async def call(client: Client, name: str = "t", body: bytes = b'{"n": 1}', **headers: Any) -> Answer:
    """A call as GitHub makes it."""
    return await client.ask("POST", f"/hooks/{name}", body=body, headers=github(body, **headers))


class Caller:
    """A connection that calls hooks one after the other, and opens itself again when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the answer; status 0 where none came."""
        lines = [f"POST {path} HTTP/1.1", "host: hub", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        try:
            if self._ends is None:
                self._ends = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._ends
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            told = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            content = await reader.readexactly(int(told.get("content-length", "0")))
            if told.get("connection") == "close":
                self.close()
            return int(head.split()[1]), told, content
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, {}, b""

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].transport.abort()
            self._ends = None
