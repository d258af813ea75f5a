"""Runs asked for by hand: one, as quickly as a commit allows, or many.

Reads: the trigger by its name. Writes, in one statement: the occurrence's key and its run. Asked for in a
process that serves the agent and has a slot to spare, the run is inserted as begun, so that it begins one
commit after the call. If the process dies before the commit, nothing has happened; after it, the run is
queued for anybody, or is swept like any other claim. A key seen before gives the run that it gave then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

from tocsin.domain.errors import BadInput, Contended, NotFound
from tocsin.domain.payload import encode
from tocsin.domain.run import Lane, RunKind
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.desk import Desk, Kept
from tocsin.engine.resting import readable
from tocsin.engine.views import new_run_view, run_view
from tocsin.store.runs import Fired, Request, Runs
from tocsin.store.trigger_rows import TriggerRow

CHUNK: Final = 2000
"""Requests in one statement; each is a transaction."""

AT_ONCE: Final = 2
"""Statements on their way together: the database's work on one is the encoding of the next."""


class Firing:
    """row: a trigger by its name, or NotFound; desk: where slots are to be had in this process, if it serves agents."""

    def __init__(self, *, runs: Runs, row: Callable[[str], Awaitable[TriggerRow]], desk: Desk | None) -> None:
        self._runs = runs
        self._row = row
        self._desk = desk
        self._agents: dict[str, str] = {}

    async def fire(self, name: str, key: str | None, payload: Any) -> dict[str, Any]:
        """The run, as an edge shows it; ``created``: whether it was not there before.

        Raises: NotFound; Conflict, for a broken trigger; BadInput; PayloadTooLarge.
        """
        request = _request(key, payload)
        fired = await self._by_name(name, request)
        if fired is not None and fired.row is not None:
            return new_run_view(fired.row) | {"created": True}
        if fired is not None:
            return await self._standing(fired.run_id, created=False)
        row = await self._row(name)
        spec = readable(row)
        [(run_id, created)] = await self.queued([request], row.id, spec, overlap=_overlap(spec))
        return await self._standing(run_id, created=created)

    async def fire_many(self, name: str, asked: Sequence[tuple[str | None, Any]]) -> list[dict[str, Any]]:
        """``id`` and ``created`` for each (key, input), in their order."""
        row = await self._row(name)
        spec = readable(row)
        requests = [_request(key, payload) for key, payload in asked]
        fired = await self.queued(requests, row.id, spec, overlap=_overlap(spec))
        return [{"id": run_id, "created": created} for run_id, created in fired]

    async def _standing(self, run_id: UUID, *, created: bool) -> dict[str, Any]:
        row = await self._runs.get(run_id)
        if row is None:
            raise NotFound("run", run_id)
        return run_view(row) | {"created": created}

    async def _by_name(self, name: str, request: Request) -> Fired | None:
        """The run; None where only the trigger's reader can judge it, or it is not there."""
        agent = self._agents.get(name)
        with Kept(self._desk) as kept:
            keeps = agent is not None and kept.keep(agent)
            holder = self._desk.holder if keeps and self._desk is not None else None
            try:
                fired = await self._runs.fire(name, request, agent=agent if keeps else None, holder=holder)
            except Contended:
                # A peer was first in its scope, unseen: it queues behind that one.
                fired = await self._runs.fire(name, request, agent=None, holder=None)
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


def _request(key: str | None, payload: Any) -> Request:
    if key is not None and not key.strip():
        raise BadInput("key: must not be empty: every fire with it would be the same run")
    encoded = None if payload is None else encode(payload, what="input").decode()
    return Request(key=f"manual:{key if key is not None else uuid4()}", input=encoded)


def _overlap(spec: TriggerSpec) -> Overlap:
    """Source: docs/semantics.md, 4.4."""
    return spec.overlap if spec.overlap is Overlap.ALLOW else Overlap.QUEUE_ONE
