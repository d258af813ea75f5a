"""The health listener: ``/healthz`` while the process lives, ``/readyz`` while it takes work.

It speaks plain ASGI, because two answers need no framework. Signals stay with the process, and the
socket is bound by it before anything else begins, so that a port in use is known at once.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import uvicorn

from tocsin.domain.errors import Refused

Readiness = Callable[[], str | None]
"""Why the process takes no work; None when it does."""

Message = MutableMapping[str, Any]
_BACKLOG: Final = 128
_CLOSE_WITHIN: Final = 1


def bound(bind: str) -> socket.socket:
    """A listening socket on HOST:PORT; port 0 takes any that is free.

    Raises: Refused, naming TOCSIN_HTTP_BIND.
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
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

    def __init__(self, sock: socket.socket, *, version: str, readiness: Readiness) -> None:
        self._sock = sock
        config = uvicorn.Config(
            _health(version, readiness),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_WITHIN,
        )
        self._server = _Server(config)

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._sock]), name="health")
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


def _health(version: str, readiness: Readiness) -> Callable[..., Awaitable[None]]:
    async def answer(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        status, body = _respond(scope["method"], scope["path"], version, readiness)
        content = msgspec.json.encode(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    return answer


def _respond(method: str, path: str, version: str, readiness: Readiness) -> tuple[int, dict[str, object]]:
    if path not in ("/healthz", "/readyz"):
        return 404, {"error": "not_found", "message": f"nothing at {path}; there are /healthz and /readyz"}
    if method not in ("GET", "HEAD"):
        return 405, {"error": "method_not_allowed", "message": f"{path} is read with GET"}
    if path == "/healthz":
        return 200, {"status": "alive", "version": version}
    reason = readiness()
    return (200, {"status": "ready"}) if reason is None else (503, {"status": "unready", "reason": reason})
