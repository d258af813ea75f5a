"""Where a hub is and what is shown to it: checked before anything is sent, and told to nobody else."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.sdk.client.fake import FakeHub, answer
from tocsin.domain.errors import BadInput, HubUnavailable, InvalidSetting
from tocsin.sdk.client import Client

pytestmark = pytest.mark.anyio

KEY = "tocsin_abcdef"
NOW = b'{"now": "2026-03-01T00:00:00Z"}'


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "https://",
        "http://hub.example:port",
        "http://[::1",
        "https://user:word@hub.example",
        "https://hub.example/?key=1",
        "https://hub.example/#here",
        "https://hub\n.example",
    ],
)
def test_what_is_no_url_is_refused_and_the_setting_is_named(url: str) -> None:
    with pytest.raises(BadInput, match="TOCSIN_URL") as refused:
        Client(url)
    assert "word" not in str(refused.value)


def test_without_an_url_the_setting_is_named() -> None:
    with pytest.raises(BadInput, match="set TOCSIN_URL"):
        Client()


@pytest.mark.parametrize("url", ["http://hub.example:8620", "http://10.0.0.7", "http://127.0.0.1.example"])
def test_a_key_goes_over_no_network_in_plain_text(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="TOCSIN_HTTP_INSECURE") as refused:
        Client(url, key=KEY)
    assert KEY not in str(refused.value)
    assert Client(url).address.key is None
    monkeypatch.setenv("TOCSIN_HTTP_INSECURE", "1")
    assert Client(url, key=KEY).address.key == KEY


@pytest.mark.parametrize(
    "url", ["https://hub.example", "http://127.0.0.1:8620", "http://localhost:8620/", "http://[::1]:8620"]
)
def test_a_key_goes_to_this_host_and_wherever_it_is_encrypted(url: str) -> None:
    client = Client(url, key=KEY)
    assert client.address.url == url.rstrip("/")
    assert KEY not in repr(client.address)


def test_url_and_key_come_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOCSIN_URL", "https://hub.example/tocsin/")
    monkeypatch.setenv("TOCSIN_KEY", KEY)
    assert (Client().address.url, Client().address.key) == ("https://hub.example/tocsin", KEY)
    (tmp_path / "key").write_text(f"{KEY}2\n")
    monkeypatch.setenv("TOCSIN_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(InvalidSetting, match="exclude each other"):
        Client()
    monkeypatch.delenv("TOCSIN_KEY")
    assert Client().address.key == f"{KEY}2"
    assert Client(key="other").address.key == "other"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\n", b"\xff\xfe", None])
def test_a_file_without_a_key_is_named_and_its_content_is_not(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("TOCSIN_KEY_FILE", str(path))
    with pytest.raises(BadInput, match="TOCSIN_KEY_FILE") as refused:
        Client("https://hub.example")
    assert "two words" not in str(refused.value)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def encrypted(authority: trustme.CA) -> AsyncIterator[FakeHub]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with FakeHub(*[[answer(NOW)]] * 3, tls=context) as hub:
        yield hub


async def test_an_authority_of_ones_own_is_trusted_where_it_is_named(
    authority: trustme.CA, encrypted: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    for name in ("TOCSIN_CA", "SSL_CERT_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(pem))
            async with Client(encrypted.url, key=KEY) as client:
                assert (await client.now()).year == 2026
    assert [head["authorization"] for head in encrypted.heads] == [f"Bearer {KEY}"] * 2


async def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(encrypted: FakeHub) -> None:
    async with Client(encrypted.url, key=KEY, timeout=3600) as client:
        with pytest.raises(HubUnavailable, match=r"(?i)certificate verify failed"):
            await client.now()
    assert encrypted.heads == []


async def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"TOCSIN_CA=.*nothing\.pem"):
        await Client("https://hub.example", ca=tmp_path / "nothing.pem").__aenter__()


async def test_what_speaks_to_this_host_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with FakeHub([answer(NOW)]) as hub, Client(hub.url) as client:
        found: Any = await client.now()
        assert found.year == 2026
