"""What a holder writes about its attempts: claimed, reported, settled. Every write after a claim carries its fence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.assignment import Assignment, LastRun
from tocsin.domain.run import FollowUp, RunState, Settlement
from tocsin.store.database import Database, Record
from tocsin.store.leases import Incarnation

T = TypeVar("T")

WARY: Final = 20
"""Whole claims after a plain one that was refused."""

OF_ASSIGNMENT: Final = Assignment.__struct_fields__.index("last")
"""Columns of a claimed row that are an assignment; the four of its trigger's last success follow."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A queued run that the claim decided against."""

    run_id: UUID
    trigger: str
    agent: str
    nominal_at: datetime
    reason: str
    rearms: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """passed_over: how many used up quota for nothing, so that what stands behind them was not looked at."""

    assignments: list[Assignment]
    skipped: list[Skipped]
    passed_over: int = 0


@dataclass(slots=True)
class Quota:
    """How many runs of one agent a claim may take from one lane."""

    agent: str
    lane: str
    count: int


class Ended(msgspec.Struct, kw_only=True):
    """One attempt's end, ready to be written. usage: JSON text; log: lines; follow_ups: in order."""

    run_id: UUID
    fence: int
    settlement: Settlement
    usage: str | None = None
    log: str | None = None
    follow_ups: Sequence[FollowUp] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Progress, usage and new lines of an attempt in hand; None leaves what is there.

    log: the text that follows the log's first ``log_from`` characters.
    """

    run_id: UUID
    fence: int
    progress: str | None
    fraction: float | None
    usage: str | None
    log_from: int = 0
    log: str | None = None


class Attempts:
    """The attempts of one incarnation."""

    def __init__(self, *, database: Database, clock: Clock, who: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._who = who
        self._plain = False
        self._wary = 0

    async def claim(self, quotas: Sequence[Quota], *, free: int) -> Claimed:
        """What was ready is ours, with its fence raised; nothing, when our lease has ended.

        Raises: Contended, when another replica took a scope or permit first; DatabaseUnavailable.
        """
        values: dict[str, object] = {
            "now": self._clock.now(),
            "holder": self._who.holder,
            "actor": self._who.actor,
            "free": free,
            "agents": [quota.agent for quota in quotas],
            "lanes": [quota.lane for quota in quotas],
            "quotas": [quota.count for quota in quotas],
        }
        if self._plain:
            assignments, all_plain = _plain(await self._database.fetch("claim_plain", **values))
            if all_plain is not False:
                return Claimed(assignments, [])
            self._wary = WARY
        rows = await self._database.fetch("claim", **values)
        # What stood at the head of the queue tells what the next claim will most likely need. A run that waits for
        # its scope is not among what claim tells of, so it is asked several times before the other is tried again.
        self._wary = max(0, self._wary - 1)
        if rows[0]["all_plain"] is not None:
            self._plain = rows[0]["all_plain"] and not self._wary
        return Claimed(
            [assignment_of(row) for row in rows if row["state"] == "running"],
            [_skipped(row) for row in rows if row["state"] == "skipped"],
            rows[0]["passed_over"],
        )

    async def settle(self, ends: Sequence[Ended]) -> set[UUID]:
        """The ids of the attempts that were still ours and are closed now. Idempotent.

        Raises: StatementRefused, when the database will not store one of them; DatabaseUnavailable.
        """
        ours = await self._settle_plain([end for end in ends if _is_plain(end)])
        others = [end for end in ends if end.run_id not in ours]
        return ours | await self._settle(others) if others else ours

    async def _settle_plain(self, ends: list[Ended]) -> set[UUID]:
        if not ends:
            return set()
        row = await self._database.fetchrow(
            "settle_plain",
            now=self._clock.now(),
            holder=self._who.holder,
            actor=self._who.actor,
            ids=[end.run_id for end in ends],
            fences=[end.fence for end in ends],
            outputs=[_text(end.settlement.output) for end in ends],
        )
        assert row is not None  # an aggregate always has one row
        return {end.run_id for end in ends} if row["ours"] is None else set(row["ours"])

    async def _settle(self, ends: list[Ended]) -> set[UUID]:
        follows = [(end, order, follow) for end in ends for order, follow in enumerate(end.follow_ups)]
        settlements = [end.settlement for end in ends]
        errors = [settlement.error for settlement in settlements]
        rows = await self._database.fetch(
            "settle",
            now=self._clock.now(),
            holder=self._who.holder,
            actor=self._who.actor,
            ids=[end.run_id for end in ends],
            fences=[end.fence for end in ends],
            states=[settlement.state for settlement in settlements],
            reasons=sparse([settlement.reason for settlement in settlements]),
            delays=sparse([settlement.delay or None for settlement in settlements]),
            uncounted=sparse([None if settlement.counted else True for settlement in settlements]),
            outputs=[_text(settlement.output) for settlement in settlements],
            error_kinds=sparse([error and error.kind for error in errors]),
            error_messages=sparse([error and error.message for error in errors]),
            usages=sparse([end.usage for end in ends]),
            logs=sparse([end.log for end in ends]),
            follow_ids=[uuid7() for _ in follows],
            follow_parents=[end.run_id for end, _, _ in follows],
            follow_keys=[f"follow:{end.run_id}:{order}" for end, order, _ in follows],
            follow_ats=[follow.at for _, _, follow in follows],
            follow_afters=[follow.after for _, _, follow in follows],
            follow_inputs=[follow.input for _, _, follow in follows],
        )
        return {row["id"] for row in rows}

    async def report(self, reports: Sequence[Report]) -> dict[UUID, int]:
        """The attempts whose reports were taken, with the characters that are stored of their logs; the others are
        fenced. Idempotent.
        """
        rows = await self._database.fetch(
            "report",
            now=self._clock.now(),
            holder=self._who.holder,
            ids=[report.run_id for report in reports],
            fences=[report.fence for report in reports],
            progress=[report.progress for report in reports],
            fractions=[report.fraction for report in reports],
            usages=[report.usage for report in reports],
            log_froms=[report.log_from for report in reports],
            logs=sparse([report.log for report in reports]),
        )
        return {row["run_id"]: row["stored"] for row in rows}


def sparse(column: list[Any]) -> list[Any]:
    """A column that says nothing is not sent: unnest fills shorter arrays up with NULL."""
    return [] if column.count(None) == len(column) else column


def uniform(column: list[T]) -> tuple[T | None, list[T]]:
    """(the value that all have, no column), or (None, the column): what all say the same is sent once."""
    if column and column.count(column[0]) == len(column):
        return column[0], []
    return None, column


def assignment_of(row: Record) -> Assignment:
    """A claimed row, in its holder's hand. Its first columns are the assignment's fields, in their order."""
    assignment = Assignment(*row[:OF_ASSIGNMENT])
    assignment.last = _last(row)
    return assignment


def _plain(rows: Sequence[Record]) -> tuple[list[Assignment], bool | None]:
    """What was claimed, and whether all that is ready is plain; None, when nothing is."""
    triggers = {row["trigger_id"]: row for row in rows if row["id"] is None}
    told = {trigger_id: (row["trigger"], row["rearms"], _last(row)) for trigger_id, row in triggers.items()}
    assignments = []
    for row in rows:
        if row["id"] is not None:
            assignment = Assignment(*row[:OF_ASSIGNMENT])
            assignment.trigger, assignment.rearms, assignment.last = told[assignment.trigger_id]
            assignments.append(assignment)
    return assignments, next(row["all_plain"] for row in triggers.values())


def _last(row: Record) -> LastRun | None:
    return last_of(*row[OF_ASSIGNMENT : OF_ASSIGNMENT + 4])


def last_of(
    run_id: UUID | None, nominal_at: datetime | None, finished_at: datetime | None, output: str | None
) -> LastRun | None:
    """A trigger's last success, where there is one."""
    if run_id is None or nominal_at is None or finished_at is None or output is None:
        return None
    return LastRun(str(run_id), nominal_at, finished_at, output)


def _skipped(row: Record) -> Skipped:
    return Skipped(row["id"], row["trigger"], row["agent"], row["nominal_at"], row["reason"], row["rearms"])


def _is_plain(end: Ended) -> bool:
    """A success that has nothing to tell but its output."""
    settlement = end.settlement
    return (
        settlement.state is RunState.SUCCEEDED
        and settlement.reason is None
        and end.usage is None
        and end.log is None
        and not end.follow_ups
    )


def _text(output: bytes | None) -> str | None:
    return None if output is None else output.decode()
