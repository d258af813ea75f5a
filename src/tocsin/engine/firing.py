"""Runs asked for by hand: one, as quickly as a commit allows, many, a range of the past, or one once more.

Reads: the trigger by its name. Writes, in one statement: the occurrence's key and its run. Asked for in a
process that serves the agent and has a slot to spare, the run is inserted as begun, so that it begins one
commit after the call. If the process dies before the commit, nothing has happened; after it, the run is
queued for anybody, or is swept like any other claim. A key seen before gives the run that it gave then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from uuid_utils.compat import uuid7

from tocsin.domain.errors import BadInput, Contended, NotFound
from tocsin.domain.payload import encode
from tocsin.domain.run import Lane, RunKind
from tocsin.domain.trigger import Overlap, TriggerSpec
from tocsin.engine.desk import Desk, Kept
from tocsin.engine.resting import readable
from tocsin.engine.views import new_run_view, run_view
from tocsin.store.runs import Fired, Request, Runs
from tocsin.store.trigger_rows import TriggerRow

MAX_BACKFILL: Final = 1_000

FIRST: Final = datetime.min.replace(tzinfo=UTC)
STEP: Final = timedelta(microseconds=1)

MAX_KEY: Final = 255
"""Characters of a caller's key."""

CHUNK: Final = 2_000
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
        [(run_id, created)] = await self._queued([request], row.id, spec, overlap=_overlap(spec))
        return await self._standing(run_id, created=created)

    async def fire_many(self, name: str, asked: Sequence[tuple[str | None, Any]]) -> list[dict[str, Any]]:
        """``id`` and ``created`` for each (key, input), in their order."""
        row = await self._row(name)
        spec = readable(row)
        requests = [_request(key, payload) for key, payload in asked]
        fired = await self._queued(requests, row.id, spec, overlap=_overlap(spec))
        return [{"id": run_id, "created": created} for run_id, created in fired]

    async def backfill(
        self, name: str, since: datetime, until: datetime, *, dry_run: bool, key: str | None = None
    ) -> dict[str, Any]:
        """How many occurrences of [since, until] are run once more, and the backfill's id; see Control."""
        row = await self._row(name)
        spec = readable(row)
        if spec.schedule is None:
            raise BadInput(f"trigger {name!r} has no schedule to backfill from")
        if not since <= until <= row.now:
            raise BadInput("a backfill's range must be in order and must not reach into the future")
        before = max(since, FIRST + STEP) - STEP
        instants = list(spec.schedule.occurrences(before, until, MAX_BACKFILL + 1))
        if len(instants) > MAX_BACKFILL:
            raise BadInput(f"more than {MAX_BACKFILL} occurrences in that range: backfill it in parts")
        answer = {"trigger": name, "count": len(instants), "since": since, "until": until, "dry_run": dry_run}
        if dry_run or not instants:
            return answer | {"id": None}
        backfill = str(uuid7() if key is None else uuid5(row.id, f"backfill:{checked_key(key)}"))
        await self._queued(
            [Request(key=f"backfill:{backfill}:{at.isoformat()}", nominal_at=at) for at in instants],
            row.id,
            spec,
            kind=RunKind.BACKFILL,
            lane=Lane.LATE,
            overlap=Overlap.QUEUE_ALL,
            overlap_scope=f"backfill:{backfill}" if spec.overlap is Overlap.ALLOW else None,
        )
        return answer | {"id": backfill}

    async def again(self, run_id: UUID, trigger: str, payload: Any, *, key: str | None = None) -> UUID:
        """A new run of the trigger with the input of one that has ended; the same key gives the same one."""
        row = await self._row(trigger)
        spec = readable(row)
        request = Request(
            key=f"retry:{run_id}:{uuid4() if key is None else checked_key(key)}",
            input=encode(payload, what="input").decode(),
        )
        overlap = spec.overlap if spec.overlap is Overlap.ALLOW else Overlap.QUEUE_ALL
        [(new_id, _)] = await self._queued([request], row.id, spec, overlap=overlap)
        return new_id

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

    async def _queued(
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


def checked_key(key: str) -> str:
    """The key. Raises: BadInput, for one that is empty, long, or not on one line."""
    if not key.strip():
        raise BadInput("key: must not be empty: every fire with it would be the same run")
    if len(key) > MAX_KEY or not key.isprintable():
        raise BadInput(f"key {key[:40]!r}: must be 1 to {MAX_KEY} characters on one line")
    return key


def _request(key: str | None, payload: Any) -> Request:
    encoded = None if payload is None else encode(payload, what="input").decode()
    return Request(key=f"manual:{uuid4() if key is None else checked_key(key)}", input=encoded)


def _overlap(spec: TriggerSpec) -> Overlap:
    """Source: docs/semantics.md, 4.4."""
    return spec.overlap if spec.overlap is Overlap.ALLOW else Overlap.QUEUE_ONE
