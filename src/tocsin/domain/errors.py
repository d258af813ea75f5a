"""Everything Tocsin raises on purpose.

    TocsinError
    ├── BadInput                 what was written is wrong; nothing was changed
    │   ├── InvalidSchedule      a rule that is malformed or can never match
    │   ├── InvalidSetting       one or more settings, all reported at once
    │   ├── InvalidApp           one or more faults in an app, all reported at once
    │   └── PayloadTooLarge
    ├── Refused                  well-formed, but not in this state
    │   ├── NotFound
    │   ├── Unverified           a webhook's call that is not its sender's, or not of this moment
    │   ├── Busy                 so much waits to be written that no more is taken just now
    │   ├── Conflict             somebody else was first
    │   │   └── Stale            the version moved on
    │   ├── Unauthenticated      a hub elsewhere asks for a key, or for another one
    │   └── Forbidden            the key has another scope
    ├── LeaseLost                the right to write a run is somebody else's
    ├── HubUnavailable           no hub answers there, or not as a hub does; worth another try
    └── StoreError
        ├── DatabaseUnavailable  worth another try
        ├── Contended            another replica was first; the step is tried again
        ├── StatementRefused     the database will refuse this one every time
        ├── SchemaMismatch       the database and this release do not fit together
        └── EmbeddedFailed       the embedded PostgreSQL could not be had

An agent speaks through three more, which are no errors of ours:

    RetryAfter    wait, then try again without using up an attempt
    Fatal         this run can never succeed; do not retry
    Cancelled     stopped on request

Every error has a stable ``code``; its text names the thing and the next step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar


class TocsinError(Exception):
    """The root; ``code`` is stable over releases, the text is not. about: fields that say what it is about."""

    code: str = "error"
    about: ClassVar[tuple[str, ...]] = ()


class BadInput(TocsinError):
    code = "bad_input"


class InvalidSchedule(BadInput):
    """A rule that is malformed or can never match.

    ``field`` names the part that is at fault (``minute``, ``day of month``, ``tz`` …),
    ``value`` is what stood there, ``reason`` says what may stand there.
    """

    code = "invalid_schedule"
    about = ("field", "reason")
    value: object = None

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field} {_shown(value)}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


def _shown(value: object) -> str:
    """The value as it was written, cut where it would drown the line."""
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, timedelta):
        value = str(value)
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}…"


class InvalidSetting(BadInput):
    code = "invalid_setting"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class InvalidApp(BadInput):
    code = "invalid_app"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class PayloadTooLarge(BadInput):
    code = "payload_too_large"
    about = ("size", "limit")

    def __init__(self, what: str, *, size: int, limit: int) -> None:
        super().__init__(
            f"{what} is {size:,} bytes; at most {limit:,} are taken: store it elsewhere and pass a reference"
        )
        self.size = size
        self.limit = limit


class Refused(TocsinError):
    code = "refused"


class NotFound(Refused):
    """near: a name that is there; see: a command that lists what is; gone: what became of it, in the place of both."""

    code = "not_found"
    about = ("kind", "name")

    def __init__(
        self, kind: str, name: object, *, near: str | None = None, see: str | None = None, gone: str | None = None
    ) -> None:
        hint = gone or (f"did you mean {near!r}?" if near else f"see `tocsin {see or f'{kind} list'}`")
        super().__init__(f"no {kind} {str(name)!r}; {hint}")
        self.kind = kind
        self.name = str(name)


class Unverified(Refused):
    """why: what the log says of it, where whoever called is told less."""

    code = "unverified"

    def __init__(self, told: str, *, why: str | None = None) -> None:
        super().__init__(told)
        self.why = why or told


class Busy(Refused):
    code = "busy"


class Conflict(Refused):
    code = "conflict"


class Stale(Conflict):
    """An edit of a version that is not the present one."""

    code = "stale"
    about = ("version",)

    def __init__(self, kind: str, name: object, *, version: int, asked: object) -> None:
        super().__init__(f"{kind} {str(name)!r} is at version {version}, not {asked}: read it again")
        self.version = version


class Unauthenticated(Refused):
    code = "unauthenticated"


class Forbidden(Refused):
    code = "forbidden"


class LeaseLost(TocsinError):
    code = "lease_lost"


class HubUnavailable(TocsinError):
    """What was asked for may have been done, where the answer alone did not come."""

    code = "hub_unavailable"


class StoreError(TocsinError):
    code = "store"


class DatabaseUnavailable(StoreError):
    code = "database_unavailable"


class Contended(StoreError):
    """Another replica took it between our look and our write; the step is tried again at once."""

    code = "contended"


class StatementRefused(StoreError):
    """The database will refuse this statement with these values every time."""

    code = "statement_refused"


class SchemaMismatch(StoreError):
    code = "schema_mismatch"


class EmbeddedFailed(StoreError):
    code = "embedded_failed"


class RetryAfter(Exception):
    """Raised by an agent: wait, then try again; the attempt is not counted."""

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        super().__init__(reason or f"retry after {seconds:g} s")
        self.seconds = max(0.0, seconds)
        self.reason = reason


class Fatal(Exception):
    """Raised by an agent: this run can never succeed, so it is not retried."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Cancelled(Exception):
    """Raised in or by an agent that stops because it was asked to."""
