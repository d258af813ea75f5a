"""What answers hold, for the API's description: the same fields that the command line's ``--json`` has."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from tocsin.edges.http.forms import EventForm, HookForm


def example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Page(BaseModel):
    next_cursor: str | None = Field(description="Where the next page begins; null when there is none.")


class ProblemForm(BaseModel):
    """A refusal. ``code`` is stable, ``detail`` is for a person."""

    model_config = example(
        type="urn:tocsin:problem:invalid_schedule",
        title="Unprocessable Content",
        status=422,
        code="invalid_schedule",
        detail="minute '61': must be 0 to 59",
        field="minute",
    )
    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = Field(default=None, description="What is at fault, where it can be named.")
    errors: list[dict[str, str]] | None = Field(default=None, description="Every fault, as field and detail.")
    about: dict[str, Any] | None = Field(
        default=None, description="What it names: kind and name of what is not there, the version that there is."
    )


class Trigger(BaseModel):
    """A trigger as it stands."""

    id: UUID
    name: str
    agent: str
    schedule: dict[str, Any] | None
    schedule_text: str | None = Field(description="The schedule in words.")
    event: EventForm | None = Field(description="Which events call it.")
    event_text: str | None = Field(description="The same in words.")
    hook: HookForm | None = Field(description="Who calls it at /hooks/NAME.")
    hook_text: str | None = Field(description="The same in words.")
    status: str = Field(description="armed, paused, waiting, ended, manual, listening or broken.")
    paused: list[str] = Field(description="The reasons for which it rests.")
    paused_at: datetime | None
    paused_until: dict[str, datetime] = Field(description="When which of the reasons ends by itself.")
    broken_reason: str | None
    next_at: datetime | None
    version: int = Field(description="Also the ETag.")
    source: str
    created_at: datetime
    changed_at: datetime


class TriggerDetail(Trigger):
    policy: dict[str, Any] = Field(description="Lengths in seconds.")
    input: Any = None
    wake_at: datetime | None


class TriggerPage(Page):
    items: list[Trigger]


class Deleted(BaseModel):
    trigger: str
    deleted: bool
    withdrawn: int = Field(description="Queued runs that were withdrawn.")


class Run(BaseModel):
    id: UUID
    trigger: str
    agent: str
    kind: str = Field(description="schedule, manual, backfill, follow_up or event.")
    state: str = Field(description="queued, running, succeeded, failed, cancelled or skipped.")
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
    input: Any = None
    output: Any = None


class FiredRun(Run):
    created: bool = Field(description="False: the key was seen before, and this is the run that it gave.")


class Transition(BaseModel):
    seq: int
    from_state: str | None
    to_state: str
    attempt: int
    fence: int
    actor: str
    reason: str | None
    at: datetime


class StreamedTransition(Transition):
    """What an event of the stream holds. trigger, agent, kind: null where somebody has deleted the run."""

    model_config = example(
        run_id="0199f0c2-7c1e-7000-8000-4d1b2f3a5c6e",
        trigger="daily-digest",
        agent="digest",
        kind="schedule",
        seq=3,
        from_state="running",
        to_state="succeeded",
        attempt=1,
        fence=1,
        actor="replica:6f1c2b1e-3f0a-4a55-9d0b-0f6f4a4f6a11",
        reason=None,
        at="2027-01-04T08:00:01.250000Z",
    )
    run_id: UUID
    trigger: str | None
    agent: str | None
    kind: str | None


class Attempt(BaseModel):
    """What an attempt had to tell."""

    fence: int
    attempt: int
    error_kind: str | None
    error_message: str | None
    progress: str | None
    fraction: float | None
    progress_at: datetime | None
    usage: list[dict[str, Any]] | None
    log: str | None


class LateResult(BaseModel):
    """A result that came after the fence had risen; never applied."""

    fence: int
    holder: UUID
    state: str
    output: Any = None
    error: str | None
    received_at: datetime


class RunDetail(Run):
    transitions: list[Transition]
    attempts: list[Attempt]
    late_results: list[LateResult]


class RunPage(Page):
    items: list[Run]


class Backfilled(BaseModel):
    trigger: str
    id: UUID | None = Field(description="Null for a dry run, and where there is nothing to run.")
    count: int
    since: datetime
    until: datetime
    dry_run: bool


class BackfillCancelled(BaseModel):
    trigger: str
    id: UUID
    cancelled: int


class NextInstant(BaseModel):
    at: datetime
    effective_at: datetime = Field(description="With the trigger's share of its jitter.")
    local: str = Field(description="On the wall's clock of tz.")
    tz: str
    notes: list[str] = Field(description="What daylight saving has to do with it.")


class Previewed(BaseModel):
    trigger: str | None
    after: datetime
    instants: list[NextInstant]


class Decision(BaseModel):
    at: datetime
    until: datetime
    kind: str
    decision: str
    reason: str
    count: int
    run_id: UUID | None
    decided_at: datetime
    actor: str


class Deed(BaseModel):
    """What somebody did."""

    id: int
    at: datetime
    actor: str = Field(description="key:NAME, cli:USER@HOST, hub:HOST:PID, replica:ID, or http:ADDRESS without a key.")
    action: str = Field(
        description="created, changed, paused, resumed, pause_ended, deleted, pruned, revoked or cancelled."
    )
    kind: str = Field(description="To what: trigger, agent, key, run or backfill.")
    target: str = Field(description="Its name; of a run or a backfill its trigger's.")
    target_id: UUID | None = Field(description="The id of a trigger, run or backfill.")
    detail: dict[str, Any] = Field(
        description="What else there is to say, as before and after of a change. That an input changed is told, the "
        "input is not."
    )


class DeedPage(Page):
    items: list[Deed]


class Why(BaseModel):
    trigger: str
    since: datetime
    until: datetime
    standing: list[str] = Field(description="How it stands, in sentences.")
    decisions: list[Decision]
    changes: list[Deed] = Field(description="What was done to it, and the pauses that stood as the range began.")


class Skipped(BaseModel):
    """Occurrences that became no run; one row for each gap and reason. key: of this row among those of one instant."""

    key: str
    trigger: str
    at: datetime
    until: datetime
    reason: str
    count: int
    run_id: UUID | None
    decided_at: datetime
    actor: str


class SkippedPage(Page):
    items: list[Skipped]


class Fires(BaseModel):
    at: datetime
    fires: int


class Crowd(Fires):
    triggers: list[str]


class Forecast(BaseModel):
    """The load ahead."""

    since: datetime
    until: datetime
    triggers: int
    fires: int
    minutes: list[Fires] = Field(description="Minutes that have any.")
    hours: list[Fires]
    busiest: list[Fires]
    collision_instants: int
    collisions: list[Crowd]
    herds: list[Crowd]
    cut: list[str] = Field(description="Triggers that fire too often to be followed to the end.")


class Now(BaseModel):
    now: datetime


class UsageSum(BaseModel):
    agent: str | None = None
    trigger: str | None = None
    model: str | None = None
    day: str | None = None
    runs: int
    attempts: int
    sums: dict[str, float] = Field(description="Every number that was reported, added up.")


class Usage(BaseModel):
    model_config = example(
        since="2026-03-01T00:00:00Z",
        until="2026-03-02T00:00:00Z",
        by=["agent"],
        items=[{"agent": "digest", "runs": 2, "attempts": 3, "sums": {"input_tokens": 1200, "cost_usd": 0.04}}],
    )
    since: datetime
    until: datetime
    by: list[str]
    items: list[UsageSum]
