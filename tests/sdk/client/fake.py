"""A hub that says what it is told to, byte by byte, on a port."""

import asyncio
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

HOLD: Final = b""
"""Nothing more is said, and the connection is kept."""

STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n"


def answer(body: bytes, *, status: str = "200 OK", media: str = "application/json") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"content-type: {media}", f"content-length: {len(body)}", "connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


class FakeHub:
    """Each connection is given its own script, the last one over and over. heads: the headers of each request."""

    def __init__(self, *scripts: Sequence[bytes], tls: ssl.SSLContext | None = None) -> None:
        self._scripts = list(scripts)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._over = asyncio.Event()
        self._busy: set[asyncio.StreamWriter] = set()
        self.asked = asyncio.Event()
        self.heads: list[dict[str, str]] = []
        self.targets: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._over.set()
        for writer in list(self._busy):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        scheme, host = ("https", "localhost") if self._tls else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy.add(writer)
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            self.targets.append(first.split(" ")[1])
            self.heads.append({name.lower(): value for name, _, value in (line.partition(": ") for line in lines)})
            self.asked.set()
            for part in self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]:
                if part == HOLD:
                    await self._over.wait()
                writer.write(part)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._busy.discard(writer)
            writer.close()
