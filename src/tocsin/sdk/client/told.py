"""What answers hold. The rows have the fields that ``Control`` and the command line's ``--json`` have.

A field that a hub tells besides is passed over, so that a newer hub can be asked. A field of a later release than the
first is ``NotRequired``, so that an older one can be.
"""

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID


class Trigger(TypedDict):
    """schedule, event, hook: in the form in which they are written. paused_until: when which of the reasons ends."""

    id: UUID
    name: str
    agent: str
    schedule: dict[str, Any] | None
    schedule_text: str | None
    event: dict[str, Any] | None
    event_text: str | None
    hook: dict[str, Any] | None
    hook_text: str | None
    status: str
    paused: list[str]
    paused_at: datetime | None
    paused_until: dict[str, datetime]
    broken_reason: str | None
    next_at: datetime | None
    version: int
    source: str
    created_at: datetime
    changed_at: datetime


class TriggerDetail(Trigger):
    """policy: lengths in seconds."""

    policy: dict[str, Any]
    input: Any
    wake_at: datetime | None


class Deleted(TypedDict):
    """withdrawn: queued runs."""

    trigger: str
    deleted: bool
    withdrawn: int


class Run(TypedDict):
    """state: queued, running, succeeded, failed, cancelled or skipped. fraction: 0 to 1."""

    id: UUID
    trigger: str
    agent: str
    kind: str
    state: str
    reason: str | None
    attempt: int
    max_attempts: int
    fence: int
    lane: str
    priority: int
    nominal_at: datetime
    effective_at: datetime
    available_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    holder: UUID | None
    cancel_requested_at: datetime | None
    progress: str | None
    fraction: float | None
    error: str | None
    input: Any
    output: Any


class FiredRun(Run):
    """created: False, where the key was seen before and this is the run that it gave."""

    created: bool


class Transition(TypedDict):
    seq: int
    from_state: str | None
    to_state: str
    attempt: int
    fence: int
    actor: str
    reason: str | None
    at: datetime


class Attempt(TypedDict):
    """What an attempt has told."""

    fence: int
    attempt: int
    error_kind: str | None
    error_message: str | None
    progress: str | None
    fraction: float | None
    progress_at: datetime | None
    usage: list[dict[str, Any]] | None
    log: str | None


class LateResult(TypedDict):
    """A result that came after the fence had risen; never applied."""

    fence: int
    holder: UUID
    state: str
    output: Any
    error: str | None
    received_at: datetime


class RunDetail(Run):
    transitions: list[Transition]
    attempts: list[Attempt]
    late_results: list[LateResult]


class Backfilled(TypedDict):
    """id: None for a dry run, and where there is nothing to run."""

    trigger: str
    id: UUID | None
    count: int
    since: datetime
    until: datetime
    dry_run: bool


class BackfillCancelled(TypedDict):
    trigger: str
    id: UUID
    cancelled: int


class NextInstant(TypedDict):
    """effective_at: with the trigger's share of its jitter; local: on the wall's clock of tz."""

    at: datetime
    effective_at: datetime
    local: str
    tz: str
    notes: list[str]


class Previewed(TypedDict):
    trigger: str | None
    after: datetime
    instants: list[NextInstant]


class Decision(TypedDict):
    at: datetime
    until: datetime
    kind: str
    decision: str
    reason: str
    count: int
    run_id: UUID | None
    decided_at: datetime
    actor: str


class Told(TypedDict):
    """What became of an event. accepted: it was not known; runs: what it called, and triggers: whose they are."""

    source: str
    id: str
    accepted: bool
    runs: list[UUID]
    triggers: list[str]


class AllTold(TypedDict):
    items: list[Told]


class EventCall(TypedDict):
    """What an event came to at one trigger. reason: why there is no run."""

    trigger: str
    run_id: UUID | None
    state: str | None
    reason: str | None


class EventRow(TypedDict):
    """fault: why it could not be read. depth: runs before it in its chain. size: bytes of a webhook's call."""

    number: int
    source: str
    id: str
    type: str
    subject: str | None
    time: datetime | None
    received_at: datetime
    matched_at: datetime | None
    fault: str | None
    depth: int
    size: int | None
    calls: list[EventCall]


class Uncalled(TypedDict):
    trigger: str
    because: str


class EventDetail(EventRow):
    """media, body: of a webhook's call; body_base64 where it is no text. uncalled: who listens and was not called."""

    extensions: dict[str, Any]
    data: Any
    media: str | None
    body: str | None
    body_base64: str | None
    uncalled: list[Uncalled]


class Deed(TypedDict):
    """What somebody did. target: of a run or a backfill its trigger; detail: such as before and after of a change."""

    id: int
    at: datetime
    actor: str
    action: str
    kind: str
    target: str
    target_id: UUID | None
    detail: dict[str, Any]


class Why(TypedDict):
    """standing: how it stands, in sentences. changes: what was done to it, and the pauses that stood at first."""

    trigger: str
    since: datetime
    until: datetime
    standing: list[str]
    decisions: list[Decision]
    changes: list[Deed]


class Skipped(TypedDict):
    """Occurrences that became no run; one row for each gap and reason."""

    key: str
    trigger: str
    at: datetime
    until: datetime
    reason: str
    count: int
    run_id: UUID | None
    decided_at: datetime
    actor: str


class Fires(TypedDict):
    at: datetime
    fires: int


class Crowd(Fires):
    triggers: list[str]


class Forecast(TypedDict):
    """minutes: those that have any; cut: triggers that fire too often to be followed to the end."""

    since: datetime
    until: datetime
    triggers: int
    fires: int
    minutes: list[Fires]
    hours: list[Fires]
    busiest: list[Fires]
    collision_instants: int
    collisions: list[Crowd]
    herds: list[Crowd]
    cut: list[str]


class Usage(TypedDict):
    """items: the dimensions of ``by``, ``runs``, ``attempts``, and ``sums`` of every number that was reported."""

    since: datetime
    until: datetime
    by: list[str]
    items: list[dict[str, Any]]


class Agent(TypedDict):
    """spec: its policy, lengths in seconds; replicas, instances: who serves it."""

    name: str
    spec: dict[str, Any]
    concurrency: int | None
    source: str
    declared_at: datetime
    queued: int
    queued_live: int
    queued_late: int
    running: int
    triggers: int
    replicas: list[str]
    instances: list[str]


class RunInHand(TypedDict):
    id: UUID
    agent: str
    fence: int
    since: datetime


class Instance(TypedDict):
    """A process that runs agents elsewhere. why: it is suspected, where it is."""

    id: UUID
    name: str
    version: str
    agents: list[str]
    slots: int
    key: str | None
    replica: str | None
    started_at: datetime
    connected_at: datetime | None
    disconnected_at: datetime | None
    heard_at: datetime
    stalled_at: datetime | None
    culprit: str | None
    ended_at: datetime | None
    state: str
    why: str | None
    labels: dict[str, str]
    running: list[RunInHand]


class Replica(TypedDict):
    """state: alive, draining, silent, released or lost."""

    id: UUID
    name: str
    version: str
    agents: list[str]
    slots: int
    started_at: datetime
    draining: bool
    expires_at: datetime
    renewed_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    locked: bool
    running: int
    state: str


class Key(TypedDict):
    """state: valid, expired or revoked; last_used_at: to the minute."""

    name: str
    scopes: list[str]
    agents: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    state: str


class CreatedKey(Key):
    """key: the key itself, which is told once."""

    key: str


class Revoked(TypedDict):
    key: str
    revoked: bool
