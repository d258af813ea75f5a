"""Keys: made, shown once, revoked; and a replica's view of them, which is never older than a second."""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

from tocsin.clock import Clock
from tocsin.domain.agent import check_name
from tocsin.domain.authority import OF_API, Scope
from tocsin.domain.errors import BadInput, NotFound, StoreError
from tocsin.domain.payload import check_instant
from tocsin.store.database import Database
from tocsin.store.keys import KeyRows

PREFIX: Final = "tocsin_"
ANY: Final = "*"
"""Among a key's agents: all of them."""

FRESH: Final = 0.8
"""Seconds for which what was read of the keys is believed: a revocation is to count within one."""

TOUCH_EVERY: Final = 60.0


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """A random key of that length cannot be found by trying, so that a plain hash gives nothing away."""
    return sha256(key.encode(errors="replace")).digest()


class Keys:
    """actor: who makes them."""

    def __init__(self, *, database: Database, clock: Clock, actor: str) -> None:
        self._rows = KeyRows(database=database, clock=clock)
        self._actor = actor

    async def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = (),
        agents: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> dict[str, Any]:
        """The key's row, and ``key``: the key itself, which is told here and never again.

        agents: of a process that runs agents, their names, or ``*``; naming some asks for the scope ``agent``.

        Raises: BadInput; Conflict, when there is one of that name.
        """
        check_name("key", name)
        wanted = _scopes(name, scopes, agents)
        if (Scope.AGENT in wanted) != bool(agents):
            raise BadInput(
                f"key {name!r}: scope agent and the agents go together: name those that it is for, or {ANY!r} for all"
            )
        for agent in agents:
            check_name("agent", agent)
        if expires_at is not None:
            check_instant(expires_at, what=f"key {name!r}: expires_at")
        if expires_at is not None and expires_at <= await self._now():
            raise BadInput(f"key {name!r}: it would have expired already, at {expires_at.isoformat()}")
        key = new_key()
        row = await self._rows.create(
            name,
            digest_of(key),
            scopes=[scope.value for scope in Scope if scope in wanted],
            agents=sorted(set(agents)),
            expires_at=expires_at,
            actor=self._actor,
        )
        return row | {"state": "valid", "key": key}

    async def all(self) -> list[dict[str, Any]]:
        """By name, with their state: valid, expired or revoked."""
        return [_view(row) for row in await self._rows.all()]

    async def revoke(self, name: str) -> None:
        """The key opens nothing any more, within a second on every replica, and the streams that it has let in end.

        Raises: NotFound.
        """
        if not await self._rows.revoke(name, actor=self._actor):
            raise NotFound("key", name)

    async def are_asked_for(self) -> bool:
        """Whether there is a key of the API."""
        return bool(await self._rows.of_api())

    async def _now(self) -> datetime:
        return await self._rows.now()


@dataclass(frozen=True, slots=True)
class Known:
    """A key of the API. until: when it expires, on the monotonic clock."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    until: float | None


class KeyRing:
    """The keys of the API as one replica knows them. Read from the database when they are asked for, once a second
    at most, however many ask; so that a flood of wrong keys costs no more than a right one.
    """

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._rows = KeyRows(database=database, clock=clock)
        self._clock = clock
        self._known: dict[bytes, Known] = {}
        self._read_at: float | None = None
        self._touched: dict[str, float] = {}
        self._gate = asyncio.Lock()

    async def find(self, key: str, *, patience: float | None = None) -> Known | None:
        """The key, if it is known, was not revoked and has not expired.

        patience: seconds after which what was read before will do, where the database does not answer.

        Raises: StoreError.
        """
        return await self.known(digest_of(key), patience=patience)

    async def known(self, digest: bytes, *, patience: float | None = None) -> Known | None:
        """The same, of a key that was shown before. Raises: StoreError."""
        await self._refresh(patience)
        known = self._known.get(digest)
        # Whoever guesses cannot choose a digest, so its look-up tells nothing; the comparison is for form's sake.
        if known is None or not compare_digest(known.digest, digest):
            return None
        return known if known.until is None or self._clock.monotonic() < known.until else None

    async def are_asked_for(self, *, patience: float | None = None) -> bool:
        """Whether there is any key of the API; an expired one counts, so that its end opens nothing."""
        await self._refresh(patience)
        return bool(self._known)

    async def touch(self, known: Known) -> None:
        """Its last use is on record, to the minute. That it could not be written keeps nobody out."""
        now = self._clock.monotonic()
        if not self._is_fresh():
            return
        if now - self._touched.get(known.name, now - TOUCH_EVERY) < TOUCH_EVERY:
            return
        self._touched[known.name] = now
        try:
            await self._rows.touch(known.name)
        except StoreError:
            del self._touched[known.name]

    async def _refresh(self, patience: float | None) -> None:
        if self._is_fresh():
            return
        if patience is None or self._read_at is None:
            await self._read()
            return
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(patience):
                await self._read()

    async def _read(self) -> None:
        async with self._gate:
            if self._is_fresh():
                return
            asked_at = self._clock.monotonic()
            rows = await self._rows.of_api()
            self._known = {row["digest"]: _known(row, asked_at) for row in rows}
            self._read_at = asked_at
            names = {known.name for known in self._known.values()}
            self._touched = {name: at for name, at in self._touched.items() if name in names}

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < FRESH


def _known(row: dict[str, Any], asked_at: float) -> Known:
    left = row["lives_for"]
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    return Known(row["name"], row["digest"], scopes, None if left is None else asked_at + left.total_seconds())


def _scopes(name: str, given: Collection[str], agents: Sequence[str]) -> set[Scope]:
    """Raises: BadInput."""
    for scope in given:
        if scope not in list(Scope):
            raise BadInput(f"key {name!r}: scope {scope!r}: must be one of {', '.join(Scope)}")
    if not given and not agents:
        choices = ", ".join(OF_API)
        raise BadInput(f"key {name!r}: say what it is for: a scope ({choices}), or the agents of a process")
    return {Scope(scope) for scope in given} or {Scope.AGENT}


def _view(row: dict[str, Any]) -> dict[str, Any]:
    now = row.pop("now")
    if row["revoked_at"] is not None:
        state = "revoked"
    else:
        state = "expired" if row["expires_at"] is not None and row["expires_at"] <= now else "valid"
    return row | {"state": state}
