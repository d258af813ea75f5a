"""The API on a database, and somebody who asks it: no port, the same application."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.engine.building import Heard
from tocsin.clock import Clock
from tocsin.edges.http.api import make_api
from tocsin.edges.http.front import Front
from tocsin.edges.http.gate import Gate
from tocsin.edges.http.health import Health
from tocsin.edges.http.hooks import HookDoor, Room
from tocsin.edges.http.hosting import make_hooks
from tocsin.edges.http.once import Once
from tocsin.edges.http.operation import Edge
from tocsin.edges.http.streams import Streams
from tocsin.edges.http.throttle import FAILURES, Throttle
from tocsin.engine.control import Control
from tocsin.engine.hearing import Hearing
from tocsin.engine.intake import MOST_WAITING
from tocsin.engine.keys import KeyRing
from tocsin.store.answers import Answers
from tocsin.store.database import Database
from tocsin.store.feed import Feed


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal, once it is known to be a whole one."""
        form = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert form["status"] == self.status
        assert form["type"] == f"urn:tocsin:problem:{form['code']}"
        assert form["title"]
        assert form["detail"]
        return str(form["code"])


@dataclass
class Client:
    """Asks in one key's name. address: from where it seems to come."""

    app: Any
    log: Heard
    key: str | None = None
    address: str = "127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)

    def having(self, **changes: Any) -> "Client":
        """The same application, asked by somebody else."""
        return Client(**{"app": self.app, "log": self.log, "headers": self.headers, "key": self.key, **changes})

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.ask("GET", path, query=query)

    async def post(self, path: str, json: Any = None, *, once: str | None = None, **headers: str) -> Answer:
        return await self.ask(
            "POST", path, json=json, headers={**({"idempotency-key": once} if once else {}), **headers}
        )

    async def patch(self, path: str, json: Any, *, if_match: str | None = None) -> Answer:
        return await self.ask("PATCH", path, json=json, headers={} if if_match is None else {"if-match": if_match})

    async def delete(self, path: str, *, if_match: str | None = None) -> Answer:
        return await self.ask("DELETE", path, headers={} if if_match is None else {"if-match": if_match})

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = body if body is not None else b"" if json is None else _encoded(json)
        given = {"host": "127.0.0.1:8620", **({"content-type": "application/json"} if sent else {})}
        given |= {**self.headers, **({"authorization": f"Bearer {self.key}"} if self.key else {}), **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(query or {}, doseq=True).encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (self.address, 1),
            "server": ("127.0.0.1", 8620),
            "state": {},
        }
        return await _called(self.app, scope, sent)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


async def _called(app: Any, scope: dict[str, Any], body: bytes) -> Answer:
    said: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await app(scope, receive, send)
    start, *rest = said
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(part.get("body", b"") for part in rest))


def a_front(
    database: Database,
    clock: Clock,
    log: Heard,
    *,
    is_local: bool = True,
    failures: int = FAILURES,
    control: type[Control] = Control,
    room: Room | None = None,
    most_waiting: int = MOST_WAITING,
    tell: Callable[[str], None] = lambda answer: None,
) -> Front:
    """The whole of what stands on the port."""
    gate = Gate(
        ring=KeyRing(database=database, clock=clock),
        throttle=Throttle(clock=clock, failures=failures),
        is_local=is_local,
        log=log,
    )
    edge = Edge(
        control=lambda actor: control(database=database, clock=clock, actor=actor),
        gate=gate,
        once=Once(answers=Answers(database=database, clock=clock), log=log),
        streams=Streams(
            feed=Feed(database=database, clock=clock), admits=gate.still_admits, clock=clock, log=log, most=10
        ),
        log=log,
    )
    front = Front(Health("0", lambda: None), log=log)
    _, hooks = make_hooks(database, clock=clock, hearing=Hearing(), log=log, most=most_waiting)
    throttle = Throttle(clock=clock, failures=failures)
    front.join(make_api(edge), hooks=HookDoor(hooks=hooks, throttle=throttle, log=log, tell=tell, room=room))
    return front


@asynccontextmanager
async def a_client(database: Database, clock: Clock, *, is_local: bool = True) -> AsyncIterator[Client]:
    log = Heard()
    yield Client(a_front(database, clock, log, is_local=is_local), log)
