"""A hub with its gRPC port, and a process at the other end of a stream that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from uuid import uuid4

import grpc
import grpc.aio

from tests.engine.building import DEADLINE, Heard, an_app
from tocsin.clock import SystemClock
from tocsin.domain.trigger import TriggerSpec
from tocsin.edges.grpc.server import AgentServer
from tocsin.engine.control import Control
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.hub import Replica
from tocsin.settings import load_settings
from tocsin.store.database import Database
from tocsin.v1 import agent_pb2 as pb

QUICK: Mapping[str, Any] = {
    "grpc_bind": "127.0.0.1:0",
    "suspect_after": 2,
    "dead_after": 5,
    "sweep_every": 0.2,
    "poll_every": 0.3,
    "lease": 3,
    "renew_every": 0.5,
}


class Hub:
    """One replica without agents of its own, and its port."""

    def __init__(self, replica: Replica, server: AgentServer, log: Heard) -> None:
        self.replica = replica
        self.server = server
        self.address = server.address
        self.log = log


@asynccontextmanager
async def a_hub(dsn: str, **settings: Any) -> AsyncIterator[Hub]:
    """settings: and, if it has one, its ``observer``."""
    log = Heard()
    observer: Observer = settings.pop("observer", UNOBSERVED)
    given = load_settings(**{**QUICK, **settings})
    async with (
        Replica(dsn=dsn, settings=given, executors=(), log=log, observer=observer) as replica,
        AgentServer(replica=replica, settings=given, log=log) as server,
    ):
        yield Hub(replica, server, log)


@asynccontextmanager
async def a_control(
    dsn: str, *triggers: TriggerSpec, agents: Sequence[str] = ("agent",), **policy: Any
) -> AsyncIterator[Control]:
    """Control of a database in which these agents and triggers are declared."""
    database = Database(dsn, size=2)
    try:
        await database.open()
        control = Control(database=database, clock=SystemClock(), actor="test")
        await control.declare(an_app(*triggers, agents=agents, **policy))
        yield control
    finally:
        await database.close()


class Process:
    """A stream and whoever is at its agent's end.

    beats: it beats by itself, from its welcome on, unless it is ``frozen``. deaf: it reads no more.
    """

    def __init__(self, address: str, *, key: str | None = None, credentials: Any = None, **hello: Any) -> None:
        self.id = str(hello.pop("instance_id", uuid4()))
        beats = bool(hello.pop("beats", True))
        self._hello: dict[str, Any] = {
            "agents": ["agent"],
            "slots": 10,
            "name": f"p-{self.id[:4]}",
            "protocol": 1,
        } | hello
        self._beats = beats
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._address = address
        self._credentials = credentials
        self._got: asyncio.Queue[Any] = asyncio.Queue()
        self.kept: list[pb.FromHub] = []
        self.seq = 0
        self.held: dict[str, pb.Held] = {}
        self.welcomed = self.frozen = self.deaf = False
        self._turn = asyncio.Lock()
        self._flooder: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._address)
        else:
            self._channel = grpc.aio.secure_channel(self._address, self._credentials)
        connect = self._channel.stream_stream(
            "/tocsin.v1.AgentHub/Connect",
            request_serializer=pb.FromAgent.SerializeToString,
            response_deserializer=pb.FromHub.FromString,
        )
        self.call = connect(metadata=self._metadata)
        self._reader = asyncio.create_task(self._read())
        self._beater = asyncio.create_task(self._beat_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        tasks = {task for task in (self._reader, self._beater, self._flooder) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._channel.close()

    async def _read(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self._got.put_nowait(message)
                while self.deaf:  # noqa: ASYNC110 — for the rest of the test
                    await asyncio.sleep(0.1)

    async def _beat_on(self) -> None:
        """It is alive, as long as it says so."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await asyncio.sleep(0.15)
                if self._beats and self.welcomed and not self.frozen:
                    await self.beat()

    async def say(self, **message: Any) -> None:
        # A call takes one message at a time, and it may beat beside.
        async with self._turn:
            await self.call.write(pb.FromAgent(**message))

    async def present(self, *, held: Sequence[pb.Held] = (), last_stream: int = 0) -> None:
        """Its Hello has been said."""
        await self.say(hello=pb.Hello(instance_id=self.id, held=held, last_stream=last_stream, **self._hello))

    async def hello(self, *, held: Sequence[pb.Held] = (), last_stream: int = 0) -> pb.Welcome:
        await self.present(held=held, last_stream=last_stream)
        welcome: pb.Welcome = (await self.next("welcome")).welcome
        self.welcomed = True
        return welcome

    async def credit(self, runs: int) -> None:
        await self.say(credit=pb.Credit(runs=runs))

    async def beat(self, *, stalled: bool = False, culprit: str = "") -> int:
        self.seq += 1
        beat = pb.Beat(seq=self.seq, held=list(self.held.values()), stalled=stalled, culprit=culprit)
        await self.say(beat=beat)
        return self.seq

    async def next(self, kind: str, *, within: float = DEADLINE) -> Any:
        """The next message of this kind; others that came meanwhile are kept."""
        for place, message in enumerate(self.kept):
            if message.WhichOneof("message") == kind:
                return self.kept.pop(place)
        async with asyncio.timeout(within):
            while (message := await self._got.get()).WhichOneof("message") != kind:
                self.kept.append(message)
        return message

    async def none(self, kind: str, *, within: float) -> None:
        """No message of this kind comes in that time."""
        try:
            message = await self.next(kind, within=within)
        except TimeoutError:
            return
        raise AssertionError(f"{message} came")

    async def assigned(self, count: int = 1, *, within: float = DEADLINE) -> list[pb.Assignment]:
        """So many runs, which it has in hand from now on."""
        runs: list[pb.Assignment] = []
        while len(runs) < count:
            runs += (await self.next("assign", within=within)).assign.runs
        for run in runs:
            self.held[run.run_id] = pb.Held(run_id=run.run_id, fence=run.fence)
        return runs

    async def finish(self, *runs: pb.Assignment, output: bytes = b"null", **result: Any) -> list[pb.Verdict]:
        """The hub's verdicts on their results."""
        outcome = result or {"succeeded": output}
        await self.say(
            finished=pb.Finished(results=[pb.Result(run_id=run.run_id, fence=run.fence, **outcome) for run in runs])
        )
        verdicts: list[pb.Verdict] = []
        while len(verdicts) < len(runs):
            verdicts += (await self.next("settled")).settled.verdicts
        for run in runs:
            self.held.pop(run.run_id, None)
        return verdicts

    async def flood(self, finished: pb.Finished, *, seconds: float) -> int:
        """How often this was taken in that time; it goes on being sent."""
        sent = 0

        async def send() -> None:
            nonlocal sent
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                while True:
                    await self.say(finished=finished)
                    sent += 1

        # A write that is cancelled would end the stream.
        self._flooder = asyncio.create_task(send())
        await asyncio.wait({self._flooder}, timeout=seconds)
        return sent

    async def code(self) -> grpc.StatusCode:
        """How the stream ended."""
        async with asyncio.timeout(DEADLINE):
            code: grpc.StatusCode = await self.call.code()
        return code


@asynccontextmanager
async def a_process(dsn: str, **hello: Any) -> AsyncIterator[tuple[Hub, Process]]:
    """A hub, and a process that has opened a stream to it and has said nothing yet."""
    async with a_hub(dsn) as hub, Process(hub.address, **hello) as process:
        yield hub, process
