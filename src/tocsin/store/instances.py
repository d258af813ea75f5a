"""Agent processes elsewhere: let in, heard, adopted, and seen to leave. One lease each, renewed by beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from tocsin.clock import Clock
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import Assignment
from tocsin.domain.errors import Conflict, LeaseLost, Refused
from tocsin.domain.instance import Patience
from tocsin.domain.run import StopReason
from tocsin.store.attempts import assignment_of
from tocsin.store.database import Database, Record
from tocsin.store.leases import Incarnation
from tocsin.store.trigger_rows import read_agent

Held = tuple[UUID, int]
"""(run, fence)."""

Stray = tuple[UUID, int, str]
"""(run, fence, agent) that is a process's, and that it does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """How a process presents itself. last_stream: the number of its latest stream that it knows of."""

    id: UUID
    name: str
    version: str
    agents: Sequence[str]
    labels: Mapping[str, str]
    slots: int
    key: str | None
    last_stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A beat to be written. held: what it names; known: what its hub has given it besides; culprit: where its event
    loop stands still, if it does.
    """

    holder: UUID
    stream: int
    dead_after: timedelta
    held: Sequence[Held]
    known: Sequence[Held] = ()
    culprit: str | None = None


@dataclass(slots=True)
class Answer:
    """What a beat brought. renewed: the lease runs on; stops: runs that are to end, and why."""

    renewed: bool = False
    stops: dict[Held, StopReason] = field(default_factory=dict)
    strays: list[Stray] = field(default_factory=list)


class Instances:
    """What one replica writes of the processes that are connected to it."""

    def __init__(self, *, database: Database, clock: Clock, replica: Incarnation) -> None:
        self._database = database
        self._clock = clock
        self._replica = replica

    async def policies(self, names: Sequence[str]) -> dict[str, AgentSpec]:
        """The declared agents among these. Raises: BadInput, for one that cannot be read."""
        rows = await self._database.fetch("agent_policies", names=list(names))
        return {row["name"]: read_agent(row["spec"]) for row in rows}

    async def connect(self, who: Introduction, patience: Patience) -> int:
        """The process is this replica's from now on; the number of its stream.

        Raises: Conflict, while another stream of it is alive; LeaseLost, when it was declared dead or has left;
        Refused, when it was let in by another key.
        """
        values = {
            "now": self._clock.now(),
            "id": who.id,
            "name": who.name,
            "version": who.version,
            "agents": list(who.agents),
            "labels": msgspec.json.encode(dict(who.labels)).decode(),
            "slots": who.slots,
            "suspect_after": patience.suspect_after,
            "dead_after": patience.dead_after,
        }
        async with self._database.transaction() as session:
            await session.fetch("list_instance", **values, key=who.key)
            row = await session.fetchrow("lock_instance", now=self._clock.now(), id=who.id)
            if row is None:
                raise LeaseLost(f"instance {who.id} was lost long ago, and is forgotten: begin anew under another id")
            _check(who, row, silence=patience.beat_every * 3)
            row = await session.fetchrow("connect_instance", **values, replica=self._replica.holder)
            if row is None:
                raise LeaseLost(f"instance {who.id} was declared lost: begin anew under another id")
        return int(row["stream"])

    async def adopt(self, holder: UUID, held: Sequence[Held], agents: Sequence[str]) -> list[Assignment]:
        """Of these runs, those that are still the process's own, as they were handed out."""
        if not held:
            return []
        ids, fences = [run_id for run_id, _ in held], [fence for _, fence in held]
        rows = await self._database.fetch("adopt", holder=holder, ids=ids, fences=fences, agents=list(agents))
        return [assignment_of(row) for row in rows]

    async def taken_results(self, holder: UUID, held: Sequence[Held]) -> set[Held]:
        """Of these runs, which are not the process's own any more, those that have ended as it said."""
        if not held:
            return set()
        ids, fences = [run_id for run_id, _ in held], [fence for _, fence in held]
        rows = await self._database.fetch("taken_results", holder=holder, ids=ids, fences=fences)
        return {(row["run_id"], row["fence"]) for row in rows}

    async def strays(self, holder: UUID, held: Sequence[Held]) -> list[Stray]:
        """The process's runs that it does not name as it comes again."""
        ids, fences = [run_id for run_id, _ in held], [fence for _, fence in held]
        rows = await self._database.fetch("strays", holder=holder, ids=ids, fences=fences)
        return [(row["id"], row["fence"], row["agent"]) for row in rows]

    async def beat(self, beats: Sequence[Heard], keys: Sequence[str] = ()) -> tuple[dict[UUID, Answer], set[str]]:
        """The leases of all these processes run on, in one statement; their answers, and which keys are revoked."""
        held = [(beat.holder, *run, True) for beat in beats for run in beat.held]
        held += [(beat.holder, *run, False) for beat in beats for run in beat.known]
        rows = await self._database.fetch(
            "beat",
            now=self._clock.now(),
            holders=[beat.holder for beat in beats],
            streams=[beat.stream for beat in beats],
            dead_afters=[beat.dead_after for beat in beats],
            culprits=[beat.culprit for beat in beats],
            held_by=[holder for holder, _, _, _ in held],
            ids=[run_id for _, run_id, _, _ in held],
            fences=[fence for _, _, fence, _ in held],
            named=[named for _, _, _, named in held],
            keys=list(keys),
        )
        answers = {beat.holder: Answer() for beat in beats}
        revoked: set[str] = set()
        for row in rows:
            match row["what"]:
                case "renewed":
                    answers[row["holder"]].renewed = True
                case "stray":
                    answers[row["holder"]].strays.append((row["id"], row["fence"], row["name"]))
                case "revoked":
                    revoked.add(row["name"])
                case why:
                    answers[row["holder"]].stops[row["id"], row["fence"]] = StopReason(why)
        return answers, revoked

    async def disconnect(self, holder: UUID, stream: int) -> None:
        await self._database.fetchrow("disconnect_instance", now=self._clock.now(), id=holder, stream=stream)

    async def drain(self, holder: UUID, stream: int) -> None:
        await self._database.fetchrow("drain_instance", id=holder, stream=stream)

    async def leave(self, holder: UUID) -> None:
        """The process has left for good; what it still holds is swept."""
        await self._database.fetchrow("release_lease", now=self._clock.now(), holder=holder)


class InstanceRows:
    """What edges ask for: processes as they stand."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def page(
        self,
        *,
        limit: int,
        everything: bool = False,
        name: str | None = None,
        before: tuple[datetime, UUID] | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first. before: (started_at, id) of the last one in hand."""
        rows = await self._database.fetch(
            "list_instances",
            now=self._clock.now(),
            limit=limit,
            all=everything,
            name=name,
            before_at=before[0] if before else None,
            before_id=before[1] if before else None,
        )
        return [dict(row) for row in rows]


def _check(who: Introduction, row: Record, *, silence: timedelta) -> None:
    ended_at: datetime | None = row["ended_at"]
    if ended_at is not None:
        raise LeaseLost(f"instance {who.id} was declared lost, or had left: begin anew under another id")
    if row["key"] != who.key:
        raise Refused(f"instance {who.id} was let in by another key")
    if row["replica"] is not None and row["silent"] < silence and who.last_stream != row["stream"]:
        raise Conflict(f"instance {who.id} is connected: a process makes an id of its own when it starts")
