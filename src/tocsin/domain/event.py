"""An event: something that happened, in the attributes of CloudEvents 1.0.

Source: CloudEvents 1.0.2, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md. One event is
``(source, id)``: whoever sends it again says the same again, and it is taken once.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.payload import encode

HUB: Final = "tocsin"
"""The source of what the hub itself has to tell; nobody else may speak in its name."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """subject: what of the source it is about; time: when it happened, as its source has it; data: any JSON value.

    depth: how many runs stand before it in its chain; 0 for what comes from outside.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    data: Any = None
    depth: int = 0

    def check(self) -> int:
        """The event may come from outside, and the store takes it; how many bytes of JSON its data has.

        Raises: BadInput, naming the attribute; PayloadTooLarge.
        """
        _check_text("id", self.id, MAX_ID)
        _check_text("source", self.source, MAX_SOURCE)
        _check_text("type", self.type, MAX_ATTRIBUTE)
        if self.subject is not None:
            _check_text("subject", self.subject, MAX_ATTRIBUTE)
        if any(letter.isspace() for letter in self.source):
            raise BadInput(f"event source {self.source!r}: must be a URI reference, which has no spaces")
        if self.source == HUB:
            raise BadInput(f"event source {HUB!r}: is the hub's own, name another")
        if self.time is not None and self.time.utcoffset() is None:
            raise BadInput(f"event time {self.time.isoformat()}: must have an offset")
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
            "data": self.data,
        }


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
