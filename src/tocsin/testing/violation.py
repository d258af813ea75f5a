"""One broken promise, with the rows that show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

SHOWN: Final = 4
_TELLING: Final = (
    "id", "run_id", "trigger_id", "name", "seq", "kind", "state", "status", "from_state", "to_state", "fence", "holder",
    "actor", "reason", "first_at", "last_at", "count", "nominal_at", "effective_at", "next_at", "wake_at", "at",
    "broken_reason", "expires_at", "ended_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Violation:
    """invariant: its id; rows: the offending ones, as few as show it; at: when, if no row says so in its ``at``."""

    invariant: str
    message: str
    rows: Sequence[Mapping[str, Any]]
    at: datetime | None = None

    @property
    def instants(self) -> list[datetime]:
        """When it happened, as far as that is told."""
        told = [row["at"] for row in self.rows if isinstance(row.get("at"), datetime)]
        return told if self.at is None else [*told, self.at]

    def __str__(self) -> str:
        shown = [
            "    " + " ".join(f"{key}={row[key]}" for key in _TELLING if row.get(key) is not None)
            for row in self.rows[:SHOWN]
        ]
        return "\n".join([f"{self.invariant}: {self.message}", *shown])
