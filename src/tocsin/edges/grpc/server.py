"""The gRPC listener: streams of agent processes, health, reflection. From entering to leaving.

Leaving: health says no, every process is told to connect elsewhere, what it has said is written, the
streams end. Runs in hand are not touched.
"""

import asyncio
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tocsin.domain.errors import BadInput, Conflict, LeaseLost, Refused, StoreError
from tocsin.domain.instance import Patience
from tocsin.edges.grpc import wire
from tocsin.edges.grpc.door import Door, Forbidden, Unauthenticated
from tocsin.edges.grpc.session import MAX_HELD, MAX_MESSAGE, Ending, Session
from tocsin.hub import Replica
from tocsin.settings import Settings
from tocsin.store.keys import KeyRows
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb

SERVICE: Final = "tocsin.v1.AgentHub"
HELLO_WITHIN: Final = 10.0
"""Seconds that a stream may be open without its first message."""

STOPS_WITHIN: Final = 3.0

REFUSALS: Final[dict[type[Exception], grpc.StatusCode]] = {
    BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    Refused: grpc.StatusCode.PERMISSION_DENIED,
    LeaseLost: grpc.StatusCode.FAILED_PRECONDITION,
    StoreError: grpc.StatusCode.UNAVAILABLE,
}
"""What becomes of a Hello that is not taken; the first kind that fits."""

# A dead peer is noticed within 15 s; the ping's own timeout is a minute unless it is told otherwise.
OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", 2 * MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
)


class AgentServer:
    """Enter it once the replica stands; leave it before the replica drains."""

    def __init__(self, *, replica: Replica, settings: Settings, log: Log) -> None:
        self._replica = replica
        self._settings = settings
        self._log = log
        self._patience = Patience(settings.suspect_after, settings.dead_after)
        rows = KeyRows(database=replica.database, clock=replica.house.clock)
        self._door = Door(rows, is_open=settings.is_grpc_local or settings.grpc_insecure)
        self._sessions: dict[UUID, Session] = {}
        self._handlers: set[asyncio.Task[Any]] = set()
        self._is_leaving = False
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._connect,
            request_deserializer=pb.FromAgent.FromString,
            response_serializer=pb.FromHub.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Connect": handler}),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = self._bind()
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._log.info("agents.welcome", address=self.address, secure=self._settings.grpc_cert is not None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_leaving = True
        await self._health.enter_graceful_shutdown()
        sessions = list(self._sessions.values())
        for session in sessions:
            session.leave("the hub stops")
        # The word goes out before the stream ends.
        await asyncio.sleep(0.05 if sessions else 0)
        for session in sessions:
            session.end(grpc.StatusCode.UNAVAILABLE, "this hub has left: connect to another")
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=STOPS_WITHIN)
        await self._server.stop(0.2)

    def session(self, instance_id: str) -> Session:
        """The stream of a process that is connected here. Raises: KeyError."""
        return self._sessions[UUID(instance_id)]

    def _bind(self) -> str:
        """Raises: Refused, when the port cannot be had."""
        bind = self._settings.grpc_bind
        assert bind is not None  # where it is off, nobody makes a server
        try:
            credentials = _credentials(self._settings)
            if credentials is None:
                port = self._server.add_insecure_port(bind)
            else:
                port = self._server.add_secure_port(bind, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise Refused(
                f"TOCSIN_GRPC_BIND={bind}: cannot listen there; end who does, or choose another address,"
                " such as 127.0.0.1:0, which takes a free port"
            )
        return f"{bind.rpartition(':')[0]}:{port}"

    async def _connect(self, _requests: Any, context: Any) -> None:
        """One stream, whoever is at its other end."""
        task = asyncio.current_task()
        assert task is not None  # a handler runs in one
        self._handlers.add(task)
        try:
            code, text = await self._served(context)
        finally:
            self._handlers.discard(task)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, text)

    async def _served(self, context: Any) -> Ending:
        try:
            async with asyncio.timeout(HELLO_WITHIN):
                first = await context.read()
        except TimeoutError:
            return grpc.StatusCode.INVALID_ARGUMENT, f"hello: must come within {HELLO_WITHIN:g} s"
        if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
            return grpc.StatusCode.INVALID_ARGUMENT, "hello: must be the first message"
        try:
            return await self._serve(context, first.hello)
        except tuple(REFUSALS) as refusal:
            code = next(code for kind, code in REFUSALS.items() if isinstance(refusal, kind))
            self._log.warning("instance.refused", instance=first.hello.name[:200], code=code.name, error=str(refusal))
            return code, str(refusal)

    async def _serve(self, context: Any, hello: pb.Hello) -> Ending:
        if hello.protocol != wire.PROTOCOL:
            return (
                grpc.StatusCode.FAILED_PRECONDITION,
                f"protocol {hello.protocol}: this hub speaks {wire.PROTOCOL}; bring both to the same release",
            )
        if self._is_leaving:
            return grpc.StatusCode.UNAVAILABLE, "this hub is leaving: connect to another"
        if len(hello.held) > MAX_HELD:
            raise BadInput(f"held: at most {MAX_HELD:,} runs")
        held = wire.held_of(hello.held)
        who = wire.introduction_of(hello, key=None)
        key = await self._door.let_in(_authorization(context), who.agents)
        who = wire.introduction_of(hello, key=key)
        policies = await self._replica.instances.policies(who.agents)
        unknown = sorted(set(who.agents) - policies.keys())
        if unknown:
            return (
                grpc.StatusCode.NOT_FOUND,
                f"agent {unknown[0]!r} is not declared at this hub: run `tocsin sync APP` there first",
            )
        patience = self._patience.with_agents(policies.values())
        stream = await self._replica.instances.connect(who, patience)
        former = self._sessions.get(who.id)
        session = Session(
            replica=self._replica, who=who, stream=stream, patience=patience, policies=policies, log=self._log
        )
        self._sessions[who.id] = session
        try:
            if former is not None:
                former.end(grpc.StatusCode.ABORTED, "the process has opened another stream")
                await former.closed.wait()
            self._log.info(
                "instance.connected", instance=who.name, holder=str(who.id), agents=list(who.agents), held=len(held)
            )
            return await session.run(context, held)
        finally:
            self._log.info("instance.disconnected", instance=who.name, holder=str(who.id))
            if self._sessions.get(who.id) is session:
                del self._sessions[who.id]


def _authorization(context: Any) -> str:
    metadata = context.invocation_metadata() or ()
    return next((str(value) for name, value in metadata if name.lower() == "authorization"), "")


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Raises: BadInput, naming the file that cannot be read."""
    if settings.grpc_cert is None or settings.grpc_key is None:
        return None
    chain, key = _read(settings.grpc_cert), _read(settings.grpc_key)
    authority = None if settings.grpc_ca is None else _read(settings.grpc_ca)
    return grpc.ssl_server_credentials([(key, chain)], authority, require_client_auth=authority is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; it is named by TOCSIN_GRPC_CERT, _KEY or _CA") from error
