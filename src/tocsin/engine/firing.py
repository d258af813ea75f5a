"""Runs asked for by hand: one, as quickly as a commit allows, or many.

Reads: the trigger by its name. Writes, in one statement: the occurrence's key and its run. Asked for in a
process that serves the agent and has a slot to spare, the run is inserted as begun, so that it begins one
commit after the call. If the process dies before the commit, nothing has happened; after it, the run is
queued for anybody, or is swept like any other claim. A key seen before gives the run that it gave then.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tocsin.domain.run import Lane, RunKind
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.desk import Desk, Kept
from tocsin.store.runs import Fired, Request, Runs

CHUNK: Final = 2000
"""Requests in one statement; each is a transaction."""

AT_ONCE: Final = 2
"""Statements on their way together: the database's work on one is the encoding of the next."""


class Firing:
    """desk: where slots are to be had in this process, if it serves agents."""

    def __init__(self, *, runs: Runs, desk: Desk | None) -> None:
        self._runs = runs
        self._desk = desk
        self._agents: dict[str, str] = {}

    async def by_name(self, name: str, request: Request) -> Fired | None:
        """The run; None where only the trigger's reader can judge it, or it is not there."""
        agent = self._agents.get(name)
        with Kept(self._desk) as kept:
            keeps = agent is not None and kept.keep(agent)
            holder = self._desk.holder if keeps and self._desk is not None else None
            fired = await self._runs.fire(name, request, agent=agent if keeps else None, holder=holder)
            if fired is not None and fired.begun is not None:
                kept.begin([fired.begun])
        if fired is not None and self._desk is not None:
            self._agents[name] = fired.agent
        return fired

    async def queued(
        self,
        requests: Sequence[Request],
        trigger_id: UUID,
        spec: TriggerSpec,
        *,
        kind: RunKind = RunKind.MANUAL,
        lane: Lane = Lane.LIVE,
        overlap: Overlap,
        overlap_scope: str | None = None,
    ) -> list[tuple[UUID, bool]]:
        """One (run id, created) for each request, in their order; a chunk that fails leaves the others written."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def send(chunk: Sequence[Request]) -> list[tuple[UUID, bool]]:
            async with gate:
                return await self._runs.enqueue(
                    chunk,
                    trigger_id=trigger_id,
                    kind=kind,
                    lane=lane.value,
                    priority=spec.priority,
                    overlap=overlap.value,
                    overlap_scope=overlap_scope if overlap_scope is not None else spec.overlap_scope,
                )

        chunks = [requests[first : first + CHUNK] for first in range(0, len(requests), CHUNK)]
        return [answer for part in await asyncio.gather(*map(send, chunks)) for answer in part]
