"""A trigger's own share of its jitter, found once."""

from datetime import timedelta
from functools import lru_cache
from uuid import UUID

from tocsin.domain.schedule import Schedule


@lru_cache(maxsize=131_072)
def phase_of(schedule: Schedule, trigger_id: UUID) -> timedelta:
    """The trigger's own stable share of its jitter."""
    return schedule.phase(trigger_id.bytes)
