"""Server-sent events as they are written. Positions and JSON have no line breaks, so that each is one line.

Source: WHATWG HTML, 9.2 "Server-sent events".
"""

import random
from typing import Final

from tocsin.engine.reader import End
from tocsin.engine.tail import Gap

RETRY: Final = 1_000
"""Milliseconds after which a client that lost its connection comes again."""

COMES_WITHIN: Final = (100, 2_000)
"""The same for those who are seen off, drawn at random, so that they do not all come at once."""

OPENING: Final = b"retry: %d\n\n" % RETRY


class Sse:
    """What readers hear, as events. One without data tells a client nothing but where it stands."""

    def event(self, position: str, data: bytes) -> bytes:
        return b"id: %b\nevent: transition\ndata: %b\n\n" % (position.encode(), data)

    def gap(self, position: str, why: Gap) -> bytes:
        return b'id: %b\nevent: gap\ndata: {"reason":"%b"}\n\n' % (position.encode(), why.encode())

    def still(self, position: str) -> bytes:
        return b": still here\nid: %b\n\n" % position.encode()


def ending(why: End) -> bytes:
    """The last that is said. When to come again, and where it ended, the client knows."""
    return b'event: end\ndata: {"reason":"%b"}\nretry: %d\n\n' % (why.encode(), random.randint(*COMES_WITHIN))
