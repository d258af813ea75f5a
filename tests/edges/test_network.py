"""What plays the network's faults does play them, and counts whom they met."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.edges.network import Port

pytestmark = pytest.mark.anyio


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The address of somebody who says again whatever is said."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1_000):
                writer.write(data)
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def said_again(port: Port, words: bytes) -> bytes:
    """What came back before the connection ended."""
    host, _, number = port.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(words)
    got = b""
    with suppress(OSError):
        while len(got) < len(words) and (data := await reader.read(1_000)):
            got += data
    writer.transport.abort()
    return got


async def test_bytes_pass_and_nobody_is_met(echo: str) -> None:
    async with Port(echo) as port:
        assert await said_again(port, b"hello") == b"hello"
        assert (port.attempts, port.met) == (1, 0)


async def test_a_connection_ends_in_the_middle_of_a_word(echo: str) -> None:
    async with Port(echo) as port:
        port.cut_after(8)
        assert await said_again(port, b"hello") == b"hel"
        assert port.met == 1
        port.restore()
        assert await said_again(port, b"hello") == b"hello"


async def test_whatever_is_said_comes_later(echo: str) -> None:
    async with Port(echo) as port:
        port.delay(0.1)
        since = time.monotonic()
        assert await said_again(port, b"hello") == b"hello"
        assert time.monotonic() - since >= 0.2
        assert port.met == 2


async def test_nobody_is_let_in_and_that_counts(echo: str) -> None:
    async with Port(echo) as port:
        await port.refuse()
        assert await said_again(port, b"hello") == b""
        assert port.met == 1


async def test_where_nobody_listens_a_connection_ends(echo: str) -> None:
    async with Port("127.0.0.1:1") as port:
        assert await said_again(port, b"hello") == b""
