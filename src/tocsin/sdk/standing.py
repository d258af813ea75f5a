"""How a process stands with its hubs: what the end of a stream means, and how long is waited for the next."""

import random
from dataclasses import dataclass
from typing import Final

import grpc

from tocsin.domain.errors import BadInput, Refused, TocsinError
from tocsin.sdk.stream import End
from tocsin.telemetry import Log

Code = grpc.StatusCode

#: On the very first stream these are final: what is wrong will be wrong the next time too.
FINAL: Final[dict[grpc.StatusCode, type[TocsinError]]] = {
    Code.UNAUTHENTICATED: Refused,
    Code.PERMISSION_DENIED: Refused,
    Code.NOT_FOUND: Refused,
    Code.FAILED_PRECONDITION: Refused,
    Code.INVALID_ARGUMENT: BadInput,
}
ADVICE: Final = {
    Code.UNAUTHENTICATED: "set TOCSIN_AGENT_KEY to a key that the hub knows",
    Code.PERMISSION_DENIED: "use a key that may serve these agents",
    Code.NOT_FOUND: "declare them there with `tocsin sync`",
    Code.FAILED_PRECONDITION: "run the hub's release here too",
}
STEADY: Final = 5.0
"""Seconds after which a stream that ends is no sign of trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds. first, most: between two tries, drawn from nothing up to twice as much each time; stalled: see Heart."""

    first: float = 0.2
    most: float = 5.0
    stalled: float = 3.0


class Standing:
    """connected: the present stream has had its Welcome; moving: its hub has asked us to go elsewhere."""

    def __init__(self, *, patience: Patience, log: Log) -> None:
        self._patience = patience
        self._log = log
        self.connected = False
        self.moving = False
        self._ever_connected = False
        self._failures = 0
        self._told: tuple[str | None, str] | None = None

    def trying(self) -> None:
        """A stream is about to be opened."""
        self.connected = self.moving = False

    def welcomed(self) -> None:
        self.connected = self._ever_connected = True
        self._told = None

    def judge(self, hub: str, end: End, lasted: float) -> None:
        """The end of a stream is counted and told of.

        Raises: Refused, BadInput, when the first hub that answers will not have us.
        """
        steady = self.connected and lasted > STEADY
        self._failures = 0 if steady or self.moving or is_lost(end) else self._failures + 1
        if is_lost(end) or self.moving:
            return
        if not self._ever_connected and end.code in FINAL:
            advice = ADVICE.get(end.code)
            raise FINAL[end.code](f"{hub} refuses these agents: {end.details}{f'; {advice}' if advice else ''}")
        code = end.code.name if end.code is not None else None
        if self.connected:
            self._log.warning("agent.disconnected", address=hub, code=code, error=end.details)
        elif (code, end.details) != self._told or self._failures % 100 == 0:
            # What is wrong is told once, not at each try.
            self._told = (code, end.details)
            self._log.warning("agent.refused", address=hub, code=code, error=end.details, failures=self._failures)

    def pause(self) -> float:
        """Seconds until the next try. Source: full jitter, Brooker, "Exponential Backoff And Jitter" (2015)."""
        return random.uniform(0, min(self._patience.most, self._patience.first * 2 ** min(self._failures, 16)))


def is_lost(end: End) -> bool:
    """The hub has declared this instance lost; the same code is given for a protocol that it does not speak."""
    return end.code is Code.FAILED_PRECONDITION and "lost" in end.details.lower()
