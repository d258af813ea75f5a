"""What requests say: their bodies and their queries, as the API's description shows them."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tocsin.domain.agent import MAX_NAME
from tocsin.domain.errors import BadInput, InvalidSchedule
from tocsin.domain.schedule import Schedule
from tocsin.domain.schedule_json import instant
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec, called_by, default_overlap
from tocsin.edges.http.forms import (
    EXAMPLE_EVENT,
    EXAMPLE_HOOK,
    EXAMPLE_SCHEDULE,
    EventForm,
    HookForm,
    ScheduleForm,
    read_event,
    read_hook,
)
from tocsin.edges.http.problems import Problem
from tocsin.options import TRIGGER_OPTIONS, read_options

MOST_ROWS: Final = 1_000
LARGEST_NUMBER: Final = 2**63 - 1
"""That a record may have."""


def _instant(value: object) -> object:
    """An instant with an offset, as text; a query may have no other."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        return instant("instant", value)
    except InvalidSchedule as fault:
        raise ValueError(fault.reason) from None


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-03-29T01:00:00Z"]}),
]
Count = Annotated[int, Field(strict=True)]
Length = Annotated[
    str | float,
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
            "description": "Seconds, or text such as 90s, 5m, 1h30m.",
            "examples": ["5m"],
        }
    ),
]
Name = Annotated[str, Path(description="The trigger's name.", examples=["daily-digest"])]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Rows at most.")]
After = Annotated[str | None, Query(max_length=MAX_NAME, description="Only names that come after this one.")]
Cursor = Annotated[str | None, Query(max_length=500, description="The next_cursor of the page before.")]
Before = Annotated[int | None, Query(ge=0, le=LARGEST_NUMBER, description="Only what came before this record.")]
Since = Annotated[Instant | None, Query(description="From this instant on.")]
Until = Annotated[Instant | None, Query(description="Up to this instant.")]
OfTrigger = Annotated[str | None, Query(max_length=MAX_NAME, description="Only of this trigger.")]
OfAgent = Annotated[str | None, Query(max_length=MAX_NAME, description="Only of this agent.")]


class Body(BaseModel):
    """A body in which a name that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Policy(Body):
    """What happens when an occurrence cannot run at once. What is left out stays as it is, or has its default."""

    overlap: Overlap | None = None
    overlap_scope: str | None = Field(default=None, description="trigger, agent, or input.PATH.", examples=["trigger"])
    catch_up: CatchUp | None = None
    catch_up_window: Length | None = None
    max_catch_up: Count | None = Field(default=None, ge=1, le=1_000)
    grace: Length | None = None
    expires_after: Length | None = None
    priority: Count | None = Field(default=None, ge=0, le=9, description="9 first.")

    def fields(self) -> dict[str, Any]:
        """What was said, as a trigger's fields. Raises: Problem."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        fields, faults = read_options(TRIGGER_OPTIONS, given)
        if faults:
            errors = [(f"policy.{name}", text) for name, text in faults]
            field, detail = errors[0]
            raise Problem(422, BadInput.code, f"{field}: {detail}", field=field, errors=errors)
        return fields


class NewTrigger(Body):
    """Without a schedule, an event rule and a hook it is fired by hand."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "daily-digest",
                    "agent": "digest",
                    "schedule": EXAMPLE_SCHEDULE,
                    "input": {"repo": "."},
                    "policy": {"overlap": "skip", "expires_after": "2h"},
                },
                {"name": "review-pull", "agent": "review", "event": EXAMPLE_EVENT, "policy": {"priority": 7}},
                {"name": "on-push", "agent": "build", "hook": EXAMPLE_HOOK, "event": {"type": "push"}},
            ]
        }
    )
    name: str = Field(max_length=MAX_NAME)
    agent: str = Field(max_length=MAX_NAME)
    schedule: ScheduleForm | None = Field(default=None, description="When it is called.")
    event: EventForm | None = Field(default=None, description="Which events call it, instead of a schedule.")
    hook: HookForm | None = Field(
        default=None, description="Who calls it at /hooks/NAME. The event rule says which of these calls it hears."
    )
    input: Any = Field(default=None, description="JSON that each run is given. An event brings its own.")
    policy: Policy | None = Field(
        default=None, description="What is left out has its default; overlap is queue_all where events call, else skip."
    )

    def spec(self) -> TriggerSpec:
        """Raises: BadInput, Problem."""
        schedule = None if self.schedule is None else Schedule.from_json(self.schedule)
        event = None if self.event is None else read_event(self.event)
        hook = None if self.hook is None else read_hook(self.hook)
        fields = self.policy.fields() if self.policy is not None else {}
        fields = {"overlap": default_overlap(event, hook)} | fields
        return TriggerSpec(
            name=self.name, agent=self.agent, schedule=schedule, event=event, hook=hook, input=self.input, **fields
        )


class TriggerChange(Body):
    """What is named is changed, the rest stays as it is.

    A schedule takes the place of an event rule and a hook, and either of these that of a schedule and of the input.
    ``null`` takes each away; without its hook a trigger hears nothing more, unless an event rule comes with that.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"schedule": {"rules": [{"every_seconds": 300}]}}, {"event": EXAMPLE_EVENT}]}
    )
    agent: str | None = Field(default=None, max_length=MAX_NAME)
    schedule: ScheduleForm | None = None
    event: EventForm | None = None
    hook: HookForm | None = None
    input: Any = None
    policy: Policy | None = None

    def changes(self) -> dict[str, Any]:
        """Fields of the trigger. Raises: BadInput, Problem."""
        changes: dict[str, Any] = {}
        if self.agent is not None:
            changes["agent"] = self.agent
        if "schedule" in self.model_fields_set:
            changes["schedule"] = None if self.schedule is None else Schedule.from_json(self.schedule)
        if "event" in self.model_fields_set:
            changes["event"] = None if self.event is None else read_event(self.event)
        if "hook" in self.model_fields_set:
            changes["hook"] = None if self.hook is None else read_hook(self.hook)
        if "input" in self.model_fields_set:
            changes["input"] = self.input
        if self.policy is not None:
            changes |= self.policy.fields()
        if not changes:
            raise BadInput("nothing to change: name agent, schedule, event, hook, input or policy")
        return called_by(changes)


class Pause(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "maintenance", "until": "2027-01-04T06:00:00Z"}]}
    )
    reason: str = Field(default="user", min_length=1, max_length=200, description="Each reason is cleared by itself.")
    until: Instant | None = Field(default=None, description="When the reason ends by itself.")


class Resume(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"catch_up": "latest"}]})
    reason: str | None = Field(
        default=None, max_length=200, description="Clear only this one; all of them when left out."
    )
    catch_up: Literal["skip", "latest"] | None = Field(
        default=None, description="latest: also run the last occurrence of the pause."
    )


class Fire(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": {"repo": "."}}]})
    input: Any = Field(default=None, description="JSON for this run; the trigger's own when left out or null.")


class Backfill(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"since": "2026-03-01T00:00:00Z", "until": "2026-03-02T00:00:00Z"}]}
    )
    since: Instant
    until: Instant | None = Field(default=None, description="Now, when left out.")
    dry_run: Annotated[bool, Field(strict=True)] = Field(default=False, description="Only count.")


class PreviewOf(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"schedule": EXAMPLE_SCHEDULE, "count": 5}]})
    schedule: ScheduleForm
    count: Count = Field(default=5, ge=1, le=1_000)
    after: Instant | None = Field(default=None, description="Now, when left out.")


class NewKey(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "scopes": ["operate"]}]})
    name: str = Field(max_length=MAX_NAME)
    scopes: list[Literal["read", "operate", "admin", "emit", "agent"]] = Field(default_factory=list, max_length=5)
    agents: list[str] = Field(
        default_factory=list, max_length=100, description="With scope agent: those it may serve, or * for all."
    )
    expires_at: Instant | None = None
