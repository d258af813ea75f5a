"""The feed of transitions: read by snapshots, switched on by its first reader, pruned behind the last.

The feed is whole from its oldest mark on: a reader whose base sees what that mark sees misses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec
from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.feed import Snapshot
from tocsin.store.database import Database, Record

MARK_EVERY: Final = timedelta(seconds=10)
HOLD_WITHIN: Final = ("100ms", "200ms", "400ms", "800ms", "1600ms")
"""How long the feed's lock is waited for, in turn: so long whoever takes an edge may have to wait, too."""


class Transition(msgspec.Struct, frozen=True):
    """One edge, as it is told. trigger, agent, kind: None when somebody has deleted the run."""

    run_id: str
    trigger: str | None
    agent: str | None
    kind: str | None
    seq: int
    from_state: str | None
    to_state: str
    attempt: int
    fence: int
    actor: str
    reason: str | None
    at: datetime


class Fed(NamedTuple):
    """A transition as the feed has it. id: by which those of one run are in their order; xid: of its transaction."""

    id: int
    xid: int
    transition: Transition


@dataclass(frozen=True, slots=True)
class Standing:
    """How the feed stood in the moment in which it was read. life: None, while it is off; floor: of what sees less,
    something may be missing.
    """

    life: str | None
    snapshot: Snapshot
    floor: Snapshot | None


@dataclass(frozen=True, slots=True)
class Page:
    standing: Standing
    rows: Sequence[Fed]


class Feed:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def read(self, base: Snapshot, *, limit: int) -> Page:
        """What the base does not see, by id."""
        return _page(await self._database.fetch("read_feed", base=base.row(), limit=limit))

    async def page(self, base: Snapshot, target: Snapshot, *, after: int, limit: int) -> Page:
        """What the target sees and the base does not, by id, after one."""
        rows = await self._database.fetch("page_feed", base=base.row(), target=target.row(), after=after, limit=limit)
        return _page(rows)

    async def recent(self, standing: Standing, *, keep: int) -> Snapshot:
        """A base that does not see the newest so many transitions, or any at all, when there are fewer."""
        row = await self._database.fetchrow("cut_of_feed", keep=keep)
        assert row is not None  # a SELECT without FROM always has one row
        floor = standing.floor or standing.snapshot
        if row["xid"] is None:
            return floor
        cut = standing.snapshot.cut_at(row["xid"] + 1)
        return cut if floor.is_within(cut) else floor

    async def want(self) -> tuple[str, bool]:
        """(its life, whether it was switched on just now). The feed is on, and stays on for its retention.

        Raises: DatabaseUnavailable.
        """
        life = await self._mark()
        return (life, False) if life is not None else await self._switch_on()

    async def _mark(self) -> str | None:
        row = await self._database.fetchrow("mark_feed", now=self._clock.now(), every=MARK_EVERY)
        return None if row is None else str(row["life"])

    async def _switch_on(self) -> tuple[str, bool]:
        """Raises: DatabaseUnavailable, when somebody is in the middle of an edge for too long."""
        for within in HOLD_WITHIN[:-1]:
            try:
                return await self._try_to_switch_on(within)
            except DatabaseUnavailable:
                await self._clock.sleep(0.05)
        return await self._try_to_switch_on(HOLD_WITHIN[-1])

    async def _try_to_switch_on(self, within: str) -> tuple[str, bool]:
        async with self._database.transaction() as session:
            await session.fetch("wait_briefly", within=within)
            await session.fetch("hold_feed")
            row = await session.fetchrow("mark_feed", now=self._clock.now(), every=MARK_EVERY)
            if row is not None:  # a peer was first
                return str(row["life"]), False
            foreign = await session.fetchrow("is_feed_foreign")
            if foreign is not None and foreign["is_foreign"]:
                await session.fetch("empty_feed")
            on = await session.fetchrow("switch_feed_on", now=self._clock.now(), life=uuid7().hex[-12:])
            assert on is not None  # it was inserted
            return str(on["life"]), True

    async def leave(self, before: datetime) -> bool:
        """The feed is off, if nobody has wanted it since; whether it was on until now."""
        row = await self._database.fetchrow("is_feed_left", before=before)
        if row is None or not row["is_left"]:
            return False
        async with self._database.transaction() as session:
            await session.fetch("hold_marks")
            return await session.fetchrow("switch_feed_off", before=before) is not None

    async def prune(self, before: datetime, *, batch: int) -> int:
        """What was visible at the instant is gone, at most a batch; how many."""
        row = await self._database.fetchrow("prune_feed", before=before, batch=batch)
        return int(row["count"]) if row else 0


def _page(rows: Sequence[Record]) -> Page:
    standing = next(row for row in rows if row["id"] is None)
    fed = sorted((_fed(row) for row in rows if row["id"] is not None), key=itemgetter(0))
    floor = standing["floor"]
    return Page(
        Standing(standing["life"], _snapshot(standing["snapshot"]), None if floor is None else _snapshot(floor)), fed
    )


def _fed(row: Record) -> Fed:
    number, xid, run_id, trigger, agent, kind, seq, to_state, attempt, fence, actor, reason, at, *_ = row
    # As the trail has it: a claim is the even edge of its fence, and the odd one after it leads away again.
    from_state = None if seq == 1 else "running" if seq % 2 else "queued"
    return Fed(
        number,
        xid,
        Transition(str(run_id), trigger, agent, kind, seq, from_state, to_state, attempt, fence, actor, reason, at),
    )


def _snapshot(row: tuple[int, int, tuple[int, ...]]) -> Snapshot:
    xmin, xmax, in_progress = row
    return Snapshot(xmin, xmax, tuple(in_progress))
