"""Who may ask for what: by a key, or without one from this host alone, while there is none.

Without a key, a request must really come from this host: a page in somebody's browser, a name that was pointed at
127.0.0.1, and a proxy that hands on what comes from elsewhere are told apart by their headers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from tocsin.domain.authority import OF_API, Scope, allows
from tocsin.edges.http.problems import Problem
from tocsin.edges.http.throttle import Throttle
from tocsin.engine.keys import KeyRing, Known
from tocsin.settings import is_loopback
from tocsin.telemetry import Log

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
CHALLENGE: Final = {"www-authenticate": 'Bearer realm="tocsin"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """actor: as the trail will say. digest: of the key, if there was one."""

    actor: str
    scopes: Collection[Scope]
    digest: bytes | None = None


class Gate:
    """is_local: whether only processes of this host can reach the port at all."""

    def __init__(self, *, ring: KeyRing, throttle: Throttle, is_local: bool, log: Log) -> None:
        self._ring = ring
        self._throttle = throttle
        self._is_local = is_local
        self._log = log

    async def admit(self, request: Request, wanted: Scope, *, patience: float | None = None) -> Caller:
        """Who asks. patience: seconds after which the keys that were read before will do.

        Raises: Problem; StoreError, when the keys cannot be read.
        """
        key = _bearer(request.headers.get("authorization", ""))
        if key is None:
            caller = await self._without_key(request, patience)
        else:
            caller = await self._with_key(request, key, patience)
        if not allows(caller.scopes, wanted):
            held = ", ".join(scope for scope in Scope if scope in caller.scopes)
            raise Problem(403, "forbidden", f"this needs a key of scope {wanted}; {caller.actor} has {held}")
        return caller

    async def still_admits(self, caller: Caller) -> bool:
        """Whether one who was let in would be let in again. Raises: StoreError."""
        if caller.digest is None:
            return not await self._ring.are_asked_for()
        return await self._ring.known(caller.digest) is not None

    async def _with_key(self, request: Request, key: str, patience: float | None) -> Caller:
        known = await self._ring.find(key, patience=patience)
        if known is None:
            raise self._refused(_address(request))
        await self._ring.touch(known)
        return _caller(known)

    def _refused(self, address: str) -> Problem:
        """A key that is known is never held up: nobody can lock its bearer out by failing from the same address."""
        wait = self._throttle.fail(address)
        if wait is None:
            self._log.warning("key.refused", address=address)
            headers = {"www-authenticate": 'Bearer realm="tocsin", error="invalid_token"'}
            return Problem(401, "unauthenticated", "the key is not known, was revoked, or has expired", headers=headers)
        return Problem(
            429, "throttled", "too many keys that open nothing: wait", headers={"retry-after": str(max(1, ceil(wait)))}
        )

    async def _without_key(self, request: Request, patience: float | None) -> Caller:
        if (
            await self._ring.are_asked_for(patience=patience)
            or not self._is_local
            or not is_loopback(_address(request))
        ):
            raise Problem(
                401,
                "unauthenticated",
                "a key is asked for: `tocsin key create NAME --scope …`, then Authorization: Bearer KEY, "
                "or TOCSIN_KEY for commands",
                headers=CHALLENGE,
            )
        reason = _foreign(request.headers)
        if reason is not None:
            raise Problem(403, "forbidden", f"without a key only this host may ask, and {reason}")
        return Caller(f"http:{_address(request)}", frozenset(OF_API))


def _caller(known: Known) -> Caller:
    return Caller(f"key:{known.name}", known.scopes, known.digest)


def _bearer(authorization: str) -> str | None:
    """The key; None where there is none. Raises: Problem, for another scheme."""
    scheme, _, key = authorization.partition(" ")
    if not authorization.strip():
        return None
    if scheme.lower() != "bearer" or not key.strip():
        raise Problem(401, "unauthenticated", "write Authorization: Bearer KEY", headers=CHALLENGE)
    return key.strip()


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _foreign(headers: Mapping[str, str]) -> str | None:
    """Why the request comes from elsewhere, in spite of its address."""
    forwarded = next((name for name in FORWARDED if name in headers), None)
    if forwarded is not None:
        return f"this came through a proxy ({forwarded})"
    host = headers.get("host", "")
    if not is_loopback(urlsplit(f"//{host}").hostname or "" if _is_host(host) else ""):
        return "this was sent to another host's name"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "this was sent by a page from elsewhere"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "this was sent by a page from elsewhere"
    return None


def _is_host(host: str) -> bool:
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return False
    return "@" not in host and "/" not in host
