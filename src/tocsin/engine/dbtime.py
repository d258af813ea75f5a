"""The database's clock, as well as a replica can know it between two answers.

Each answer that carries the database's instant bounds the distance between its clock and our
monotonic one. It is used to wake up at the right moment, never to decide: decisions are made on
instants that come with the data.
"""

from datetime import UTC, datetime

from tocsin.clock import Clock


class DatabaseTime:
    """An estimate that takes the newest answer. Seconds since the epoch inside, instants outside."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None

    def learn(self, now: datetime, *, asked_at: float) -> None:
        """The database said ``now`` to a question sent at monotonic ``asked_at``."""
        answered_at = self._clock.monotonic()
        self._offset = now.timestamp() - (asked_at + answered_at) / 2

    def until(self, instant: datetime) -> float:
        """Seconds from now until the database reaches an instant; 0 when that is past or unknown."""
        if self._offset is None:
            return 0.0
        return max(0.0, instant.timestamp() - self._clock.monotonic() - self._offset)

    def now(self) -> datetime | None:
        if self._offset is None:
            return None
        return datetime.fromtimestamp(self._clock.monotonic() + self._offset, UTC)
