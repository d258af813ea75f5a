"""What connected processes are heard to say of themselves: one statement a second for all of them.

Reads: what their beats named as in hand. Writes: their leases, renewed together, each only while its stream is
its newest. The same statement says which of the keys that have let them in were revoked since, or have expired. If the
process dies before the commit, the leases run until their end, and the processes connect elsewhere meanwhile. A beat
that comes late, or twice, renews nothing that was ended.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from tocsin.clock import Clock
from tocsin.store.instances import Answer, Heard, Instances

EVERY: Final = 1.0
"""Seconds between two writes."""

KEYS_EVERY: Final = 5.0
"""Seconds after which keys are asked for even if nobody has said anything."""


class Connected(Protocol):
    """A process whose stream is open here."""

    @property
    def holder(self) -> UUID: ...

    @property
    def key(self) -> str | None:
        """The name of the key that has let it in."""
        ...

    @property
    def suspect_after(self) -> timedelta: ...

    def take(self) -> Heard | None:
        """What is to be written of it; None, when it said nothing new."""
        ...

    def answered(self, answer: Answer) -> None: ...

    def silent(self, seconds: float) -> None:
        """It was not heard for so long, which is longer than it may be silent."""
        ...

    def revoked(self) -> None:
        """Its key opens nothing any more."""
        ...


class Beats:
    name = "beats"

    def __init__(self, *, instances: Instances, clock: Clock, wake: Callable[[], None]) -> None:
        self._instances = instances
        self._clock = clock
        self._wake = wake
        self._connected: dict[UUID, Connected] = {}
        self._heard_at: dict[UUID, float] = {}
        self._wrote_at = self._asked_at = float("-inf")
        self._is_hurried = False

    def __len__(self) -> int:
        return len(self._connected)

    def join(self, connected: Connected) -> None:
        self._connected[connected.holder] = connected
        self._heard_at[connected.holder] = self._clock.monotonic()
        if len(self._connected) == 1:
            self._wake()

    def leave(self, connected: Connected) -> None:
        if self._connected.get(connected.holder) is connected:
            del self._connected[connected.holder]
            del self._heard_at[connected.holder]

    def hear(self, connected: Connected) -> None:
        """It lives; what it said is written with the next statement."""
        if self._connected.get(connected.holder) is connected:
            self._heard_at[connected.holder] = self._clock.monotonic()

    def hurry(self) -> None:
        """Somebody has asked for something that concerns those who are connected: the answer is wanted at once."""
        self._is_hurried = True
        if self._connected:
            self._wake()

    def rest(self) -> float | None:
        if not self._connected:
            return None
        return 0.0 if self._is_hurried else max(0.0, self._wrote_at + EVERY - self._clock.monotonic())

    async def run_once(self) -> bool:
        now = self._clock.monotonic()
        if not self._is_hurried and now < self._wrote_at + EVERY:
            return False
        # Before anything is read: who hurries us from here on has something newer to be seen.
        hurried, self._is_hurried = self._is_hurried, False
        self._look_for_silent(now)
        said = [(one, heard) for one in list(self._connected.values()) if (heard := one.take()) is not None]
        keys = {one.key for one in self._connected.values() if one.key is not None}
        if said or (keys and (hurried or now >= self._asked_at + KEYS_EVERY)):
            await self._write(said, sorted(keys))
            self._asked_at = now
        self._wrote_at = now
        return False

    async def _write(self, said: Sequence[tuple[Connected, Heard]], keys: Sequence[str]) -> None:
        answers, revoked = await self._instances.beat([heard for _, heard in said], keys)
        for connected, heard in said:
            if self._connected.get(heard.holder) is connected:
                connected.answered(answers[heard.holder])
        if revoked:
            for connected in list(self._connected.values()):
                if connected.key in revoked:
                    connected.revoked()

    def _look_for_silent(self, now: float) -> None:
        for holder, connected in list(self._connected.items()):
            silence = now - self._heard_at[holder]
            if silence > connected.suspect_after.total_seconds():
                connected.silent(silence)
