"""An agent process that a fault plays by itself, with a ledger like any other's."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import Any, Final, Self

import grpc

from tests.chaos.elsewhere import PLAYED, Fires
from tests.chaos.journal import Journal
from tests.edges.wiring import Process
from tocsin.v1 import agent_pb2 as pb

PATIENCE: Final = 10.0


class Puppet:
    """See tests.edges.wiring.Process, which is ``process``. It beats by itself once it was welcomed."""

    def __init__(self, address: str, *, key: str | None, agent: str, ledgers: Path, **hello: Any) -> None:
        self.process: Final = Process(address, key=key, agents=[agent], name=f"played:{os.getpid()}", **hello)
        self._again: Final = {"key": key, "agent": agent, "ledgers": ledgers, **hello}
        self._ledger = Journal(ledgers / "played.jsonl")
        self._stream = 0

    async def __aenter__(self) -> Self:
        await self.process.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.__aexit__()
        self._ledger.close()

    async def welcome(self, *, held: Sequence[pb.Held] = (), last_stream: int = 0) -> None:
        self._stream = (await self.process.hello(held=held, last_stream=last_stream)).stream

    async def refusal(self, held: Sequence[pb.Held]) -> grpc.StatusCode | None:
        """How its Hello was refused; None when it was let in."""
        with suppress(grpc.aio.AioRpcError):
            await self.process.present(held=held)
        refused = asyncio.create_task(self.process.code())
        welcomed = asyncio.create_task(self.process.next("welcome"))
        await asyncio.wait({refused, welcomed}, return_when=asyncio.FIRST_COMPLETED)
        for task in (refused, welcomed):
            task.cancel()
        return refused.result() if refused.done() and not refused.cancelled() else None

    @asynccontextmanager
    async def again(self, address: str) -> AsyncIterator["Puppet"]:
        """The same process, with what it has in hand, on another stream; this one's is not its newest any more."""
        self.process.frozen = True
        async with Puppet(address, **{**self._again, "instance_id": self.process.id}) as newer:
            newer.process.held = dict(self.process.held)
            newer.process.seq = self.process.seq
            await newer.welcome(held=list(self.process.held.values()), last_stream=self._stream)
            yield newer

    async def take(self, fleet: Fires, *, fires: bool = True, within: float = PATIENCE) -> pb.Assignment:
        """A run in its hands."""
        await self.process.credit(1)
        if fires:
            await fleet.fire(PLAYED, {})
        (run,) = await self.process.assigned(within=within)
        effective = run.effective_at.ToDatetime(UTC).isoformat()
        self._note("START", run, effective=effective, does="played")
        return run

    async def finish(self, *runs: pb.Assignment) -> None:
        """Each has ended well, and that is accepted."""
        for run in runs:
            self._note("END", run, end="ok")
        for verdict in await self.process.finish(*runs):
            self._told(verdict, wanted=True)

    async def settled(self, run: pb.Assignment) -> None:
        """What it has said of the run is accepted."""
        self._note("END", run, end="ok")
        (verdict,) = (await self.process.next("settled")).settled.verdicts
        self.process.held.pop(run.run_id, None)
        self._told(verdict, wanted=True)

    async def refused(self, run_id: str, fence: int) -> None:
        """A result under that fence is not accepted, and what the process has in hand it has still."""
        held = dict(self.process.held)
        (verdict,) = await self.process.finish(pb.Assignment(run_id=run_id, fence=fence))
        self.process.held = held
        self._told(verdict, wanted=False)

    async def fenced(self, run_id: str) -> None:
        """The hub says that this run is not the process's."""
        while (await self.process.next("cancel")).cancel.run_id != run_id:
            continue

    def _told(self, verdict: pb.Verdict, *, wanted: bool) -> None:
        about = {"run": verdict.run_id, "fence": verdict.fence, "holder": self.process.id, "pid": os.getpid()}
        self._ledger.note("TOLD", **about, accepted=not verdict.fenced)
        if verdict.fenced is wanted:
            raise AssertionError(f"a result of run {verdict.run_id} was {'refused' if verdict.fenced else 'accepted'}")

    def _note(self, what: str, run: pb.Assignment, **fields: Any) -> None:
        self._ledger.note(what, run=run.run_id, fence=run.fence, attempt=run.attempt, pid=os.getpid(), **fields)
