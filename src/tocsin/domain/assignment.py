"""A claimed run in its holder's hand."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec


class LastRun(msgspec.Struct, frozen=True):
    """The last success of the run's trigger. raw: its output as JSON text."""

    id: str
    nominal_at: datetime
    finished_at: datetime
    raw: str

    @property
    def output(self) -> Any:
        return msgspec.json.decode(self.raw)


class Assignment(msgspec.Struct):
    """What a claim hands over.

    input: JSON text. available_at: since when it could have been begun; None where a hub has not handed that on.
    occurrence_key: what the run is known by unless its schedule called it. scoped: whether its end frees something
    that another run waits for. rearms: whether its trigger counts from its end. due_by: the instant, on the database's
    clock, at which this attempt is stopped; None without a limit. key: the idempotency key, where a hub has handed it
    on ready made. traceparent: of the attempt, where runs are traced.
    """

    run_id: UUID
    trigger_id: UUID
    trigger: str
    agent: str
    kind: str
    lane: str
    fence: int
    attempt: int
    max_attempts: int
    nominal_at: datetime
    effective_at: datetime
    available_at: datetime | None
    started_at: datetime
    deadline_at: datetime | None
    input: str
    occurrence_key: str | None
    scoped: bool = False
    rearms: bool = False
    last: LastRun | None = None
    due_by: datetime | None = None
    resumed: bool = False
    key: str = ""
    traceparent: str | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, and for the same occurrence planned again after a restore."""
        return self.key or str(uuid5(self.trigger_id, self.occurrence_key or self.nominal_at.isoformat()))
