"""Who did what, when, to which thing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What was done. pause_ended: by itself, at the instant that the pause was given."""

    CREATED = "created"
    CHANGED = "changed"
    PAUSED = "paused"
    RESUMED = "resumed"
    PAUSE_ENDED = "pause_ended"
    DELETED = "deleted"
    PRUNED = "pruned"
    REVOKED = "revoked"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done, and what else there is to say of it. detail: JSON; never an input, which may hold secrets."""

    action: Action
    detail: Mapping[str, Any]
