"""The HTTP port, from entering to leaving. Health is answered at once, the API once it has joined.

The framework is loaded after the hub has begun to work, because loading it takes longer than all else that a hub
needs before its first run. Signals stay with the process, and the socket is bound by it before anything else begins,
so that a port in use is known at once.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import uvicorn

from tocsin.domain.errors import Refused
from tocsin.edges.http.front import Front
from tocsin.edges.http.patience import MAX_HEAD, Impatient

_BACKLOG: Final = 128
_CLOSE_WITHIN: Final = 1
MOST_CONNECTIONS: Final = 1_000


def bound(bind: str) -> socket.socket:
    """A listening socket on HOST:PORT; port 0 takes any that is free.

    Raises: Refused, naming TOCSIN_HTTP_BIND.
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
        # Connections take it from here: the event loop sets it only where a socket names its protocol, which this one
        # does not. Without it the second part of an answer waits for the first one's receipt, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another process listens there; end it, or choose another address"
        else:
            reason = f"{error.strerror or error}; choose another address"
        raise Refused(f"TOCSIN_HTTP_BIND={bind}: {reason}") from error


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Listener:
    """Answers on a bound socket from entering to leaving."""

    def __init__(self, sock: socket.socket, front: Front) -> None:
        self._sock = sock
        # What goes wrong in a request is in our own log; this one would repeat what strangers have sent.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        config = uvicorn.Config(
            front,
            http=Impatient,
            h11_max_incomplete_event_size=MAX_HEAD,
            limit_concurrency=MOST_CONNECTIONS,
            proxy_headers=False,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_WITHIN,
        )
        self._server = _Server(config)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._sock]), name="http")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=_CLOSE_WITHIN + 1)
        self._serving.cancel()
        self._sock.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: a drain is the process's business."""
        yield
