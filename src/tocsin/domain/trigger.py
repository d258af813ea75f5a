"""A trigger: which agent is called, when, with what input, and what happens when that cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from tocsin.domain.agent import check_name
from tocsin.domain.errors import BadInput
from tocsin.domain.event_rule import EventRule
from tocsin.domain.hook import Hook
from tocsin.domain.schedule import Schedule

DEFAULT_PRIORITY: Final = 5
MAX_CATCH_UP: Final = 1_000


class Overlap(StrEnum):
    """What a run does when another of its scope is running; decided when it is claimed."""

    SKIP = "skip"
    QUEUE_ONE = "queue_one"
    QUEUE_ALL = "queue_all"
    CANCEL_PREVIOUS = "cancel_previous"
    ALLOW = "allow"


class CatchUp(StrEnum):
    """What becomes of occurrences that were missed by more than the grace."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSpec:
    """What an author declares. A trigger without a schedule and an event rule is fired by hand.

    event: which events call it, instead of a schedule. hook: who calls it at /hooks/NAME; it hears these calls alone,
    all of them, or those that ``event`` lets through. input: any JSON value; events bring their own.
    overlap_scope: ``trigger``, ``agent``, or ``input.PATH`` (runs of the agent whose input has the same value
    there). grace: how late an occurrence may be taken up and still be on time. catch_up_window: how far back missed
    ones are caught up; None is half the period, at most 4 h, at least 60 s, and 24 h for one-shots. expires_after: how
    long a run may wait in the queue. priority: 0–9, 9 first.
    """

    name: str
    agent: str
    schedule: Schedule | None = None
    event: EventRule | None = None
    hook: Hook | None = None
    input: Any = None
    overlap: Overlap = Overlap.SKIP
    overlap_scope: str = "trigger"
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: timedelta | None = None
    max_catch_up: int = 10
    grace: timedelta = timedelta(seconds=60)
    expires_after: timedelta | None = None
    priority: int = field(default=DEFAULT_PRIORITY)

    def __post_init__(self) -> None:
        check_name("trigger", self.name)
        check_name("agent", self.agent)
        at = f"trigger {self.name!r}"
        if self.hook is not None:
            self._check_hook(at)
        if self.event is not None and self.schedule is not None:
            raise BadInput(f"{at}: a schedule and an event rule do not go together: make it two triggers")
        if self.event is not None and self.input is not None:
            raise BadInput(f"{at}: input: an event brings its own; say on_event(…, input=…) what of it is given")
        if not 0 <= self.priority <= 9:
            raise BadInput(f"{at}: priority must be 0–9, not {self.priority}")
        if not 1 <= self.max_catch_up <= MAX_CATCH_UP:
            raise BadInput(f"{at}: max_catch_up must be 1–{MAX_CATCH_UP}, not {self.max_catch_up}")
        if self.grace < timedelta(0):
            raise BadInput(f"{at}: grace must not be negative")
        if self.catch_up_window is not None and self.catch_up_window < timedelta(0):
            raise BadInput(f"{at}: catch_up_window must not be negative")
        if self.expires_after is not None and self.expires_after <= timedelta(0):
            raise BadInput(f"{at}: expires_after must be longer than 0 s; leave it out for no limit")
        if self.overlap_scope not in ("trigger", "agent") and not self.overlap_scope.startswith("input."):
            raise BadInput(f"{at}: overlap_scope must be trigger, agent or input.PATH, not {self.overlap_scope!r}")

    def _check_hook(self, at: str) -> None:
        if self.schedule is not None:
            raise BadInput(f"{at}: a schedule and a hook do not go together: make it two triggers")
        if self.event is None:
            object.__setattr__(self, "event", EVERY_CALL)
        elif self.event.source is not None:
            raise BadInput(f"{at}: source does not go with a hook, which is the source itself")


EVERY_CALL: Final = EventRule(type="*")
"""What a hook's trigger hears unless its rule says otherwise."""


def called_by(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a trigger's fields, made whole: what calls it takes the place of what called it before, and an
    event brings its own input.
    """
    if changes.get("event") is not None or changes.get("hook") is not None:
        return {"schedule": None, "input": None, **changes}
    if changes.get("schedule") is not None:
        return {"event": None, "hook": None, **changes}
    if "hook" in changes and changes["hook"] is None:
        return {"event": None, **changes}  # its rule was for the hook's calls, and not for whatever happens
    return dict(changes)


def default_overlap(event: EventRule | None, hook: Hook | None = None) -> Overlap:
    """Of a schedule the next occurrence says the same again; of events each says something else."""
    return Overlap.SKIP if event is None and hook is None else Overlap.QUEUE_ALL
