"""Processes that run agents elsewhere, as they stand, and the keys that let them in."""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from tocsin.clock import Clock
from tocsin.domain.agent import check_name
from tocsin.domain.errors import BadInput, NotFound
from tocsin.domain.instance import Patience, state_of
from tocsin.store.database import Database
from tocsin.store.instances import InstanceRows

PREFIX: Final = "tocsin_"
ANY: Final = "*"
"""Among a key's agents: all of them."""


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """A random key of that length cannot be found by trying, so that a plain hash gives nothing away."""
    return sha256(key.encode()).digest()


class Roster:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._rows = InstanceRows(database=database, clock=clock)

    async def instances(self, *, limit: int, everything: bool = False) -> list[dict[str, Any]]:
        """Newest first; ``everything`` includes those that have left or were lost."""
        return [instance_view(row) for row in await self._rows.page(limit=limit, everything=everything)]

    async def instance(self, name: str) -> dict[str, Any]:
        """By id or name; of several of one name the newest. Raises: NotFound."""
        rows = await self._rows.page(limit=1, everything=True, name=name)
        if not rows:
            raise NotFound("instance", name)
        return instance_view(rows[0])

    async def create_key(self, name: str, agents: Sequence[str]) -> str:
        """The key, which is told here and never again. agents: names, or ``*``.

        Raises: BadInput; Conflict, when there is one of that name.
        """
        check_name("key", name)
        if not agents:
            raise BadInput(f"key {name!r}: name the agents that it is for, or {ANY!r} for all")
        for agent in agents:
            check_name("agent", agent)
        key = new_key()
        await self._rows.create_key(name, digest_of(key), sorted(set(agents)))
        return key

    async def keys(self) -> list[dict[str, Any]]:
        return await self._rows.keys()

    async def revoke_key(self, name: str) -> None:
        """The key lets nobody in any more, and the streams that it has let in end. Raises: NotFound."""
        if not await self._rows.revoke_key(name):
            raise NotFound("key", name)


def instance_view(row: dict[str, Any]) -> dict[str, Any]:
    """An instance with its state, what it runs, and why it is suspected, if it is."""
    state, why = state_of(
        now=row["now"],
        heard_at=row["heard_at"],
        expires_at=row["expires_at"],
        end_reason=row["end_reason"],
        connected=row["replica"] is not None,
        draining=row["draining"],
        stalled=row["stalled_at"] is not None,
        patience=Patience(row["suspect_after"], row["dead_after"]),
    )
    shown = ("id", "name", "version", "agents", "slots", "key", "replica", "started_at", "connected_at",
             "disconnected_at", "heard_at", "stalled_at", "culprit", "ended_at")  # fmt: skip
    return {
        **{name: row[name] for name in shown},
        "state": state.value,
        "why": why,
        "labels": msgspec.json.decode(row["labels"]),
        "running": msgspec.json.decode(row["running"]),
    }
