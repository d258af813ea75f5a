"""An event: something that happened, in the attributes of CloudEvents 1.0.

Source: CloudEvents 1.0.2, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md. One event is
``(source, id)``: whoever sends it again says the same again, and it is taken once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.payload import check_instant, encode

HUB: Final = "tocsin"
"""The source of what the hub itself has to tell; nobody else may speak in its name."""

HOOKS: Final = "/hooks/"
"""What the source of a webhook's call begins with, the name of its trigger behind it: who is heard there has signed."""

RUN_SUCCEEDED: Final = "run.succeeded"
RUN_FAILED: Final = "run.failed"
TRIGGER_BROKEN: Final = "trigger.broken"
INSTANCE_LOST: Final = "instance.lost"
HUB_TYPES: Final = (RUN_SUCCEEDED, RUN_FAILED, TRIGGER_BROKEN, INSTANCE_LOST)

MAX_ID: Final = 500
MAX_SOURCE: Final = 1_000
MAX_ATTRIBUTE: Final = 1_000
"""Bytes. An id and a source are the key of an index, which must hold both."""

MAX_DATA: Final = MAX_PAYLOAD - 8 * 1024
"""Bytes of JSON: the event as a whole is a run's input."""

MAX_BODY_KEPT: Final = 64 * 1024
"""Bytes of a webhook's call that are kept as they came."""

MOST_EXTENSIONS: Final = 50
OWN_NAMES: Final = frozenset({"id", "source", "type", "subject", "time", "data", "specversion"})

_EXTENSION: Final = re.compile(r"[a-z0-9]{1,100}")
_INTEGERS: Final = range(-(2**31), 2**31)

Extension = str | int | bool


@dataclass(frozen=True, slots=True)
class Received:
    """How a webhook's call came. body: its first bytes; size: of all of them; media: its Content-Type.

    digest: of what was signed, where that does not cover the id: under another id it is the same call.
    """

    body: bytes
    size: int
    media: str
    digest: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """subject: what of the source it is about; time: when it happened, as its source has it; data: any JSON value.

    extensions: further attributes. depth: how many runs stand before it in its chain; 0 for what comes from outside.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    data: Any = None
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    depth: int = 0
    received: Received | None = None

    def check(self) -> int:
        """The event may come from anybody, and the store takes it; how many bytes of JSON its data has.

        Raises: BadInput, naming the attribute; PayloadTooLarge.
        """
        size = self.measure()
        if self.source == HUB:
            raise BadInput(f"event source {HUB!r}: is the hub's own, name another")
        if self.source.startswith(HOOKS):
            raise BadInput(
                f"event source {self.source!r}: is a webhook's own, name one that does not begin with {HOOKS}"
            )
        return size

    def measure(self) -> int:
        """The store takes the event; how many bytes of JSON its data has.

        Raises: BadInput, naming the attribute; PayloadTooLarge.
        """
        _check_text("id", self.id, MAX_ID)
        _check_text("source", self.source, MAX_SOURCE)
        _check_text("type", self.type, MAX_ATTRIBUTE)
        if self.subject is not None:
            _check_text("subject", self.subject, MAX_ATTRIBUTE)
        if any(letter.isspace() for letter in self.source):
            raise BadInput(f"event source {self.source!r}: must be a URI reference, which has no spaces")
        if self.extensions:
            _check_extensions(self.extensions)
        if self.time is not None and self.time.utcoffset() is None:
            raise BadInput(f"event time {self.time.isoformat()}: must have an offset")
        if self.time is not None:
            check_instant(self.time, what="event time")
        size = len(encode(self.data, what="event data"))
        if size > MAX_DATA:
            raise PayloadTooLarge("event data", size=size, limit=MAX_DATA)
        return size

    @property
    def key(self) -> str:
        """By which a trigger's run of it is unique. A source has no space in it, so no two events share one."""
        return f"event:{self.source} {self.id}"

    def view(self) -> dict[str, Any]:
        """The event as expressions ask it, and as a run's input."""
        return {
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": None if self.time is None else self.time.isoformat().replace("+00:00", "Z"),
            **self.extensions,
            "data": self.data,
        }


def _check_extensions(extensions: Mapping[str, Extension]) -> None:
    """Source: CloudEvents 1.0.2, "Type System" and "Naming Conventions"."""
    if len(extensions) > MOST_EXTENSIONS:
        raise BadInput(f"event: at most {MOST_EXTENSIONS} attributes of its own, this has {len(extensions)}")
    for name, value in extensions.items():
        if not _EXTENSION.fullmatch(name) or name in OWN_NAMES:
            raise BadInput(f"event attribute {name!r}: a name has lower-case letters and digits only")
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            if value not in _INTEGERS:
                raise BadInput(f"event {name} {value}: an integer has 32 bits")
            continue
        if value:
            _check_text(name, value, MAX_ATTRIBUTE)


def _check_text(name: str, text: object, limit: int) -> None:
    if not isinstance(text, str) or not text:
        raise BadInput(f"event {name} {text!r}: must be a text that is not empty")
    if not text.isprintable():
        raise BadInput(f"event {name} {text[:80]!r}: has control characters")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadInput(f"event {name}: has half a surrogate pair, which is no character") from None
    if size > limit:
        raise BadInput(f"event {name} {text[:40]!r}…: at most {limit} bytes, this has {size}")
