"""A connection whose requests have to arrive in time and whose answers have to be read; its heads are bounded."""

import asyncio
from typing import Any, Final, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's line and headers."""

WITHIN: Final = 20.0
"""Seconds from a request's first byte to its last."""


class Corked:
    """A transport through which all that is written in one turn of the event loop goes out in one piece: an answer's
    head and body would cost a system call each.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        if len(self._parts) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)


class Impatient(H11Protocol):
    """One connection. Where no request has begun there is nobody to be told, and it is closed."""

    within = WITHIN
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))
        self._watch(is_due=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(is_due=False)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and self._is_head_too_large(data):
            self._tell(431, "head_too_large", f"the request's line and headers take more than {MAX_HEAD:,} bytes")
            self.transport.close()
            return
        super().data_received(data)
        self._watch(is_due=self._is_arriving())

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch(is_due=self._is_arriving())

    def pause_writing(self) -> None:
        """Nobody reads: what is still to be sent is kept for so long, and no longer."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.within, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _is_head_too_large(self, data: bytes) -> bool:
        """Also of a head that arrives whole, which the parser does not measure."""
        begun = self.conn.trailing_data[0] + data[: MAX_HEAD + 1]
        end = begun.find(b"\r\n\r\n")
        return (end if end >= 0 else len(begun)) > MAX_HEAD

    def _is_arriving(self) -> bool:
        """A request has begun and has not ended."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _watch(self, *, is_due: bool) -> None:
        if self._deadline is not None and not is_due:
            self._deadline.cancel()
            self._deadline = None
        elif self._deadline is None and is_due and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.within, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        is_begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if is_begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._tell(408, "too_slow", f"the request did not arrive within {self.within:g} s")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._tell(400, "bad_input", msg)
        self.transport.close()

    def _tell(self, status: int, code: str, detail: str) -> None:
        reason = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        form: dict[str, Any] = {
            "type": f"urn:tocsin:problem:{code}",
            "title": reason,
            "status": status,
            "code": code,
            "detail": detail,
        }
        body = msgspec.json.encode(form)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        try:
            head = self.conn.send(h11.Response(status_code=status, headers=headers, reason=reason.encode()))
            told = (head or b"") + (self.conn.send(h11.Data(data=body)) or b"")
        except h11.LocalProtocolError:
            return
        self.transport.write(told)
