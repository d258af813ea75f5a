"""A hub that does what a test says: a real gRPC server on a loopback port, in threads of its own.

Not ``grpc.aio``: the test, the agents' loop, the link's and the hub's are to hinder each other in nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
from google.protobuf.duration_pb2 import Duration

from tocsin.v1 import agent_pb2 as pb

PATIENCE: Final = 10.0


def seconds(value: float) -> Duration:
    return Duration(seconds=int(value), nanos=round(value % 1 * 1e9))


def an_assignment(agent: str = "echo", **fields: Any) -> pb.Assignment:
    """A run that a trigger named ``often`` has called; its fence is 1."""
    message = pb.Assignment(
        run_id=str(uuid4()),
        fence=1,
        trigger_id=str(UUID(int=1)),
        trigger="often",
        agent=agent,
        kind="schedule",
        lane="live",
        attempt=1,
        max_attempts=3,
        idempotency_key="once",
        cancel_within=seconds(5),
    )
    for instant in (message.nominal_at, message.effective_at, message.started_at):
        instant.FromJsonString("2026-03-01T12:00:00Z")
    for name, value in fields.items():
        field = getattr(message, name)
        if hasattr(field, "CopyFrom"):
            field.CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def held(run: pb.Assignment) -> pb.Held:
    return pb.Held(run_id=run.run_id, fence=run.fence)


class Conversation:
    """One stream: what has come on it, and what the test says on it. takes_beats: each is answered."""

    def __init__(self, hub: "ScriptedHub", context: Any) -> None:
        self.takes_beats = True
        self.metadata = dict(context.invocation_metadata())
        self.came: list[pb.FromAgent] = []
        self.ended = False
        self._hub = hub
        self._said: SimpleQueue[pb.FromHub | Callable[[], None]] = SimpleQueue()
        self._context = context

    # --- the server's side

    def listen(self, requests: Iterator[pb.FromAgent]) -> None:
        """Everything that comes is kept, until the stream ends from the agents' side."""
        with suppress(Exception):
            for message in requests:
                if message.HasField("beat") and self.takes_beats:
                    self.say(beat_taken=pb.BeatTaken(seq=message.beat.seq))
                with self._hub.come:
                    self.came.append(message)
                    self._hub.come.notify_all()
        with self._hub.come:
            self.ended = True
            self._hub.come.notify_all()
        self._said.put(lambda: None)

    def answers(self) -> Iterator[pb.FromHub]:
        while isinstance(said := self._said.get(), pb.FromHub):
            yield said
        said()

    # --- the test's side

    def say(self, **message: Any) -> None:
        self._said.put(pb.FromHub(**message))

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """The stream ends from the hub's side."""
        self._said.put(lambda: self._context.abort(code, details) if code is not None else None)

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """The Hello is answered with an error."""
        self.hello  # noqa: B018 — waited for
        self.end(code, details)

    def welcome(
        self, *, beat_every: float = 0.1, suspect_after: float = 0.0, dead_after: float = 10.0, **fields: Any
    ) -> "Conversation":
        self.hello  # noqa: B018 — waited for
        self.say(
            welcome=pb.Welcome(
                protocol=1,
                hub="scripted",
                version="0.1.0",
                beat_every=seconds(beat_every),
                suspect_after=seconds(suspect_after or dead_after / 2),
                dead_after=seconds(dead_after),
                **fields,
            )
        )
        return self

    def assign(self, *runs: pb.Assignment) -> None:
        self.say(assign=pb.Assign(runs=runs))

    def settle(self, run: pb.Assignment, *, fenced: bool = False) -> None:
        self.say(settled=pb.Settled(verdicts=[pb.Verdict(run_id=run.run_id, fence=run.fence, fenced=fenced)]))

    @property
    def hello(self) -> pb.Hello:
        self.wait(lambda: bool(self.came), "a Hello")
        return self.came[0].hello

    def all(self, kind: str) -> list[Any]:
        """The messages of this kind that have come."""
        return [getattr(message, kind) for message in list(self.came) if message.HasField(kind)]

    @property
    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("message") for message in list(self.came)]

    def expect(self, kind: str, count: int = 1, where: Callable[[Any], bool] = lambda _: True) -> Any:
        """The ``count``-th message of this kind for which that holds."""

        def found() -> list[Any]:
            return [message for message in self.all(kind) if where(message)]

        self.wait(lambda: len(found()) >= count, f"{count} × {kind}")
        return found()[count - 1]

    @property
    def results(self) -> list[pb.Result]:
        return [result for finished in self.all("finished") for result in finished.results]

    def result_of(self, run: pb.Assignment) -> pb.Result:
        """The run's first result on this stream."""

        def found() -> list[pb.Result]:
            return [result for result in self.results if result.run_id == run.run_id]

        self.wait(lambda: bool(found()), f"a result of {run.agent}")
        return found()[0]

    def credits(self, runs: int) -> None:
        """So many have been given in all, and no more."""
        self.wait(lambda: sum(credit.runs for credit in self.all("credit")) == runs, f"{runs} credits")

    def wait(self, true: Callable[[], bool], what: str) -> None:
        with self._hub.come:
            assert self._hub.come.wait_for(true, PATIENCE), f"no {what}; there came {self.kinds}"

    def quiet(self, kind: str, length: float = 0.3, count: int = 0) -> None:
        """No more than ``count`` of this kind have come, and none does for a while."""
        ends = time.monotonic() + length
        with self._hub.come:
            while (left := ends - time.monotonic()) > 0:
                self._hub.come.wait(left)
        assert len(self.all(kind)) <= count


class ScriptedHub:
    """Streams in the order in which they were opened."""

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.come = threading.Condition()
        self._streams: list[Conversation] = []
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool)
        handler = grpc.stream_stream_rpc_method_handler(
            self._connect,
            request_deserializer=pb.FromAgent.FromString,
            response_serializer=pb.FromHub.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tocsin.v1.AgentHub", {"Connect": handler}),)
        )
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials is not None
            else self._server.add_insecure_port(address)
        )
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stream(self, number: int = 1) -> Conversation:
        """The ``number``-th stream that was opened."""
        with self.come:
            assert self.come.wait_for(lambda: len(self._streams) >= number, PATIENCE), f"no stream {number}"
            return self._streams[number - 1]

    @property
    def streams(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        for stream in self._streams:
            stream.end()
        self._server.stop(0.2).wait()
        self._pool.shutdown(wait=False)

    def _connect(self, requests: Iterator[pb.FromAgent], context: Any) -> Iterator[pb.FromHub]:
        stream = Conversation(self, context)
        with self.come:
            self._streams.append(stream)
            self.come.notify_all()
        threading.Thread(target=stream.listen, args=(requests,), daemon=True).start()
        yield from stream.answers()
