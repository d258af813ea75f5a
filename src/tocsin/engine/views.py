"""Rows as edges show them: plain values under stable names, instants in UTC, JSON already read."""

from datetime import timedelta
from typing import Any

import msgspec

from tocsin.domain.duration import format_duration
from tocsin.domain.errors import BadInput
from tocsin.domain.hook import Hook
from tocsin.domain.schedule import Schedule
from tocsin.store.trigger_rows import TriggerRow, read_event, read_schedule

RUN_FIELDS = (
    "id", "trigger", "agent", "kind", "state", "reason", "attempt", "max_attempts", "fence", "lane", "priority",
    "nominal_at", "effective_at", "available_at", "queued_at", "started_at", "finished_at", "holder",
    "cancel_requested_at", "progress", "fraction",
)  # fmt: skip


def run_view(row: dict[str, Any]) -> dict[str, Any]:
    """A run: its columns, its last attempt's error as one text, its input and output as values."""
    view = {name: row[name] for name in RUN_FIELDS}
    kind, message = row["error_kind"], row["error_message"]
    view["error"] = f"{kind}: {message}" if kind else None
    view["input"] = _json(row["input"])
    view["output"] = _json(row["output"])
    return view


def new_run_view(row: dict[str, Any]) -> dict[str, Any]:
    """A run as it was written a moment ago: what it cannot have yet is None."""
    return run_view(dict.fromkeys((*RUN_FIELDS, "error_kind", "error_message", "output")) | row)


def history_view(history: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The trail, the attempts and the late results of a run, their JSON read."""
    for attempt in history["attempts"]:
        attempt["usage"] = _json(attempt["usage"])
    for late in history["late_results"]:
        late["output"] = _json(late["output"])
    return history


def trigger_view(row: TriggerRow) -> dict[str, Any]:
    """A trigger as it stands.

    schedule, event, hook: in the form in which they are written, None where they cannot be read; …_text: the same in
    words.
    """
    return {
        "id": row.id,
        "name": row.name,
        "agent": row.agent,
        "schedule": _schedule_form(row.schedule),
        "schedule_text": schedule_text(row.schedule),
        "event": _event_form(row.policy),
        "event_text": event_text(row.policy),
        "hook": _hook_form(row.policy),
        "hook_text": hook_text(row.policy),
        "status": "paused" if row.paused and row.status in ("armed", "listening") else row.status,
        "paused": list(row.paused),
        "paused_at": row.paused_at,
        "paused_until": {reason: end for reason, end in row.pauses.items() if end is not None},
        "broken_reason": row.broken_reason,
        "next_at": row.next_at,
        "version": row.version,
        "source": row.source,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
    }


def trigger_detail(row: TriggerRow) -> dict[str, Any]:
    policy = _json(row.policy)
    if isinstance(policy, dict):
        for name in ("event", "hook"):  # they stand beside it
            policy.pop(name, None)
    return trigger_view(row) | {
        "policy": policy,
        "input": _json(row.input),
        "wake_at": row.wake_at,
    }


def _schedule_form(schedule: str | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    try:
        return read_schedule(schedule).to_json()
    except (BadInput, ValueError, TypeError, RecursionError):
        return None


def schedule_text(schedule: str | None) -> str | None:
    """``cron 0 9 * * mon-fri Europe/Paris``; what cannot be read is shown as it stands."""
    if schedule is None:
        return None
    try:
        return describe(read_schedule(schedule))
    except (BadInput, ValueError, TypeError, RecursionError):
        return schedule[:80]


def _event_form(policy: str) -> dict[str, Any] | None:
    try:
        form = msgspec.json.decode(policy).get("event")
        return None if form is None else read_event(form).to_json()
    except (BadInput, ValueError, TypeError, AttributeError, RecursionError):
        return None


def event_text(policy: str) -> str | None:
    """``on com.github.push subject acme/*``; what cannot be read is shown as it stands."""
    try:
        form = msgspec.json.decode(policy).get("event")
        return None if form is None else str(read_event(form))
    except (BadInput, ValueError, TypeError, AttributeError, RecursionError):
        return policy[:80]


def _hook_form(policy: str) -> dict[str, Any] | None:
    hook = _hook_of(policy)
    return None if hook is None else hook.to_json()


def hook_text(policy: str) -> str | None:
    """``github, secret GITHUB_WEBHOOK_SECRET``."""
    hook = _hook_of(policy)
    return None if hook is None else str(hook)


def _hook_of(policy: str) -> Hook | None:
    """None also where it cannot be read."""
    try:
        form = msgspec.json.decode(policy).get("hook")
        return None if form is None else Hook.from_json(form)
    except (BadInput, ValueError, TypeError, AttributeError, RecursionError):
        return None


def describe(schedule: Schedule) -> str:
    """A schedule in one line, from its canonical form."""
    form = schedule.to_json()
    rules = form["rules"]
    assert isinstance(rules, list)  # its canonical form
    text = " | ".join(_rule(rule) for rule in rules)
    extras = [
        f"{key.removesuffix('_seconds')}={_length(form[key]) if key.endswith('_seconds') else form[key]}"
        for key in sorted(form)
        if key not in ("rules", "except")
    ]
    if form.get("except"):
        extras.append("with exceptions")
    return " ".join([text, *extras])


def _rule(rule: dict[str, Any]) -> str:
    if "cron" in rule:
        zone = rule.get("tz", "UTC")
        return f"cron {rule['cron']}" + (f" {zone}" if zone != "UTC" else "")
    if "every_seconds" in rule:
        after = " after completion" if rule.get("after_completion") else ""
        return f"every {_length(rule['every_seconds'])}{after}"
    instants = rule.get("at", [])
    return f"at {instants[0]}" + (f" and {len(instants) - 1} more" if len(instants) > 1 else "") if instants else "at"


def _length(seconds: Any) -> str:
    return format_duration(timedelta(seconds=seconds))


def agent_view(row: dict[str, Any]) -> dict[str, Any]:
    """An agent, its policy read, with what it has queued and who serves it."""
    return row | {
        "spec": msgspec.json.decode(row["spec"]),
        "queued": row["queued_live"] + row["queued_late"],
        "replicas": row["replicas"] or [],
        "instances": row["instances"] or [],
    }


def replica_view(row: dict[str, Any]) -> dict[str, Any]:
    """A replica and its state: alive, draining, silent, released or lost."""
    if row["ended_at"] is not None:
        state = row["end_reason"]
    elif row["expires_at"] < row["now"]:
        state = "silent"
    else:
        state = "draining" if row["draining"] else "alive"
    return {name: value for name, value in row.items() if name != "now"} | {"state": state}


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
