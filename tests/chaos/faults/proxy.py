"""A port of ours in front of PostgreSQL, on which the network's faults are played.

It runs on a thread and an event loop of its own: a test that blocks its loop does not stall the network.
Every fault can be told to meet only some sessions, by the name that they started with. What has been
done is counted, because a fault that met nobody proves nothing.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from tests.chaos.faults.wire import (
    ERROR,
    GSS_REQUEST,
    IDLE,
    READY,
    REFUSED,
    SSL_REQUEST,
    Asked,
    Framer,
    Message,
    code_of,
    parameters_of,
)

T = TypeVar("T")
PATIENCE: Final = 30.0
READ_AHEAD: Final = 8_192
"""Bytes that are taken from a socket before anybody asks for them: what is frozen is soon not read at all."""

Chosen = Callable[[str], bool]
"""Whether a session of this application_name is meant."""


def everybody(_name: str) -> bool:
    return True


def writes(statement: str) -> bool:
    """A COMMIT, or a statement that commits by itself and changes rows."""
    text = statement.upper()
    return text.strip().startswith("COMMIT") or any(word in text for word in ("INSERT INTO", "UPDATE ", "DELETE FROM"))


@dataclass(slots=True)
class Counts:
    """What the faults have met so far. delayed and held: pieces of a stream; cut_answers: statements."""

    connections: int = 0
    refused: int = 0
    cut: int = 0
    held: int = 0
    delayed: int = 0
    cut_answers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Cutting:
    chosen: Chosen
    wanted: Callable[[str], bool]
    times: int


class Proxy:
    """Forwards both ways until told otherwise; its methods may be called from any thread."""

    def __init__(self, dsn: str, *, host: str = "127.0.0.1") -> None:
        self._host = host
        self.counts = Counts()
        self._target = dsn
        self._loop = asyncio.new_event_loop()
        # Streams that are cut in the middle are what this is for; asyncio would report each.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._sessions: set[_Session] = set()
        self._refuses: Chosen | None = None
        self._freezes: Chosen | None = None
        self._late: tuple[Chosen, float] | None = None
        self._cutting: _Cutting | None = None
        self._server: asyncio.Server | None = None
        self._moved: asyncio.Event = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._accept, self._host, 0, backlog=1000, limit=READ_AHEAD))
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def dsn(self) -> str:
        """The same database, reached through here."""
        parts = urlsplit(self._target)
        user = quote(parts.username or "", safe="") + (f":{parts.password}" if parts.password else "")
        rest = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "port")]
        return parts._replace(netloc=f"{user}@{self._host}:{self.port}", query=urlencode(rest)).geturl()

    @property
    def open_sessions(self) -> int:
        return self._do(lambda: len(self._sessions))

    # --- faults

    def refuse(self, chosen: Chosen = everybody) -> None:
        """The database is gone for these: their connections are cut, and no new one is let in."""

        def begin() -> None:
            self._refuses = chosen
            self._cut(chosen)

        self._do(begin)

    def freeze(self, chosen: Chosen = everybody) -> None:
        """Half-open: nothing is read from either side any more, and both believe to be connected."""

        def begin() -> None:
            self._freezes = chosen

        self._do(begin)

    def forget(self, chosen: Chosen = everybody) -> int:
        """Half-open for good, as after a firewall forgot them: sessions that are open stay dead, new ones work."""

        def begin() -> int:
            met = [session for session in self._sessions if chosen(session.name)]
            for session in met:
                session.forgotten = True
            return len(met)

        return self._do(begin)

    def delay(self, seconds: float, chosen: Chosen = everybody) -> None:
        """Each piece of an answer is later by this much."""

        def begin() -> None:
            self._late = (chosen, seconds)

        self._do(begin)

    def cut(self, chosen: Chosen = everybody) -> int:
        """Connections that are open end with a reset; how many."""
        return self._do(lambda: self._cut(chosen))

    def cut_answers(
        self, *, times: int = 1, chosen: Chosen = everybody, wanted: Callable[[str], bool] = writes
    ) -> None:
        """The next statements that commit something are committed, and the client never hears of it."""

        def begin() -> None:
            self._cutting = _Cutting(chosen, wanted, times)

        self._do(begin)

    def restore(self) -> None:
        """No fault is on; what was held back flows."""

        def end() -> None:
            self._refuses = self._freezes = self._late = self._cutting = None
            self._moved.set()

        self._do(end)

    # --- on the proxy's own loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        session = _Session(self, reader, writer)
        self._sessions.add(session)
        try:
            await session.run()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has gone, which is what this is for
        finally:
            self._sessions.discard(session)
            session.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        query = dict(parse_qsl(parts.query))
        host, port = query.get("host", parts.hostname or "127.0.0.1"), int(query.get("port", parts.port or 5432))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}", limit=READ_AHEAD)
        return await asyncio.open_connection(host, port, limit=READ_AHEAD)

    def refuses(self, name: str) -> bool:
        refused = self._refuses is not None and self._refuses(name)
        self.counts.refused += refused
        return refused

    async def hold(self, session: "_Session") -> None:
        """Returns when this session's bytes may go on."""
        while session.forgotten or (self._freezes is not None and self._freezes(session.name)):
            self.counts.held += 1
            self._moved.clear()
            await self._moved.wait()

    async def linger(self, name: str) -> None:
        if self._late is not None and self._late[0](name):
            self.counts.delayed += 1
            await asyncio.sleep(self._late[1])

    def take_answer(self, name: str, statement: str) -> bool:
        """Whether the answer to this is to be cut; counted down."""
        cutting = self._cutting
        if cutting is None or cutting.times < 1 or not cutting.chosen(name) or not cutting.wanted(statement):
            return False
        cutting.times -= 1
        return True

    def give_answer_back(self) -> None:
        """It was refused by the database, so another is to be cut."""
        if self._cutting is not None:
            self._cutting.times += 1

    def _cut(self, chosen: Chosen) -> int:
        met = [session for session in self._sessions if chosen(session.name)]
        for session in met:
            session.abort()
        self.counts.cut += len(met)
        return len(met)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut(everybody)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _do(self, step: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(step())
            except BaseException as error:  # it is raised where it was asked for
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(PATIENCE)


class _Session:
    """One client's connection and ours to the server for it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = ""
        self.forgotten = False
        self._proxy = proxy
        self._reader, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._asked = Asked()
        self._condemned: str | None = None
        self._withheld: list[bytes] = []

    def abort(self) -> None:
        """Both sides see a reset."""
        for writer in (self._client, self._server):
            if writer is None:
                continue
            with contextlib.suppress(OSError, ValueError):
                found = writer.get_extra_info("socket")
                if found is not None and found.family != socket.AF_UNIX:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run(self) -> None:
        framer = Framer(opening=True)
        first = await self._open(framer)
        if first is None:
            return
        there, self._server = await self._proxy.connect()
        try:
            self._server.write(first.raw)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(framer))
                group.create_task(self._answer(there))
        except* (OSError, asyncio.IncompleteReadError):
            pass

    async def _open(self, framer: Framer) -> Message | None:
        """The message that starts the session, None when it is not let in."""
        while data := await self._reader.read(65_536):
            for message in framer.feed(data):
                if code_of(message) in (SSL_REQUEST, GSS_REQUEST):
                    self._client.write(REFUSED)
                    continue
                self.name = parameters_of(message).get("application_name", "")
                if self._proxy.refuses(self.name):
                    return None
                await self._proxy.hold(self)
                return message
        return None

    async def _forward(self, framer: Framer) -> None:
        assert self._server is not None
        while data := await self._reader.read(65_536):
            await self._proxy.hold(self)
            for message in framer.feed(data):
                statement = self._asked.heard(message)
                if statement is not None and self._proxy.take_answer(self.name, statement):
                    self._condemned = statement
                self._server.write(message.raw)
            await self._server.drain()
        self._server.transport.close()

    async def _answer(self, there: asyncio.StreamReader) -> None:
        framer = Framer(opening=False)
        while data := await there.read(65_536):
            await self._proxy.hold(self)
            await self._proxy.linger(self.name)
            for message in framer.feed(data):
                if self._condemned is None:
                    self._client.write(message.raw)
                elif self._is_committed(message):
                    self._proxy.counts.cut_answers.append(self._condemned)
                    self.abort()
                    return
            await self._client.drain()
        self._client.transport.close()

    def _is_committed(self, message: Message) -> bool:
        """Whether the withheld answer was that of a commit. One that was not goes on, and another will be cut."""
        self._withheld.append(message.raw)
        if message.kind == READY and message.body == IDLE:
            return True
        if message.kind in (ERROR, READY):
            self._client.write(b"".join(self._withheld))
            self._withheld.clear()
            self._condemned = None
            self._proxy.give_answer_back()
        return False
