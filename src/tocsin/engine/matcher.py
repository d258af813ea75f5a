"""Takes up events that were written but not matched: told from SQL, by the end of a run, or in too much of a hurry.

Reads: events that wait, oldest first, locked and skipping what a peer has locked. Writes, in the same transaction: what
they call for, and that they are done with. If the process dies before the commit, nothing has happened, the locks are
gone and any replica takes them up; after it, all has. A hint says when there are any, and so does every look.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from tocsin.clock import Clock
from tocsin.domain.errors import StatementRefused
from tocsin.engine.hearing import Hearing
from tocsin.engine.matching import Matching, Outcome
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.database import Database
from tocsin.store.events import Events, Taken
from tocsin.telemetry import Log

BATCH: Final = 50
"""Events in one transaction; each may have a million bytes."""


class Matcher:
    """begins: told when what was written is to be begun."""

    name = "matcher"

    def __init__(
        self,
        *,
        database: Database,
        events: Events,
        hearing: Hearing,
        clock: Clock,
        log: Log,
        begins: Callable[[Sequence[datetime]], None] = lambda _: None,
        batch: int = BATCH,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._database = database
        self._events = events
        self._matching = Matching(events=events, hearing=hearing, clock=clock, log=log, observer=observer)
        self._log = log
        self._begins = begins
        self._batch = batch

    def rest(self) -> float | None:
        """Until it is woken."""
        return None

    async def run_once(self) -> bool:
        try:
            return await self._step(self._batch)
        except StatementRefused:
            # What one event or trigger calls for poisons the whole batch: one by one, each meets only itself.
            return await self._one_by_one()

    async def _step(self, batch: int, *, careful: bool = False) -> bool:
        async with self._database.transaction() as session:
            found = await self._events.take(session, batch=batch)
            if found.now is None:
                return False
            readable = {taken.seq: taken.event for taken in found.taken if taken.event is not None}
            outcome = Outcome()
            if readable:
                outcome = await self._matching.match(session, readable, found.version, found.now, careful=careful)
            done = _done(found.taken, outcome.done)
            await self._events.mark(session, done)
        self._tell(done, outcome)
        return len(found.taken) == batch or len(done) < len(found.taken)

    async def _one_by_one(self) -> bool:
        for _ in range(self._batch):
            try:
                if not await self._step(1, careful=True):
                    return False
            except StatementRefused as error:
                await self._give_up(str(error))
        return True

    async def _give_up(self, reason: str) -> None:
        """The oldest event that waits is done with: nothing that it calls for can be written."""
        async with self._database.transaction() as session:
            found = await self._events.take(session, batch=1)
            done = [Taken(taken.seq, taken.source, taken.id, None, reason[:1_000]) for taken in found.taken]
            await self._events.mark(session, done)
        self._tell(done, Outcome())

    def _tell(self, done: Sequence[Taken], outcome: Outcome) -> None:
        for taken in done:
            if taken.fault is not None:
                self._log.warning("event.unreadable", source=taken.source, id=taken.id, error=taken.fault)
        self._matching.tell(outcome)
        if outcome.begins_at:
            self._begins(outcome.begins_at)


def _done(taken: Sequence[Taken], matched: int) -> list[Taken]:
    """Those up to the last that was matched, and what nobody can read."""
    done = []
    for one in taken:
        if one.event is not None:
            if matched == 0:
                continue
            matched -= 1
        done.append(one)
    return done
