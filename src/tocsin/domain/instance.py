"""An instance: a process that runs agents somewhere, and what its silence means."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import BadInput


class InstanceState(StrEnum):
    """ALIVE takes work; DRAINING and STALLED only renew; SUSPECT is silent, LOST was given up, LEFT went in order."""

    ALIVE = "alive"
    DRAINING = "draining"
    STALLED = "stalled"
    SUSPECT = "suspect"
    LOST = "lost"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne: after the first no new work is given, after the second the runs go to others."""

    suspect_after: timedelta
    dead_after: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) < self.suspect_after < self.dead_after:
            raise BadInput(f"suspect_after ({self.suspect_after}) must be shorter than dead_after ({self.dead_after})")

    @property
    def beat_every(self) -> timedelta:
        """Three beats may be lost before anybody suspects anything. Source: docs/semantics.md, 6.2."""
        return min(self.suspect_after / 4, timedelta(seconds=5))

    def with_agents(self, agents: Iterable[AgentSpec]) -> "Patience":
        """As the most patient of the agents wants it: a verdict takes all runs of an instance."""
        specs = list(agents)
        suspect = max((spec.suspect_after or self.suspect_after for spec in specs), default=self.suspect_after)
        dead = max((spec.dead_after or self.dead_after for spec in specs), default=self.dead_after)
        return Patience(min(suspect, dead * 0.9), dead)


def state_of(
    *,
    now: datetime,
    heard_at: datetime,
    expires_at: datetime,
    end_reason: str | None,
    connected: bool,
    draining: bool,
    stalled: bool,
    patience: Patience,
) -> tuple[InstanceState, str | None]:
    """The state, and why, where that needs saying. Never by the age of a run (docs/semantics.md, 6.3)."""
    if end_reason == "released":
        return InstanceState.LEFT, None
    if end_reason is not None or expires_at < now:
        return InstanceState.LOST, f"no beat for {patience.dead_after.total_seconds():g} s"
    if not connected:
        return InstanceState.SUSPECT, "its stream is closed"
    if now - heard_at > patience.suspect_after:
        return InstanceState.SUSPECT, f"no beat for {(now - heard_at).total_seconds():.0f} s"
    if stalled:
        return InstanceState.STALLED, "its event loop does not move"
    return (InstanceState.DRAINING if draining else InstanceState.ALIVE), None
