"""As much of PostgreSQL's protocol as is needed to know when a statement was committed and not yet answered.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", message formats.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102
REFUSED: Final = b"N"
"""The answer to a wish for encryption: what is encrypted could not be read here."""

STATEMENT: Final = b"Q"
PARSE: Final = b"P"
BIND: Final = b"B"
SYNC: Final = b"S"
ERROR: Final = b"E"
READY: Final = b"Z"
IDLE: Final = b"I"


@dataclass(frozen=True, slots=True)
class Message:
    """kind: one byte, empty for what opens a connection; raw: the whole of it as it came."""

    kind: bytes
    body: bytes
    raw: bytes


class Framer:
    """Cuts a stream into whole messages. opening: the first one has no kind."""

    def __init__(self, *, opening: bool) -> None:
        self._opening = opening
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        self._buffer += data
        while True:
            kind = 0 if self._opening else 1
            if len(self._buffer) < kind + 4:
                return
            end = kind + int.from_bytes(self._buffer[kind : kind + 4], "big")
            if len(self._buffer) < end:
                return
            raw = bytes(self._buffer[:end])
            del self._buffer[:end]
            message = Message(raw[:kind], raw[kind + 4 :], raw)
            # A client that asks for encryption opens again after the answer.
            if self._opening and code_of(message) not in (SSL_REQUEST, GSS_REQUEST):
                self._opening = False
            yield message


def code_of(opening: Message) -> int:
    return int.from_bytes(opening.body[:4], "big")


def parameters_of(opening: Message) -> dict[str, str]:
    """What a session is started with: user, database, application_name …"""
    words = opening.body[4:].split(b"\0")
    return {
        name.decode(): value.decode(errors="replace")
        for name, value in zip(words[::2], words[1::2], strict=False)
        if name
    }


@dataclass(slots=True)
class Asked:
    """What a client has asked for, read from its side of the stream.

    ``heard`` answers with the text of the statements that the server will answer next, once their last
    message is there: a simple query, or all that was bound before a Sync.
    """

    prepared: dict[bytes, str] = field(default_factory=dict)
    bound: list[str] = field(default_factory=list)

    def heard(self, message: Message) -> str | None:
        match message.kind:
            case b"Q":
                return _text(message.body)
            case b"P":
                name, text = message.body.split(b"\0", 2)[:2]
                self.prepared[name] = text.decode(errors="replace")
            case b"B":
                name = message.body.split(b"\0", 2)[1]
                self.bound.append(self.prepared.get(name, ""))
            case b"S":
                asked, self.bound = "; ".join(self.bound), []
                return asked or None
        return None


def _text(body: bytes) -> str:
    return body.split(b"\0", 1)[0].decode(errors="replace")
