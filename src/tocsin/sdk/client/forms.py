"""Triggers as the API has them written: new, changed, and read back as what their author declared."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tocsin.domain.errors import BadInput
from tocsin.domain.event_rule import EventRule
from tocsin.domain.hook import Hook
from tocsin.domain.jsonable import jsonable
from tocsin.domain.payload import encode
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec
from tocsin.options import TRIGGER_OPTIONS, options_of
from tocsin.sdk.client.told import TriggerDetail

CALLED: Final = ("schedule", "event", "hook", "input")
POLICY: Final = tuple(name for name in TRIGGER_OPTIONS if name not in CALLED)


def new_form(spec: TriggerSpec) -> dict[str, Any]:
    """Raises: BadInput, PayloadTooLarge."""
    return {"name": spec.name, "agent": spec.agent, **_called_form(spec), "policy": _policy_form(spec)}


def change_form(old: TriggerSpec, new: TriggerSpec) -> dict[str, Any]:
    """What is to be changed for the one to become the other. Raises: BadInput, PayloadTooLarge."""
    if new.name != old.name:
        raise BadInput(f"trigger {old.name!r} cannot be renamed: add {new.name!r} and delete this one")
    before, after = _called_form(old), _called_form(new)
    policy = {name: value for name, value in _policy_form(new).items() if value != _policy_form(old)[name]}
    # The agent is always named: an edit that changes nothing gives a new version, too.
    changes = {"agent": new.agent, **{name: after[name] for name in CALLED if after[name] != before[name]}}
    if "hook" in changes:
        # A hook that goes takes the rule along, unless the change says what is to listen.
        changes["event"] = after["event"]
    return changes | ({"policy": policy} if policy else {})


def spec_of(row: TriggerDetail) -> TriggerSpec:
    """The declaration behind a trigger.

    Raises: BadInput, for a trigger that is broken so that its hub cannot tell what calls it.
    """
    if row["status"] == "broken" and row["schedule"] is None and row["event"] is None:
        raise BadInput(f"trigger {row['name']!r} is broken")
    policy: Mapping[str, Any] = {name: row["policy"][name] for name in POLICY if name in row["policy"]}
    return TriggerSpec(
        name=row["name"],
        agent=row["agent"],
        schedule=None if row["schedule"] is None else Schedule.from_json(row["schedule"]),
        event=None if row["event"] is None else EventRule.from_json(row["event"]),
        hook=None if row["hook"] is None else Hook.from_json(row["hook"]),
        input=row["input"],
        **options_of("trigger", row["name"], TRIGGER_OPTIONS, policy),
    )


def _called_form(spec: TriggerSpec) -> dict[str, Any]:
    return {
        "schedule": None if spec.schedule is None else spec.schedule.to_json(),
        "event": None if spec.event is None else spec.event.to_json(),
        "hook": None if spec.hook is None else spec.hook.to_json(),
        "input": input_form(spec.input),
    }


def _policy_form(spec: TriggerSpec) -> dict[str, Any]:
    """Lengths in seconds."""
    form: dict[str, Any] = jsonable({name: getattr(spec, TRIGGER_OPTIONS[name].field) for name in POLICY})
    return form


def input_form(value: object) -> msgspec.Raw:
    """Raises: BadInput, PayloadTooLarge."""
    return msgspec.Raw(encode(value, what="input"))
