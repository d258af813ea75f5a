"""What the traces of runs are called: ids that follow from a run's own, so that every replica says the same.

A run is one trace. Whoever takes it over goes on with it, and nothing about it need be kept.

Source: W3C Trace Context.
"""

import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final, NamedTuple
from uuid import UUID

SAMPLED: Final = 1

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Traceparent(NamedTuple):
    """A place in a trace."""

    trace_id: int
    span_id: int
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def trace_of(run_id: UUID) -> int:
    """128 bits that look random, which those of a run's id do not: samplers go by them."""
    return _digest(run_id.bytes, 16)


def root_of(run_id: UUID) -> int:
    """The span of the run, from when it was called to its end."""
    return _digest(b"run" + run_id.bytes, 8)


def attempt_of(run_id: UUID, fence: int) -> int:
    """The span of one attempt, whoever holds it."""
    return _digest(b"attempt" + run_id.bytes + fence.to_bytes(8), 8)


def queued_of(run_id: UUID, fence: int) -> int:
    """The span of the time for which the run had waited before that attempt."""
    return _digest(b"queued" + run_id.bytes + fence.to_bytes(8), 8)


def traceparent_of(run_id: UUID, fence: int, *, sampled: bool) -> Traceparent:
    """What an attempt's agent is told."""
    return Traceparent(trace_of(run_id), attempt_of(run_id, fence), SAMPLED if sampled else 0)


def read_traceparent(text: str) -> Traceparent | None:
    """The place that a header names; None for what is none. Of a later version, what this one knows."""
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Traceparent(int(trace_id, 16), int(span_id, 16), int(flags, 16))


def called_at(run_id: UUID, effective_at: datetime, started_at: datetime) -> datetime:
    """When the run began to wait for its first attempt: at its instant, or when it was written, if that was later.

    An id tells when it was made, by the clock of the host that made it, so no later than the run began.
    """
    made_at = effective_at
    if run_id.version == 7:
        made_at = datetime.fromtimestamp((run_id.int >> 80) / 1_000, UTC)
    return min(max(effective_at, made_at), started_at)


def _digest(data: bytes, size: int) -> int:
    return int.from_bytes(blake2b(data, digest_size=size, person=b"tocsin trace").digest()) or 1
