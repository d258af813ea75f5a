"""Triggers that are added, edited, deleted, paused and resumed by hand, one at a time.

Each is one transaction, which holds the trigger's row from before it is judged. If the process dies before the commit,
nothing has happened; after it, every replica is told to look, and finds it at its next look if that is lost.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final, TypeAlias

from uuid_utils.compat import uuid7

from tocsin.domain.errors import BadInput, Conflict, NotFound, Stale
from tocsin.domain.payload import check_instant, encode
from tocsin.domain.run import SkipReason
from tocsin.domain.trigger import CatchUp, TriggerSpec
from tocsin.engine import declaring, resting
from tocsin.store.database import Database, Session
from tocsin.store.trigger_rows import TriggerRow
from tocsin.store.triggers import Triggers

MAX_REASON: Final = 200
"""Characters of why a trigger rests."""

ADDED_BY_HAND: Final = "by hand"
CALLED_BY_ITSELF: Final = ("armed", "waiting", "listening")

Versions: TypeAlias = int | Collection[int] | None
"""Which versions a change is meant for; None: any."""


class Editing:
    def __init__(self, *, database: Database, triggers: Triggers) -> None:
        self._database = database
        self._triggers = triggers

    async def add(self, spec: TriggerSpec) -> None:
        """Raises: Conflict, if the name is taken; NotFound, for an agent nobody declared; BadInput."""
        encode(spec.input, what="input")
        await self._check_agent(spec.agent)
        async with self._database.transaction() as session:
            if await self._triggers.lock(session, spec.name) is not None:
                raise Conflict(
                    f"trigger {spec.name!r} exists already; change it with `tocsin trigger edit {spec.name}`"
                )
            now = await self._triggers.now(session)
            new = declaring.first_cursor(uuid7(), spec, now)
            await self._triggers.insert(session, [new], source=ADDED_BY_HAND)
            await self._triggers.hint(session)

    async def edit(
        self, name: str, change: Callable[[TriggerSpec], TriggerSpec], *, if_version: Versions = None
    ) -> None:
        """Raises: NotFound, also for an agent nobody declared; Stale; BadInput."""
        async with self._database.transaction() as session:
            row = await self._locked(session, name)
            _check_version(row, if_version)
            spec = change(resting.readable(row))
            if spec.name != name:
                raise BadInput(f"trigger {name!r} cannot be renamed: add {spec.name!r} and delete this one")
            encode(spec.input, what="input")
            if spec.agent != row.agent:
                await self._check_agent(spec.agent)
            changed = await declaring.changed_cursor(session, self._triggers, row, spec)
            await self._triggers.change(session, [changed], source=row.source)
            await self._triggers.hint(session)

    async def delete(self, name: str, *, if_version: Versions = None) -> int:
        """How many queued runs were withdrawn.

        Raises: NotFound; Stale.
        """
        async with self._database.transaction() as session:
            row = await self._locked(session, name)
            _check_version(row, if_version)
            await declaring.withdraw_due(session, self._triggers, row)
            withdrawn = await self._triggers.withdraw(
                session, row.id, reason=SkipReason.WITHDRAWN.value, kinds=declaring.ALL_KINDS
            )
            await self._triggers.delete(session, row.id)
        return withdrawn

    async def pause(self, name: str, reason: str, until: datetime | None) -> None:
        """Raises: NotFound; BadInput; Conflict, for an end where nothing but a hand calls the trigger."""
        if not reason.strip() or not reason.isprintable() or len(reason) > MAX_REASON:
            raise BadInput(f"reason {reason[:40]!r}: must be 1 to {MAX_REASON} characters on one line")
        if until is not None:
            check_instant(until, what="until")
        async with self._database.transaction() as session:
            row = await self._locked(session, name)
            if until is not None and until <= row.now:
                raise BadInput(f"until {until.isoformat()}: must be in the future")
            if until is not None and row.status not in CALLED_BY_ITSELF:
                raise Conflict(f"trigger {name!r} is {row.status}: it has no instant to come, so its pause has no end")
            await resting.pause(session, self._triggers, row, reason, until=until)
            await self._triggers.hint(session)

    async def resume(self, name: str, *, catch_up: CatchUp | None, reason: str | None) -> None:
        """Raises: NotFound; Conflict, when it does not rest for that reason; BadInput."""
        if catch_up is CatchUp.ALL:
            raise BadInput("catch_up 'all' is a backfill: use `tocsin trigger backfill`")
        async with self._database.transaction() as session:
            row = await self._locked(session, name)
            if not row.paused or (reason is not None and reason not in row.paused):
                raise Conflict(f"trigger {name!r} is not paused" + (f" for {reason!r}" if reason else ""))
            await resting.resume(session, self._triggers, row, reason=reason, catch_up=catch_up)
            await self._triggers.hint(session)

    async def _locked(self, session: Session, name: str) -> TriggerRow:
        row = await self._triggers.lock(session, name)
        if row is None:
            raise NotFound("trigger", name)
        return row

    async def _check_agent(self, name: str) -> None:
        if not await self._triggers.agents(limit=1, name=name):
            raise NotFound("agent", name)


def _check_version(row: TriggerRow, wanted: Versions) -> None:
    """Raises: Stale."""
    if wanted is None:
        return
    versions = (wanted,) if isinstance(wanted, int) else tuple(wanted)
    if row.version not in versions:
        raise Stale("trigger", row.name, version=row.version, asked=" or ".join(map(str, versions)) or "any known here")
