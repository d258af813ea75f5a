"""Events in the database: told, taken up, and what they came to. Each method is part of its caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.event import Event, Received
from tocsin.domain.trigger import TriggerSpec
from tocsin.domain.window import Window
from tocsin.store.attempts import sparse
from tocsin.store.database import Record, Session
from tocsin.store.leases import Incarnation


@dataclass(frozen=True, slots=True)
class Listening:
    """A row of a trigger that listens; ``policy`` is JSON text."""

    id: UUID
    name: str
    agent: str
    policy: str
    version: int


@dataclass(frozen=True, slots=True)
class Taken:
    """An event that waited to be matched; None, with why, where nobody can read it."""

    seq: int
    source: str
    id: str
    event: Event | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """version: of what listens; now: the database's instant, None when nothing waits."""

    taken: list[Taken]
    version: str
    now: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run of a listening trigger, to be claimed from ``at`` on. input: JSON text."""

    trigger_id: UUID
    spec: TriggerSpec
    key: str
    input: str
    at: datetime
    depth: int
    id: UUID = field(default_factory=uuid7)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreInput:
    """A run that waits, waits until ``at`` with another input, or with more of it."""

    run_id: UUID
    spec: TriggerSpec
    input: str
    at: datetime
    depth: int
    appends: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """What an event came to at one trigger: a run, or the reason why there is none."""

    seq: int
    trigger_id: UUID
    run_id: UUID | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch of events came to. skips: counts by (trigger, begin of the account, reason)."""

    runs: list[NewRun]
    more: list[MoreInput]
    windows: Mapping[tuple[UUID, str], Window]
    skips: Mapping[tuple[UUID, datetime, str], int]


class Events:
    def __init__(self, *, clock: Clock, who: Incarnation) -> None:
        self._clock = clock
        self._who = who

    async def insert(
        self, session: Session, events: Sequence[Event], *, matched: bool
    ) -> tuple[dict[tuple[str, str], int], str, datetime]:
        """(the numbers of those that were not known, the version of what listens, the database's instant).

        matched: triggers are looked for in the same transaction; else whoever takes them up does so.
        """
        rows = await session.fetch(
            "insert_events",
            now=self._clock.now(),
            matched=matched,
            sources=[event.source for event in events],
            ids=[event.id for event in events],
            types=[event.type for event in events],
            subjects=sparse([event.subject for event in events]),
            times=sparse([event.time for event in events]),
            extensions=sparse([_json(event.extensions) if event.extensions else None for event in events]),
            **_received_columns([event.received for event in events]),
            datas=[_json(event.data) for event in events],
        )
        fresh = {(row["source"], row["id"]): row["seq"] for row in rows if row["source"] is not None}
        version, now = next((row["version"], row["now"]) for row in rows if row["source"] is None)
        return fresh, version, now

    async def take(self, session: Session, *, batch: int) -> Batch:
        """Events that wait, oldest first; ours until the transaction ends."""
        rows = await session.fetch("take_events", now=self._clock.now(), batch=batch)
        if not rows:
            return Batch([], "", None)
        return Batch([_taken(row) for row in rows], rows[0]["version"], rows[0]["now"])

    async def listening(self, session: Session) -> tuple[str, list[Listening]]:
        """(the version of what listens, all of it)."""
        rows = await session.fetch("list_listening")
        return rows[0]["whole"], [Listening(*row[:5]) for row in rows if row["id"] is not None]

    async def hold(self, session: Session, ids: Sequence[UUID]) -> dict[UUID, tuple[int, datetime | None]]:
        """(version, since when it rests) of those that listen still; they stay so until the transaction ends."""
        rows = await session.fetch("hold_listening", now=self._clock.now(), ids=list(ids))
        return {row["id"]: (row["version"], row["paused_at"]) for row in rows}

    async def windows(self, session: Session, keys: Sequence[tuple[UUID, str]]) -> dict[tuple[UUID, str], Window]:
        """How these windows stand; nobody moves them, or claims their runs, until the transaction ends."""
        rows = await session.fetch(
            "hold_windows",
            now=self._clock.now(),
            trigger_ids=[trigger_id for trigger_id, _ in keys],
            keys=[key for _, key in keys],
        )
        run_ids = [row["run_id"] for row in rows if row["run_id"] is not None]
        waiting = await session.fetch("hold_window_runs", ids=run_ids) if run_ids else []
        due = {row["id"]: row["available_at"] for row in waiting}
        return {(row["trigger_id"], row["key"]): _window(row, due.get(row["run_id"])) for row in rows}

    async def write(self, session: Session, written: Written) -> dict[UUID, UUID]:
        """The run of each new one, and of each that waits: its own id, or that of the one its key gave before.

        Idempotent by the runs' keys.
        """
        runs, more = written.runs, written.more
        rows = await session.fetch(
            "fire_events",
            now=self._clock.now(),
            actor=self._who.actor,
            ids=[run.id for run in runs],
            trigger_ids=[run.trigger_id for run in runs],
            keys=[run.key for run in runs],
            inputs=[run.input for run in runs],
            ats=[run.at for run in runs],
            depths=[run.depth for run in runs],
            priorities=[run.spec.priority for run in runs],
            overlaps=[run.spec.overlap.value for run in runs],
            overlap_scopes=[run.spec.overlap_scope for run in runs],
            expiries=sparse([run.spec.expires_after for run in runs]),
            more_ids=[one.run_id for one in more],
            more_inputs=[one.input for one in more],
            more_ats=[one.at for one in more],
            more_depths=[one.depth for one in more],
            more_appends=[one.appends for one in more],
            more_scopes=[one.spec.overlap_scope for one in more],
            **_window_columns(written.windows),
            skip_triggers=[trigger_id for trigger_id, _, _ in written.skips],
            skip_firsts=[first_at for _, first_at, _ in written.skips],
            skip_reasons=[reason for _, _, reason in written.skips],
            skip_counts=list(written.skips.values()),
        )
        return {row["id"]: row["run_id"] for row in rows}

    async def note(self, session: Session, noted: Sequence[Noted]) -> None:
        """What events came to is on record. Idempotent by event and trigger."""
        await session.fetch(
            "note_events",
            seqs=[one.seq for one in noted],
            trigger_ids=[one.trigger_id for one in noted],
            run_ids=sparse([one.run_id for one in noted]),
            reasons=sparse([one.reason for one in noted]),
        )

    async def mark(self, session: Session, done: Sequence[Taken]) -> None:
        """These events were matched, or can be read by nobody."""
        await session.fetch(
            "mark_events",
            now=self._clock.now(),
            sources=[taken.source for taken in done],
            ids=[taken.id for taken in done],
            faults=sparse([taken.fault for taken in done]),
        )

    async def quarantine(self, session: Session, trigger_id: UUID, version: int, reason: str) -> bool:
        """The trigger fires nothing more, unless somebody has changed it meanwhile."""
        row = await session.fetchrow("quarantine_listening", id=trigger_id, version=version, reason=reason[:1_000])
        if row is not None:
            await self.tell_broken(session, [trigger_id])
        return row is not None

    async def tell_broken(self, session: Session, ids: Sequence[UUID]) -> None:
        """That these triggers were quarantined is an event, if somebody listens."""
        await session.fetch("tell_broken", now=self._clock.now(), ids=list(ids))


def _taken(row: Record) -> Taken:
    """jsonb holds what our reader refuses: numbers beyond a double, and any depth."""
    seq, source, event_id = row["seq"], row["source"], row["id"]
    try:
        data = msgspec.json.decode(row["data"])
        extensions = msgspec.json.decode(row["extensions"] or "{}")
    except (ValueError, RecursionError) as error:
        return Taken(seq, source, event_id, None, f"its data cannot be read: {type(error).__name__}: {error}"[:500])
    fields: dict[str, Any] = {name: row[name] for name in ("id", "source", "type", "subject", "time", "depth")}
    return Taken(seq, source, event_id, Event(data=data, extensions=extensions, **fields))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _received_columns(received: Sequence[Received | None]) -> dict[str, object]:
    """How webhooks' calls came; nothing of what came otherwise."""
    return {
        "bodies": sparse([one.body if one else None for one in received]),
        "sizes": sparse([one.size if one else None for one in received]),
        "medias": sparse([one.media if one else None for one in received]),
        "digests": sparse([one.digest if one else None for one in received]),
    }


def _window(row: Record, due_at: datetime | None) -> Window:
    if due_at is None:
        return Window(free_at=row["free_at"])
    return Window(
        run_id=row["run_id"],
        opened_at=row["opened_at"],
        due_at=due_at,
        count=row["count"],
        size=row["size"],
        free_at=row["free_at"],
    )


def _window_columns(windows: Mapping[tuple[UUID, str], Window]) -> dict[str, object]:
    return {
        "window_triggers": [trigger_id for trigger_id, _ in windows],
        "window_keys": [key for _, key in windows],
        "window_runs": [window.run_id for window in windows.values()],
        "window_opened": [window.opened_at for window in windows.values()],
        "window_counts": [window.count for window in windows.values()],
        "window_sizes": [window.size for window in windows.values()],
        "window_free": [window.free_at for window in windows.values()],
    }
