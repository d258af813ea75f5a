"""How a trigger stands now, in sentences: the half of "why did it not run?" that is no past decision."""

from typing import Any

from tocsin.engine.views import event_text, hook_text
from tocsin.store.trigger_rows import TriggerRow


def standing(row: TriggerRow, agent: dict[str, Any] | None) -> list[str]:
    """Sentences, the decisive one first. agent: its row, with what it has queued and who serves it."""
    return [*_own(row), *(_agents(row, agent) if agent is not None else [])]


def _own(row: TriggerRow) -> list[str]:
    if row.paused and row.status != "broken":
        since = f"{row.paused_at:%Y-%m-%d %H:%M:%S} UTC" if row.paused_at else "an unknown instant"
        return [f"It is paused since {since} for: {', '.join(row.paused)}. `tocsin trigger resume {row.name}` goes on."]
    match row.status:
        case "broken":
            return [f"It is quarantined and fires nothing: {row.broken_reason}. Declare it again, mended."]
        case "armed":
            return [_armed(row)]
        case _:
            return [_unarmed(row)]


def _unarmed(row: TriggerRow) -> str:
    match row.status:
        case "ended":
            return "Its schedule has no further instant."
        case "waiting":
            return "It counts from the end of its run in hand, which has not ended yet."
        case "listening":
            return _listening(row)
        case _:
            return f"It has no schedule: it runs when fired, as by `tocsin trigger fire {row.name}`."


def _listening(row: TriggerRow) -> str:
    hook = hook_text(row.policy)
    if hook is None:
        return f"It runs when an event comes: {event_text(row.policy)}."
    return f"It runs when it is called at /hooks/{row.name} ({hook}): {event_text(row.policy)}."


def _armed(row: TriggerRow) -> str:
    if row.next_at is not None and row.wake_at is not None and row.wake_at < row.now:
        late = (row.now - row.wake_at).total_seconds()
        return f"It has been due for {late:.1f} s and no replica has taken it up: is one alive? `tocsin replica list`"
    return f"It is armed; its next instant is {row.next_at:%Y-%m-%d %H:%M:%S} UTC."


def _agents(row: TriggerRow, agent: dict[str, Any]) -> list[str]:
    lines = []
    if not agent["replicas"] and not agent["instances"]:
        lines.append(f"No live replica or instance serves agent {row.agent!r}: its runs stay queued until one does.")
    if agent["concurrency"] is not None and agent["running"] >= agent["concurrency"]:
        lines.append(f"Agent {row.agent!r} runs {agent['running']} at once, which is its limit: the rest wait.")
    queued = agent["queued_live"] + agent["queued_late"]
    if queued:
        lines.append(f"Agent {row.agent!r} has {queued} queued, {agent['running']} running.")
    return lines
