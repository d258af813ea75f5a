"""What was decided for locked triggers: as columns of the one statement that writes it, and the runs that it began."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from tocsin.domain.assignment import Assignment
from tocsin.domain.planning import Occurrence
from tocsin.domain.run import RunKind
from tocsin.domain.trigger import TriggerSpec
from tocsin.store.attempts import last_of, sparse, uniform
from tocsin.store.database import Record
from tocsin.store.trigger_rows import Decision

Fired: TypeAlias = tuple[Decision, UUID, Occurrence]


def occurrence_columns(fired: Sequence[Fired]) -> dict[str, object]:
    """Occurrences as materialise takes them. Where all say the same, that is sent once and not as a column."""
    occurrences = [occurrence for _, _, occurrence in fired]
    specs = [decision.spec for decision, _, _ in fired if decision.spec is not None]
    nominal, nominals = uniform([occurrence.nominal_at for occurrence in occurrences])
    lane, lanes = uniform([occurrence.lane for occurrence in occurrences])
    priority, priorities = uniform([spec.priority for spec in specs])
    overlap, overlaps = uniform([spec.overlap for spec in specs])
    overlap_scope, overlap_scopes = uniform([spec.overlap_scope for spec in specs])
    begin, begins = uniform([decision.begins for decision, _, _ in fired])
    return {
        "ids": [run_id for _, run_id, _ in fired],
        "trigger_ids": [decision.trigger.id for decision, _, _ in fired],
        "nominals": nominals,
        "nominal": nominal,
        # Without jitter the two instants are one, and nothing is sent.
        "effectives": sparse([o.effective_at if o.effective_at != o.nominal_at else None for o in occurrences]),
        "lanes": lanes,
        "lane": lane,
        "priorities": priorities,
        "priority": priority,
        "overlaps": overlaps,
        "overlap": overlap,
        "overlap_scopes": overlap_scopes,
        "overlap_scope": overlap_scope,
        "not_afters": sparse([_not_after(occurrence, decision.spec) for decision, _, occurrence in fired]),
        "begins": begins,
        "begin": begin,
    }


def cursor_columns(decisions: Sequence[Decision]) -> dict[str, object]:
    """Where the triggers stand now, in the same way. One that is broken stays where it was."""
    plans = [decision.plan for decision in decisions]
    old, olds = uniform([decision.trigger.next_at for decision in decisions])
    status, statuses = uniform([p.status if p else "broken" for p in plans])
    return {
        "cursor_ids": [decision.trigger.id for decision in decisions],
        "olds": olds,
        "old": old,
        "statuses": statuses,
        "status": status,
        "nexts": sparse([p.next_at if p else d.trigger.next_at for d, p in zip(decisions, plans, strict=True)]),
        "wakes": sparse([p.wake_at if p else None for p in plans]),
        "broken_reasons": sparse([decision.broken_reason for decision in decisions]),
        "gap_reasons": sparse([p.gap[0].value if p and p.gap else None for p in plans]),
        "gap_froms": sparse([p.gap[1] if p and p.gap else None for p in plans]),
    }


def begun_of(rows: Sequence[Record], fired: Sequence[Fired]) -> list[Assignment]:
    """The runs that were begun with their insert. What we have sent is not asked back."""
    known = {run_id: (decision, occurrence) for decision, run_id, occurrence in fired}
    begun = []
    for row in rows:
        if row["id"] is None:  # whether a hint was sent
            continue
        run_id, started_at, deadline_at, max_attempts, payload, scoped = row[:6]
        decision, occurrence = known[run_id]
        trigger = decision.trigger
        begun.append(
            Assignment(
                run_id,
                trigger.id,
                trigger.name,
                trigger.agent,
                RunKind.SCHEDULE.value,
                occurrence.lane.value,
                1,
                1,
                max_attempts,
                occurrence.nominal_at,
                occurrence.effective_at,
                occurrence.effective_at,
                started_at,
                deadline_at,
                payload,
                None,
                scoped,
                decision.plan is not None and decision.plan.status == "waiting",
                last_of(*row[6:10]),
            )
        )
    return begun


def _not_after(occurrence: Occurrence, spec: TriggerSpec | None) -> datetime | None:
    """Until when a run may wait in the queue; a limit beyond the calendar's end is none."""
    if spec is None or spec.expires_after is None:
        return None
    try:
        return occurrence.effective_at + spec.expires_after
    except OverflowError:
        return None
