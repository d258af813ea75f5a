"""Events that are told: written, matched and fired in one transaction, so that an answer means all of it stands.

If the process dies before the commit, nothing has happened and the event may be told again; after it, it is known and
telling it again gives nothing. Where matching takes too long, the events are written first and matched by whichever
replica takes them up.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tocsin.clock import Clock
from tocsin.domain.errors import Contended, StatementRefused
from tocsin.domain.event import Event
from tocsin.engine.hearing import Hearing
from tocsin.engine.matching import Key, Matching, Outcome
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.database import Database
from tocsin.store.events import Events
from tocsin.telemetry import Log

CHUNK: Final = 200
"""Events in one transaction."""

CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Of their data, beyond which no further one is added to it."""

MOST_TRIES: Final = 5


class _Overrun(Exception):
    """The events of one transaction could not be matched in time."""


class Emitting:
    def __init__(
        self,
        *,
        database: Database,
        events: Events,
        hearing: Hearing,
        clock: Clock,
        log: Log,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._database = database
        self._events = events
        self._matching = Matching(events=events, hearing=hearing, clock=clock, log=log, observer=observer)

    async def emit(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Of each event, in their order: ``source``, ``id``, whether it is ``accepted`` or was known, its ``runs``,
        and of each of these the name of its trigger in ``triggers``.

        Written in parts, each whole or not at all; telling the same again writes what is missing.

        Raises: BadInput; PayloadTooLarge; nothing is written then.
        """
        sizes = [event.check() for event in events]
        answers: list[dict[str, Any]] = []
        for chunk in _chunks(events, sizes):
            answers += await self.write(chunk)
        return answers

    async def write(self, chunk: Sequence[Event]) -> list[dict[str, Any]]:
        """The same, in one transaction, of events that were checked."""
        single: dict[Key, Event] = {}
        for event in chunk:
            single.setdefault((event.source, event.id), event)
        fresh, outcome = await self._written(list(single.values()))
        self._matching.tell(outcome)
        answers = []
        for event in chunk:
            key = (event.source, event.id)
            is_new = fresh.pop(key, None) is not None  # the same one twice is known the second time
            answers.append(
                {
                    "source": event.source,
                    "id": event.id,
                    "accepted": is_new,
                    "runs": outcome.runs.get(key, []) if is_new else [],
                    "triggers": outcome.triggers.get(key, []) if is_new else [],
                }
            )
        return answers

    async def _written(self, events: list[Event]) -> tuple[dict[Key, int], Outcome]:
        careful = False
        for tried in range(MOST_TRIES):
            try:
                return await self._matched(events, careful=careful)
            except Contended:
                if tried == MOST_TRIES - 1:
                    raise
            except StatementRefused:
                if careful:
                    raise
                careful = True
            except _Overrun:
                break
        async with self._database.transaction() as session:
            fresh, _, _ = await self._events.insert(session, events, matched=False)
        return fresh, Outcome()

    async def _matched(self, events: list[Event], *, careful: bool) -> tuple[dict[Key, int], Outcome]:
        async with self._database.transaction() as session:
            fresh, version, now = await self._events.insert(session, events, matched=True)
            news = {fresh[event.source, event.id]: event for event in events if (event.source, event.id) in fresh}
            if not news:
                return fresh, Outcome()
            outcome = await self._matching.match(session, news, version, now, careful=careful)
            if outcome.done < len(news):
                raise _Overrun
            return fresh, outcome


def _chunks(events: Sequence[Event], sizes: Sequence[int]) -> Iterator[list[Event]]:
    chunk: list[Event] = []
    total = 0
    for event, size in zip(events, sizes, strict=True):
        if chunk and (len(chunk) == CHUNK or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(event)
        total += size
    if chunk:
        yield chunk
