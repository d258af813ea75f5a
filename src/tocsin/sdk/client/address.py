"""Where a hub's API is, and what is shown to it: checked before anything is sent."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from tocsin.domain.errors import BadInput
from tocsin.settings import Settings, is_loopback

SETTING: Final = "TOCSIN_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """url: without a slash at its end. ca: file with the authority (PEM) that is trusted; None for the system's."""

    url: str
    key: str | None = field(default=None, repr=False)
    ca: Path | None = None

    @property
    def is_local(self) -> bool:
        return is_loopback(urlsplit(self.url).hostname or "")

    def http(self) -> httpx2.AsyncClient:
        """Connections to it; nothing is sent yet. What speaks to this host goes through no proxy.

        Raises: BadInput, for an authority that cannot be read.
        """
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        return httpx2.AsyncClient(headers=headers, verify=self._trusted(), trust_env=not self.is_local)

    def _trusted(self) -> ssl.SSLContext | bool:
        if not self.url.startswith("https:"):
            return True
        if self.ca is None:
            return httpx2.create_ssl_context()
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise BadInput(f"TOCSIN_CA={self.ca}: {error.strerror or error}") from None


def address_of(
    settings: Settings, url: str | None = None, *, key: str | None = None, ca: Path | None = None
) -> Address:
    """The address that is given, and for what is left out the settings' own.

    Raises: BadInput, also where a key would go over a network in plain text.
    """
    wanted = url if url is not None else settings.url
    if wanted is None:
        raise BadInput(f"no hub is named: give its URL, or set {SETTING}, such as http://127.0.0.1:8620")
    found = Address(url=_checked(wanted), key=_key(settings) if key is None else _fit(key), ca=ca or settings.ca)
    if found.key is not None and found.url.startswith("http:") and not found.is_local and not settings.http_insecure:
        raise BadInput(
            f"{SETTING} {found.url}: the key would go there in plain text: take https, or set TOCSIN_HTTP_INSECURE=1 "
            "on a network that nobody listens to"
        )
    return found


def _checked(url: str) -> str:
    """Raises: BadInput."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"{SETTING} {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable():
        raise BadInput(f"{SETTING} {url!r}: must be a URL such as https://hub.example:8620")
    if parts.username is not None or parts.query or parts.fragment:
        raise BadInput(f"{SETTING}: must be a plain URL such as https://hub.example:8620; a key goes into TOCSIN_KEY")
    return url.strip().rstrip("/")


def _key(settings: Settings) -> str | None:
    """Raises: BadInput, for a file that cannot be read."""
    if settings.key_file is None:
        return None if settings.key is None else _fit(settings.key)
    try:
        return _fit(settings.key_file.read_text(encoding="ascii"), "TOCSIN_KEY_FILE")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise BadInput(f"TOCSIN_KEY_FILE={settings.key_file}: {reason}") from None


def _fit(key: str, name: str = "TOCSIN_KEY") -> str:
    """The key as a header may have it. Raises: BadInput, which does not repeat it."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput(f"{name}: holds no key; one is letters and digits, as `tocsin key create` told it")
    return key
