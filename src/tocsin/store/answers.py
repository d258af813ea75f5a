"""Answers that are given again when the same request comes again under the same key."""

from dataclasses import dataclass
from typing import Any

import msgspec

from tocsin.clock import Clock
from tocsin.store.database import Database


@dataclass(frozen=True, slots=True)
class Former:
    """What stands under a key. status: None while the first request is still being answered."""

    fingerprint: bytes
    status: int | None
    headers: dict[str, str]
    body: bytes


class Answers:
    """actor: whose keys they are; two callers may use the same ones."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, actor: str, key: str, fingerprint: bytes) -> Former | None:
        """None: the request is ours to answer; else what stands under its key."""
        row = await self._look(actor, key, fingerprint)
        if not row["ours"] and row["fingerprint"] is None:
            # A request of the same key was committed after our snapshot: the second look sees it.
            row = await self._look(actor, key, fingerprint)
        if row["ours"]:
            return None
        headers = msgspec.json.decode(row["headers"], type=dict[str, str]) if row["headers"] else {}
        return Former(row["fingerprint"] or fingerprint, row["status"], headers, row["body"] or b"")

    async def keep(self, actor: str, key: str, *, status: int, headers: dict[str, str], body: bytes) -> None:
        """It is given again for a day."""
        text = msgspec.json.encode(headers).decode()
        await self._database.fetch("keep_answer", actor=actor, key=key, status=status, headers=text, body=body)

    async def drop(self, actor: str, key: str) -> None:
        """Nothing was done: the key is free."""
        await self._database.fetch("drop_answer", actor=actor, key=key)

    async def _look(self, actor: str, key: str, fingerprint: bytes) -> dict[str, Any]:
        row = await self._database.fetchrow(
            "begin_answer", now=self._clock.now(), actor=actor, key=key, fingerprint=fingerprint
        )
        assert row is not None  # the left side of its join always has one row
        return dict(row)
