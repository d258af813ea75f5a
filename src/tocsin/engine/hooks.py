"""Webhooks: who may call which trigger, as one replica knows it, and calls that have become events.

Reads: the triggers with a hook, when somebody calls and what is known of them is older than a second; with them comes
the database's instant, by which timestamps are judged. Writes: through ``Intake``. Secrets are read from the
environment at each call and kept nowhere.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from uuid_utils.compat import uuid7

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput, Busy, Conflict, StoreError
from tocsin.domain.event import HOOKS, MAX_BODY_KEPT, Event, Received
from tocsin.domain.hook import Hook, Scheme
from tocsin.domain.signature import Verified, refuse_unknown, verify
from tocsin.engine.intake import Intake
from tocsin.store.hooks import HookRow, HookRows
from tocsin.telemetry import Log

FRESH: Final = 0.8
"""Seconds for which what was read is believed: an edit, a secret's exchange, a deletion count within one."""

FRESH_FOR_STRANGERS: Final = 0.1
"""The same of a name that is not known; so that a flood of those costs the database ten questions a second."""

READ_WITHIN: Final = 5.0

TYPE: Final = "webhook"
"""Of a call that does not say what it is."""

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that its hook lets in. verified: what is known of it."""

    name: str
    hook: Hook
    verified: Verified


@dataclass(frozen=True, slots=True)
class _Known:
    hook: Hook
    is_broken: bool


class Hooks:
    """secret_of: the environment's variables."""

    def __init__(
        self,
        *,
        rows: HookRows,
        intake: Intake,
        clock: Clock,
        log: Log,
        secret_of: Callable[[str], str | None] = os.environ.get,
    ) -> None:
        self._rows = rows
        self._intake = intake
        self._clock = clock
        self._log = log
        self._secret_of = secret_of
        self._known: dict[str, _Known] = {}
        self._read_at: float | None = None
        self._now: datetime | None = None
        self._gate = asyncio.Lock()
        self._told: set[tuple[str, str]] = set()

    async def admit(self, name: str, headers: Headers, body: bytes) -> Call:
        """The call is its sender's. headers: by their names in lower case.

        Raises: Unverified, alike for a hook that is not there; Conflict, for one whose trigger is quarantined;
        StoreError, Busy, when that cannot be known.
        """
        await self._refresh(FRESH)
        if name not in self._known:
            await self._refresh(FRESH_FOR_STRANGERS)
        known = self._known.get(name)
        keys = self._keys(name, known.hook) if known is not None else []
        if known is None:
            refuse_unknown(body, why="no trigger of that name has a hook")
        if known.hook.is_verified and not keys:
            refuse_unknown(body, why="the hub has no secret for this hook: see hook.secretless in its log")
        verified = verify(known.hook, keys, headers, body, now=self._instant())
        if known.is_broken:
            raise Conflict(f"trigger {name!r} is quarantined, so that a call would come to nothing")
        return Call(name, known.hook, verified)

    async def take(self, call: Call, *, data: Any, body: bytes, media: str) -> dict[str, Any]:
        """The call is an event, and committed: what ``Emitting.emit`` says of it. data: what its body says.

        Raises: BadInput, PayloadTooLarge; Busy; StoreError.
        """
        verified = call.verified
        event = Event(
            id=verified.id or str(uuid7()),
            source=f"{HOOKS}{call.name}",
            type=verified.kind or _kind_of(call.hook, data) or TYPE,
            data=data,
            received=Received(body[:MAX_BODY_KEPT], len(body), media, verified.digest),
        )
        return await self._intake.take(event, event.measure())

    async def look(self) -> None:
        """What is amiss with hooks is in the log, as a hub begins; where that cannot be known, at their first call."""
        try:
            await self._refresh(FRESH)
        except (StoreError, Busy):
            return
        for name, known in self._known.items():
            self._keys(name, known.hook)

    def _keys(self, name: str, hook: Hook) -> list[bytes]:
        """Of the secrets those that are there and can be read; what is amiss is told once."""
        keys = []
        for variable in hook.secret:
            secret = self._secret_of(variable)
            try:
                if not secret:
                    raise BadInput("it is not set in the hub's environment")
                keys.append(hook.key_of(secret))
                self._told.discard((name, variable))
            except BadInput as fault:
                self._tell(name, variable, str(fault))
        return keys

    def _tell(self, name: str, variable: str, fault: str) -> None:
        if (name, variable) not in self._told:
            self._told.add((name, variable))
            self._log.error("hook.secretless", trigger=name, variable=variable, error=fault)

    def _instant(self) -> datetime:
        """The database's, as near as the last answer was: not a second."""
        assert self._now is not None  # it was read with the hooks
        assert self._read_at is not None
        return self._now + timedelta(seconds=self._clock.monotonic() - self._read_at)

    async def _refresh(self, fresh: float) -> None:
        """Raises: StoreError; Busy, when the database takes too long."""
        if self._is_fresh(fresh):
            return
        try:
            async with asyncio.timeout(READ_WITHIN), self._gate:
                if not self._is_fresh(fresh):
                    await self._read()
        except TimeoutError:
            raise Busy("the database takes too long: call again in a moment") from None

    async def _read(self) -> None:
        asked_at = self._clock.monotonic()
        now, rows = await self._rows.all()
        known = {}
        for row in rows:
            one = self._readable(row)
            if one is not None:
                known[row.name] = one
        self._known, self._read_at, self._now = known, asked_at, now
        self._told = {told for told in self._told if told[0] in known}

    def _readable(self, row: HookRow) -> _Known | None:
        try:
            hook = Hook.from_json(msgspec.json.decode(row.hook))
        except (BadInput, ValueError, TypeError, AttributeError, RecursionError) as fault:
            self._tell(row.name, "", f"its hook cannot be read: {fault}")
            return None
        if not hook.is_verified and (row.name, "none") not in self._told:
            self._told.add((row.name, "none"))
            self._log.warning("hook.unverified", trigger=row.name)
        return _Known(hook, row.broken)

    def _is_fresh(self, fresh: float) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < fresh


def _kind_of(hook: Hook, data: Any) -> str | None:
    """Standard Webhooks say what they are in their body."""
    if hook.scheme is not Scheme.STANDARD or not isinstance(data, dict):
        return None
    kind = data.get("type")
    return kind if isinstance(kind, str) and kind else None
