"""What the two ends of a connected process have to do with each other: the stream's edge, and the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.run import FollowUp, Outcome, Succeeded
from tocsin.engine.beats import Beats
from tocsin.engine.crowd import Crowd
from tocsin.engine.dbtime import DatabaseTime
from tocsin.engine.exchange import Exchange
from tocsin.engine.executor import Executor
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.engine.run_reports import RunReports
from tocsin.store.attempts import Attempts, Ended
from tocsin.store.database import Database
from tocsin.store.instances import Instances
from tocsin.store.leases import Incarnation
from tocsin.telemetry import Log


class Receiver(Executor, Protocol):
    """The executor of the process: see executors.remote.Remote."""

    credit: int

    def awaits(self, run_id: UUID, fence: int) -> RunReports | None: ...
    def ended(self, run_id: UUID, fence: int, outcome: Outcome) -> bool: ...
    def let_go(self, run_id: UUID, fence: int) -> None: ...
    def detach(self) -> None: ...


class Post(Protocol):
    """What the engine has to tell the process; each call returns at once."""

    def settled(self, run_id: UUID, fence: int, *, fenced: bool) -> None: ...
    def beat_taken(self, seq: int) -> None: ...
    def fenced(self, run_id: UUID, fence: int) -> None: ...
    def probe(self) -> None: ...
    def lost(self) -> None: ...
    def revoked(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a run elsewhere has to tell; None leaves what is there. usage: JSON, the sums; log: see Report."""

    progress: str | None
    fraction: float | None
    usage: str | None
    log_from: int
    log: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended elsewhere. usage: JSON, the sums; log: lines."""

    run_id: UUID
    fence: int
    outcome: Outcome
    usage: str | None
    log: str | None
    follow_ups: tuple[FollowUp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What all connections of a replica share."""

    database: Database
    clock: Clock
    time: DatabaseTime
    log: Log
    batch: int
    instances: Instances
    exchange: Exchange
    crowd: Crowd
    beats: Beats
    observer: Observer = UNOBSERVED


REMEMBERED: Final = 100
"""Results of a process that are known if they are said once more."""


class Told(Attempts):
    """The attempts of a process elsewhere, which is told what became of what it said.

    given_back: what is settled without a word of its own.
    """

    def __init__(self, who: Incarnation, house: House, post: Post) -> None:
        super().__init__(database=house.database, clock=house.clock, who=who)
        self._post = post
        self.given_back: set[tuple[UUID, int]] = set()
        self._said: dict[tuple[UUID, int], Outcome] = {}
        self._taken: dict[tuple[UUID, int], bytes] = {}

    def heard(self, result: Result) -> None:
        """It is about to be settled."""
        self._said[result.run_id, result.fence] = result.outcome

    def has_taken(self, result: Result) -> bool:
        """Whether this very result has been settled not long ago."""
        return self._taken.get((result.run_id, result.fence)) == _mark(result.outcome)

    def _remember(self, held: tuple[UUID, int], outcome: Outcome) -> None:
        self._taken[held] = _mark(outcome)
        if len(self._taken) > REMEMBERED:
            del self._taken[next(iter(self._taken))]

    async def settle(self, ends: Sequence[Ended]) -> set[UUID]:
        ours = await super().settle(ends)
        for end in ends:
            held = (end.run_id, end.fence)
            said = self._said.pop(held, None)
            if held in self.given_back:
                # That it does not have the run any more it is told otherwise, if at all.
                self.given_back.discard(held)
                continue
            self._post.settled(*held, fenced=end.run_id not in ours)
            if said is not None and end.run_id in ours:
                self._remember(held, said)
        return ours


def _mark(outcome: Outcome) -> bytes:
    """By what an outcome is known again, however large it is."""
    return sha256(outcome.output if isinstance(outcome, Succeeded) else repr(outcome).encode()).digest()
