"""One stream, from its Hello to its end: what arrives becomes calls of the attachment, and is believed in nothing."""

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any, Final

import grpc
import grpc.aio

from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import BadInput, StoreError
from tocsin.domain.instance import Patience
from tocsin.edges.grpc import wire
from tocsin.edges.grpc.outgoing import Outgoing
from tocsin.engine.attachment import Attachment
from tocsin.executors.remote import Remote
from tocsin.hub import Replica
from tocsin.store.instances import Held, Introduction
from tocsin.telemetry import Log
from tocsin.v1 import agent_pb2 as pb
from tocsin.version import __version__

LEAVES_WITHIN: Final = timedelta(seconds=2)
"""Over so long the processes of a hub that leaves spread their coming to others."""

MAX_MESSAGE: Final = 4 * 1024 * 1024
MAX_HELD: Final = 20_000

Ending = tuple[grpc.StatusCode, str]


class Session:
    """A process that has been let in. Entered, it is given work; left, its runs are its own affair."""

    def __init__(
        self,
        *,
        replica: Replica,
        who: Introduction,
        stream: int,
        patience: Patience,
        policies: dict[str, AgentSpec],
        log: Log,
    ) -> None:
        self.who = who
        self._replica = replica
        self._stream = stream
        self._patience = patience
        self._log = log
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self.outgoing = Outgoing(now=replica.house.time.now, lost=self._lose, revoked=self._shut_out)
        self._remote = Remote(who.name, policies, self.outgoing)
        self._attachment = Attachment(
            house=replica.house,
            holder=who.id,
            stream=stream,
            key=who.key,
            patience=patience,
            receiver=self._remote,
            policies=policies,
            post=self.outgoing,
        )

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """The stream ends so, soon; a second end changes nothing."""
        if not self._ending.done():
            self._ending.set_result((code, text))

    def _lose(self) -> None:
        """Its lease was ended, or a newer stream of it is served elsewhere; it will learn which when it comes again."""
        self.end(grpc.StatusCode.ABORTED, "connect again")

    def _shut_out(self, key: str) -> None:
        self.end(
            grpc.StatusCode.UNAUTHENTICATED,
            f"key {key!r} was revoked or has expired; `tocsin key create` makes another",
        )

    def leave(self, reason: str) -> None:
        """The hub goes: the process is to connect elsewhere."""
        self._attachment.runner.accepting = False
        leaving = pb.Leaving(within=wire.duration(LEAVES_WITHIN), reason=reason)
        self.outgoing.send(pb.FromHub(leaving=leaving))

    async def run(self, context: Any, held: list[Held]) -> Ending:
        """The stream has come to its end, as it says."""
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(self._replica.served.joined_by(self.who.agents))
                await stack.enter_async_context(self._attachment)
                await self._welcome(held)
                reading = asyncio.create_task(self._read(context), name="instance-reads")
                writing = asyncio.create_task(self._write(context), name="instance-writes")
                stack.callback(reading.cancel)
                stack.push_async_callback(_quietly_cancelled, writing)
                first: set[asyncio.Future[Any]] = {reading, writing, self._ending}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    await asyncio.wait({reading})
                await self._attachment.finish()
                # The last verdicts are still to be written.
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while self.outgoing.waiting and not writing.done():  # noqa: ASYNC110 — our own writer
                            await asyncio.sleep(0.01)
                return self._how_it_ended(reading)
        finally:
            self.closed.set()

    def _how_it_ended(self, reading: "asyncio.Task[None]") -> Ending:
        if self._ending.done():
            return self._ending.result()
        error = None if reading.cancelled() else reading.exception()
        match error:
            case BadInput():
                self._log.warning("instance.refused", instance=self.who.name, error=str(error))
                return grpc.StatusCode.INVALID_ARGUMENT, str(error)
            case StoreError():
                return grpc.StatusCode.UNAVAILABLE, str(error)
            case None:
                return grpc.StatusCode.OK, ""
            case _:
                self._log.error("instance.failed", instance=self.who.name, error=f"{type(error).__name__}: {error}")
                return grpc.StatusCode.INTERNAL, "a fault of the hub: connect again"

    async def _welcome(self, held: list[Held]) -> None:
        ours = await self._replica.instances.adopt(self.who.id, held, self.who.agents)
        self._attachment.resume(ours)
        if self._stream > 1:
            # Nothing is claimed in its name here until it is read from, so whatever it does not name is not on its way.
            self._attachment.give_back(await self._replica.instances.strays(self.who.id, held))
        valid = {(one.run_id, one.fence) for one in ours}
        passed = set(held) - valid
        taken = await self._replica.instances.taken_results(self.who.id, sorted(passed))
        patience = self._patience
        self.outgoing.send(
            pb.FromHub(
                welcome=pb.Welcome(
                    protocol=wire.PROTOCOL,
                    hub=self._replica.who.name,
                    version=__version__,
                    beat_every=wire.duration(patience.beat_every),
                    suspect_after=wire.duration(patience.suspect_after),
                    dead_after=wire.duration(patience.dead_after),
                    max_message_bytes=MAX_MESSAGE,
                    valid=wire.held_message(valid),
                    fenced=wire.held_message(passed - taken),
                    stream=self._stream,
                )
            )
        )
        for run_id, fence in taken:
            # The answer to its result was lost with an earlier stream.
            self.outgoing.settled(run_id, fence, fenced=False)

    async def _read(self, context: Any) -> None:
        """Raises: BadInput, StoreError."""
        while (message := await context.read()) is not grpc.aio.EOF:
            await self.outgoing.room()
            if not await self._take(message):
                return

    async def _write(self, context: Any) -> None:
        """Who beats and does not read is no better than one who is silent."""
        within = self._patience.suspect_after.total_seconds()
        try:
            await self.outgoing.write_all(context.write, within=within)
        except TimeoutError:
            self._log.warning("instance.deaf", instance=self.who.name, holder=str(self.who.id), seconds=within)
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"what the hub says was not read for {within:g} s")

    async def _take(self, message: pb.FromAgent) -> bool:
        """False: it was the last."""
        attachment = self._attachment
        match message.WhichOneof("message"):
            case "credit":
                attachment.give_credit(min(message.credit.runs, wire.MAX_SLOTS), most=self.who.slots)
            case "beat":
                beat = message.beat
                if len(beat.held) > MAX_HELD:
                    raise BadInput(f"beat: at most {MAX_HELD:,} runs in hand")
                culprit = beat.culprit[: wire.MAX_CULPRIT] or "unknown"
                held = wire.held_of(beat.held)
                progress = {run_id: one.progress for (run_id, _), one in zip(held, beat.held, strict=True)}
                attachment.hear(beat.seq, held, progress=progress, culprit=culprit if beat.stalled else None)
            case "report":
                self._take_report(message.report)
            case "finished":
                attachment.finish_runs([wire.result_of(result) for result in message.finished.results])
            case "begun" if self._log.is_info:
                for run_id, fence in wire.held_of(message.begun.runs):
                    self._log.info("run.begun", run_id=str(run_id), fence=fence, instance=self.who.name)
            case "draining":
                self._log.info("instance.draining", instance=self.who.name, holder=str(self.who.id))
                await attachment.drain()
                self.outgoing.drain()
            case "goodbye":
                returned = wire.held_of(message.goodbye.returned)
                self._log.info("instance.left", instance=self.who.name, holder=str(self.who.id), returned=len(returned))
                await attachment.say_goodbye(returned)
                return False
            case "hello":
                raise BadInput("hello: comes first, and once a stream")
            case _:
                pass  # of a newer protocol, or empty: nothing that we could mind
        return True

    def _take_report(self, report: pb.Report) -> None:
        self._attachment.report(wire.uuid_of(report.run_id, "run_id"), report.fence, wire.said_of(report))


async def _quietly_cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})
