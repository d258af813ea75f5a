"""Whether a webhook's call is its sender's: by a signature over its raw bytes, before anything of them is read.

Source: Standard Webhooks 1.0, https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md;
GitHub, "Validating webhook deliveries"; RFC 2104.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NoReturn

from tocsin.domain.errors import Unverified
from tocsin.domain.event import MAX_ID
from tocsin.domain.hook import SVIX, Encoding, Hook, Scheme

MOST_SIGNATURES: Final = 10
"""In one header: a sender that exchanges its secret signs with both."""

NOT_ITS_OWN: Final = "there is no such hook, or the call is not signed as its hook asks"
"""Told of a hook that is not there, too, so that nobody learns which there are."""

_DECOY: Final = (b"no hook of that name has this key",)


@dataclass(frozen=True, slots=True)
class Verified:
    """A call that its sender has signed. id: by which it is taken once; None where it has none and is not verified.

    kind: the event's type, where a header says it. digest: of what was signed, where that does not cover the id.
    """

    id: str | None
    kind: str | None
    digest: bytes | None


def verify(hook: Hook, keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now: datetime) -> Verified:
    """The call is its sender's, and of this moment. headers: by their names in lower case.

    Raises: Unverified.
    """
    if hook.scheme is Scheme.STANDARD and hook.id_header not in headers and SVIX.id_header in headers:
        hook = replace(SVIX, tolerance=hook.tolerance)
    given, kind = _said(headers, hook.id_header), _said(headers, hook.type_header)
    if not hook.is_verified:
        _check_texts(hook, given, kind)
        return Verified(given, kind, None)
    timestamp = _said(headers, hook.timestamp_header) or ""
    content = hook.content(id=given or "", timestamp=timestamp, body=body)
    is_whole = (given is not None or not hook.is_id_signed) and (bool(timestamp) or hook.timestamp_header is None)
    # Both are asked, so that what is missing takes as long as what is wrong.
    signatures = _signatures(hook, headers)
    if not _matches(keys, content, signatures) or not is_whole:
        raise Unverified(NOT_ITS_OWN, why=_why(hook, headers, is_readable=bool(signatures)))
    _check_texts(hook, given, kind)
    if hook.timestamp_header is not None:
        _check_moment(timestamp, now, hook)
    if given is not None and hook.is_id_signed:
        return Verified(given, kind, None)
    digest = sha256(content).digest()
    return Verified(given or f"sha256:{digest.hex()}", kind, digest)


def refuse_unknown(body: bytes, *, why: str) -> NoReturn:
    """It takes as long as a call that is signed wrongly.

    Raises: Unverified, always.
    """
    _matches(_DECOY, body, [b"\0" * 32])
    raise Unverified(NOT_ITS_OWN, why=why)


def _why(hook: Hook, headers: Mapping[str, str], *, is_readable: bool) -> str:
    """What is wrong with the call, in words that are the hook's own and never the call's."""
    wanted = [hook.header, hook.timestamp_header, hook.id_header if hook.is_id_signed else None]
    missing = [name for name in wanted if name is not None and not headers.get(name)]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    if not is_readable:
        return f"its {hook.header} is not of the form {hook.prefix}{hook.encoding.upper()}"
    return f"its {hook.header} fits no secret that the hub has for this hook"


def _said(headers: Mapping[str, str], name: str | None) -> str | None:
    """A header's value; one that is empty is none."""
    return (headers.get(name) if name is not None else None) or None


def _check_texts(hook: Hook, given: str | None, kind: str | None) -> None:
    """The id and the type can stand in an event. Raises: Unverified."""
    for name, value in ((hook.id_header, given), (hook.type_header, kind)):
        if value is not None and not (value.isprintable() and value.isascii() and len(value) <= MAX_ID):
            raise Unverified(f"{name}: must be at most {MAX_ID} printable ASCII characters")


def _matches(keys: Sequence[bytes], content: bytes, signatures: Sequence[bytes]) -> bool:
    """Every key is tried with every signature, whichever fits."""
    found = False
    for key in keys:
        expected = hmac.digest(key, content, "sha256")
        for signature in signatures:
            found |= hmac.compare_digest(expected, signature)
    return found


def _signatures(hook: Hook, headers: Mapping[str, str]) -> list[bytes]:
    """Those of its header that have the prefix and can be read. Several stand apart by blanks."""
    found = []
    for text in headers.get(hook.header or "", "").split()[:MOST_SIGNATURES]:
        if text.startswith(hook.prefix):
            try:
                found.append(_decoded(hook.encoding, text.removeprefix(hook.prefix)))
            except (binascii.Error, ValueError):
                continue
    return found


def _decoded(encoding: Encoding, text: str) -> bytes:
    return bytes.fromhex(text) if encoding is Encoding.HEX else base64.b64decode(text, validate=True)


def _check_moment(timestamp: str, now: datetime, hook: Hook) -> None:
    """Raises: Unverified, once the signature is known to be right."""
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 11:
        raise Unverified("its timestamp must be a number of seconds since 1970")
    off = (now - datetime.fromtimestamp(int(timestamp), UTC)).total_seconds()
    if abs(off) > hook.tolerance.total_seconds():
        raise Unverified(
            f"its timestamp is {abs(off):,.0f} s {'old' if off > 0 else 'ahead'}, "
            f"and at most {hook.tolerance.total_seconds():g} s are tolerated"
        )
