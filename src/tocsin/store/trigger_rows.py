"""Trigger rows as values: text until it is read, and what an author declared once it is.

A row that cannot be read is an error to its reader, never one that takes its neighbours along.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final
from uuid import UUID

import msgspec

from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.errors import BadInput
from tocsin.domain.event_rule import EventRule
from tocsin.domain.hook import Hook
from tocsin.domain.planning import Plan
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import CatchUp, Overlap, TriggerSpec
from tocsin.store.database import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRow:
    """One trigger as it stands. schedule, policy and input: JSON text; ``now`` is the database's instant.

    paused_until: for each reason in ``paused`` when it ends by itself, or None; () where none does.
    """

    id: UUID
    name: str
    agent: str
    schedule: str | None
    policy: str
    input: str
    source: str
    version: int
    status: str
    broken_reason: str | None
    paused: tuple[str, ...]
    paused_at: datetime | None
    paused_until: tuple[datetime | None, ...]
    next_at: datetime | None
    wake_at: datetime | None
    gap_reason: str | None
    gap_from: datetime | None
    created_at: datetime
    changed_at: datetime
    now: datetime

    @property
    def pauses(self) -> dict[str, datetime | None]:
        """The reasons for which it rests, with the end of each that has one."""
        return dict(zip_longest(self.paused, self.paused_until))

    def spec(self) -> TriggerSpec:
        """The declaration behind the row.

        Raises: BadInput, when the row was written behind our back and cannot be read.
        """
        parsed = read_spec(self.agent, self.schedule, self.policy)
        return dataclasses.replace(parsed, name=self.name, input=msgspec.json.decode(self.input))


class DueTrigger(msgspec.Struct, frozen=True):
    """A locked row as the planner needs it; ``schedule`` and ``policy`` are JSON text.

    resumes_at: when the first of its pauses that have an end is over.
    """

    id: UUID
    name: str
    agent: str
    schedule: str | None
    policy: str
    next_at: datetime
    wake_at: datetime
    paused: bool
    gap_reason: str | None
    gap_from: datetime | None
    resumes_at: datetime | None = None


OF_DUE: Final = len(DueTrigger.__struct_fields__)


class Decision(msgspec.Struct, frozen=True):
    """What the planner decided for one locked trigger; broken_reason quarantines it.

    begins: a slot was kept here, so the run may be begun as it is inserted.
    """

    trigger: DueTrigger
    spec: TriggerSpec | None
    plan: Plan | None
    run_ids: Sequence[UUID] = ()
    broken_reason: str | None = None
    begins: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrigger:
    """A trigger to insert or change, with its first cursor."""

    id: UUID
    spec: TriggerSpec
    status: str
    next_at: datetime | None
    wake_at: datetime | None


def wake_of(status: str, due_at: datetime | None, pauses: Mapping[str, datetime | None]) -> datetime | None:
    """When somebody is to look at a trigger: as it is due, or sooner, when the first of its pauses is over.

    One that listens is never due, and one that is neither armed nor listens has nothing to go on with.
    """
    ends = [end for end in pauses.values() if end is not None]
    match status:
        case "armed":
            return min([due_at, *ends]) if due_at is not None else None
        case "listening":
            return min(ends, default=None)
        case _:
            return None


def write_policy(spec: TriggerSpec) -> str:
    """The trigger's policy as canonical JSON text, its event rule and its hook included."""
    event = {} if spec.event is None else {"event": _event_form(spec.event, is_hooked=spec.hook is not None)}
    hook = {} if spec.hook is None else {"hook": spec.hook.to_json()}
    return msgspec.json.encode(
        event
        | hook
        | {
            "overlap": spec.overlap.value,
            "overlap_scope": spec.overlap_scope,
            "catch_up": spec.catch_up.value,
            "catch_up_window": _seconds(spec.catch_up_window),
            "max_catch_up": spec.max_catch_up,
            "grace": spec.grace.total_seconds(),
            "expires_after": _seconds(spec.expires_after),
            "priority": spec.priority,
        }
    ).decode()


def write_schedule(schedule: Schedule | None) -> str | None:
    return None if schedule is None else msgspec.json.encode(schedule.to_json()).decode()


_LENGTHS: Final = (
    "timeout", "deadline", "backoff_base", "backoff_cap", "suspect_after", "dead_after", "stall_after",
)  # fmt: skip


def write_agent(spec: AgentSpec) -> str:
    fields = asdict(spec) | {name: _seconds(getattr(spec, name)) for name in _LENGTHS}
    fields["cancel_within"] = f"{spec.cancel_within.total_seconds()} seconds"
    return msgspec.json.encode(fields).decode()


def read_agent(text: str) -> AgentSpec:
    """The policy that a row holds.

    Raises: BadInput, when it was written behind our back and cannot be read.
    """
    try:
        fields = msgspec.json.decode(text)
        for name in _LENGTHS:
            if fields.get(name) is not None:
                fields[name] = timedelta(seconds=fields[name])
        fields["cancel_within"] = timedelta(seconds=float(fields["cancel_within"].removesuffix(" seconds")))
        fields["on_lost"] = OnLost(fields["on_lost"])
        for name in ("retry_on", "no_retry"):
            fields[name] = tuple(fields[name])
        return AgentSpec(**fields)
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"an agent's policy in the database cannot be read ({error}): declare it again") from error


@lru_cache(maxsize=131_072)
def read_schedule(text: str) -> Schedule:
    """The schedule that a row holds.

    Raises: InvalidSchedule.
    """
    return Schedule.from_json(msgspec.json.decode(text))


@lru_cache(maxsize=131_072)
def read_spec(agent: str, schedule: str | None, policy: str) -> TriggerSpec:
    """The declaration that a row holds, without its name and input: rows that say the same share one.

    Raises: BadInput.
    """
    try:
        fields = msgspec.json.decode(policy)
        return TriggerSpec(
            name=agent,
            agent=agent,
            schedule=None if schedule is None else read_schedule(schedule),
            event=read_event(fields["event"]) if "event" in fields else None,
            hook=Hook.from_json(fields["hook"]) if "hook" in fields else None,
            overlap=Overlap(fields["overlap"]),
            overlap_scope=fields["overlap_scope"],
            catch_up=CatchUp(fields["catch_up"]),
            catch_up_window=_duration(fields["catch_up_window"]),
            max_catch_up=int(fields["max_catch_up"]),
            grace=timedelta(seconds=fields["grace"]),
            expires_after=_duration(fields["expires_after"]),
            priority=int(fields["priority"]),
        )
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BadInput(f"its row cannot be read ({type(error).__name__}: {error})") from error


def _event_form(rule: EventRule, *, is_hooked: bool) -> dict[str, Any]:
    """The rule's form, and beside it what the database asks of it when it has something to tell itself.

    is_hooked: it hears its hook's calls alone, and so nothing of that.
    """
    hears = [] if is_hooked else rule.hears()
    return rule.to_json() | ({"hears": hears} if hears else {})


def read_event(form: object) -> EventRule:
    """The event rule that a policy holds. Raises: BadInput."""
    if isinstance(form, dict):
        form = {name: value for name, value in form.items() if name != "hears"}
    return EventRule.from_json(form)


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def due_of(row: Record) -> DueTrigger:
    """A locked row. Its first columns are the trigger's fields, in their order."""
    return DueTrigger(*row[:OF_DUE])


def row_of(row: Record) -> TriggerRow:
    return TriggerRow(
        **{**dict(row), "paused": tuple(row["paused"]), "paused_until": tuple(row["paused_until"])},
    )
