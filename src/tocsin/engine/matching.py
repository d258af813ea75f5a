"""Events become runs: for each event the triggers that it calls, and what each of their runs is given.

Part of its caller's transaction. Reads: what listens, if that has changed; the matched triggers, which it holds so that
no pause or edit slips in between; the windows that events fall into. Writes, in one statement: runs (unique by trigger
and event), further input of runs that wait for a window's end, accounts of what was cut off; and in another, what each
event came to. If the process dies before the commit, nothing has happened. A batch costs the same number of statements
however many events are in it.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from tocsin.clock import Clock
from tocsin.domain.errors import BadInput, Contended, StatementRefused
from tocsin.domain.event import Event
from tocsin.domain.expression import Unanswerable
from tocsin.domain.payload import encode
from tocsin.domain.run import SkipReason
from tocsin.domain.window import Arrival, Waiting, Window, gather
from tocsin.engine.hearing import Hearing, Listener
from tocsin.engine.observer import UNOBSERVED, Observer
from tocsin.store.database import Session
from tocsin.store.events import Events, MoreInput, NewRun, Noted, Written
from tocsin.telemetry import Log

BREATH: Final = 5
"""Filters asked before others on the event loop have their turn: each takes some milliseconds at the worst."""

DECIDE_WITHIN: Final = 0.75
"""Seconds given to the filters of one batch: what is left of it is taken up by the next."""

MOST_TRIES: Final = 5
"""Times that what is remembered may prove old within one transaction."""

BROKEN: Final = "broken"
"""Why an event came to no run: what it calls for was refused, and the trigger is quarantined."""

Key = tuple[str, str]
Place = tuple[UUID, str]
Mark = tuple[str, str, str | None]
Held = Mapping[UUID, tuple[int, datetime | None]]


@dataclass(frozen=True, slots=True)
class Call:
    """One event that calls one trigger. seq: the event's number; payload: JSON of what its run is given; window: the
    key of its window.
    """

    listener: Listener
    seq: int
    event: Event
    payload: bytes
    window: str

    @property
    def key(self) -> Key:
        return self.event.source, self.event.id

    @property
    def place(self) -> Place:
        return self.listener.id, self.window


@dataclass(slots=True)
class Outcome:
    """What became of a batch, of which ``done`` events were matched.

    runs: of each event, and beside them the names of their triggers; begins_at: when what was written is to be begun;
    skips: counts by (trigger, begin of the account, reason); noted: what each event came to; told: lines for the log.
    """

    done: int = 0
    runs: dict[Key, list[UUID]] = field(default_factory=dict)
    triggers: dict[Key, list[str]] = field(default_factory=dict)
    begins_at: list[datetime] = field(default_factory=list)
    skips: Counter[tuple[UUID, datetime, str]] = field(default_factory=Counter)
    noted: list[Noted] = field(default_factory=list)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def skip(self, listener: Listener, seq: int, first_at: datetime, reason: SkipReason) -> None:
        self.skips[listener.id, first_at, reason.value] += 1
        self.noted.append(Noted(seq, listener.id, None, reason.value))
        self.told.append(("trigger.skipped", {"trigger": listener.name, "reason": reason.value, "count": 1}))


@dataclass(slots=True)
class Draft:
    """What is about to be written. callers: the calls that each run stands for."""

    runs: list[NewRun] = field(default_factory=list)
    more: list[MoreInput] = field(default_factory=list)
    windows: dict[Place, Window] = field(default_factory=dict)
    callers: dict[UUID, list[Call]] = field(default_factory=dict)


class Matching:
    def __init__(
        self, *, events: Events, hearing: Hearing, clock: Clock, log: Log, observer: Observer = UNOBSERVED
    ) -> None:
        self._events = events
        self._hearing = hearing
        self._clock = clock
        self._log = log
        self._observer = observer

    async def match(
        self, session: Session, events: Mapping[int, Event], version: str, now: datetime, *, careful: bool = False
    ) -> Outcome:
        """Everything that the first ``done`` of the events call for is written.

        events: by their numbers. version: of what listens, as of these events. careful: trigger by trigger, each in a
        savepoint, after the database has refused the whole; whose part is refused is quarantined.

        Raises: StatementRefused; Contended, when triggers are changed faster than that.
        """
        outcome, calls = await self._calls(session, events, version, now)
        if careful:
            for share in _by_trigger(calls):
                await self._write_carefully(session, share, outcome, now)
        elif calls:
            await self._write(session, calls, outcome, now)
        if outcome.skips:
            await self._events.write(session, Written([], [], {}, outcome.skips))
        if outcome.noted:
            await self._events.note(session, outcome.noted)
        return outcome

    def tell(self, outcome: Outcome) -> None:
        """To be called once all is committed."""
        for event, fields in outcome.told:
            match event:
                case "event.unjudged":
                    self._log.warning("event.unjudged", **fields)
                case "trigger.broken":
                    self._observer.broken(fields["trigger"])
                    self._log.warning("trigger.broken", **fields)
                case "trigger.fired":
                    self._observer.fired(fields["trigger"])
                    self._log.info("trigger.fired", **fields)
                case _:
                    self._observer.skipped(fields["trigger"], fields["reason"], fields["count"])
                    self._log.info("trigger.skipped", **fields)

    # --- who is called

    async def _calls(
        self, session: Session, events: Mapping[int, Event], version: str, now: datetime
    ) -> tuple[Outcome, list[Call]]:
        """What is called for, by triggers that are held from here on."""
        told: list[tuple[str, dict[str, Any]]] = []
        if not self._hearing.knows(version):
            told += await self._read(session)
        for _ in range(MOST_TRIES):
            outcome = Outcome(told=list(told))
            calls = await self._ask(events, outcome, now)
            ids = sorted({call.listener.id for call in calls})
            held = await self._events.hold(session, ids) if ids else {}
            if all(call.listener.id in held and held[call.listener.id][0] == call.listener.version for call in calls):
                return outcome, [call for call in calls if not _rests(call, held, outcome)]
            told += await self._read(session)
        raise Contended("triggers were changed faster than events could be matched with them")

    async def _read(self, session: Session) -> list[tuple[str, dict[str, Any]]]:
        """What listens is known. What cannot be read is quarantined, and so read no more."""
        told: list[tuple[str, dict[str, Any]]] = []
        await self._hearing.read(session, self._events)
        for row in self._hearing.unreadable:
            if await self._events.quarantine(session, row.id, row.version, row.reason):
                told.append(("trigger.broken", {"trigger": row.name, "reason": row.reason}))
        if told:
            self._hearing.forget()
        return told

    async def _ask(self, events: Mapping[int, Event], outcome: Outcome, now: datetime) -> list[Call]:
        """The calls of as many events as can be asked about in time; at least of one."""
        calls = []
        ends_at = self._clock.monotonic() + DECIDE_WITHIN
        for seq, event in events.items():
            candidates = iter(self._hearing.candidates(event))
            while some := list(islice(candidates, BREATH)):
                calls += [call for listener in some if (call := _call(listener, seq, event, outcome, now)) is not None]
                if any(listener.rule.where is not None for listener in some):
                    await asyncio.sleep(0)
            outcome.done += 1
            if self._clock.monotonic() > ends_at:
                break
        return calls

    # --- what is written

    async def _write_carefully(self, session: Session, calls: Sequence[Call], outcome: Outcome, now: datetime) -> None:
        listener = calls[0].listener
        try:
            async with session.transaction():
                await self._write(session, calls, outcome, now)
        except StatementRefused as error:
            outcome.noted += [Noted(call.seq, listener.id, None, BROKEN) for call in calls]
            if await self._events.quarantine(session, listener.id, listener.version, str(error)):
                outcome.told.append(("trigger.broken", {"trigger": listener.name, "reason": str(error)}))

    async def _write(self, session: Session, calls: Sequence[Call], outcome: Outcome, now: datetime) -> None:
        draft = Draft()
        shares: dict[Place, list[Call]] = {}
        for call in calls:
            if call.listener.rule.is_windowed:
                shares.setdefault(call.place, []).append(call)
            else:
                _add_run(
                    draft,
                    call.event.key,
                    call.payload,
                    [call],
                    listener=call.listener,
                    at=now,
                    depth=call.event.depth + 1,
                )
        if shares:
            windows = await self._events.windows(session, sorted(shares))
            for place, window in windows.items():
                draft.windows[place] = _gathered(draft, shares[place], window, now)
        there = await self._events.write(session, Written(draft.runs, draft.more, draft.windows, {}))
        _note(draft, there, outcome)


def _call(listener: Listener, seq: int, event: Event, outcome: Outcome, now: datetime) -> Call | None:
    """The call, if it is one. What a filter has no answer for, and what goes in circles, is accounted for."""
    rule = listener.rule
    hour = now.replace(minute=0, second=0, microsecond=0)
    try:
        if not rule.matches(event):
            return None
        if event.depth >= rule.max_depth:
            outcome.skip(listener, seq, hour, SkipReason.DEPTH)
            return None
        payload = encode(rule.input_of(event), what="input")
        return Call(listener, seq, event, payload, rule.window_of(event) if rule.is_windowed else "")
    except (Unanswerable, BadInput, ValueError, ArithmeticError, RecursionError) as error:
        # The latter from numbers of thousands of digits, which no key or input can hold.
        outcome.skip(listener, seq, hour, SkipReason.FILTER)
        fields = {"trigger": listener.name, "source": event.source, "id": event.id, "error": str(error)}
        outcome.told.append(("event.unjudged", fields))
        return None


def _rests(call: Call, held: Held, outcome: Outcome) -> bool:
    paused_at = held[call.listener.id][1]
    if paused_at is not None:
        outcome.skip(call.listener, call.seq, paused_at, SkipReason.PAUSED)
    return paused_at is not None


def _by_trigger(calls: Sequence[Call]) -> list[list[Call]]:
    shares: dict[UUID, list[Call]] = {}
    for call in calls:
        shares.setdefault(call.listener.id, []).append(call)
    return list(shares.values())


def _add_run(
    draft: Draft, key: str, payload: bytes, callers: list[Call], *, listener: Listener, at: datetime, depth: int
) -> UUID:
    run = NewRun(trigger_id=listener.id, spec=listener.spec, key=key, input=payload.decode(), at=at, depth=depth)
    draft.runs.append(run)
    draft.callers[run.id] = callers
    return run.id


def _gathered(draft: Draft, calls: list[Call], window: Window, now: datetime) -> Window:
    """The window as it stands once these calls have fallen into it; its runs are in the draft."""
    arrivals = [
        Arrival(key=call.event.key, payload=call.payload, size=len(call.payload), depth=call.event.depth + 1)
        for call in calls
    ]
    listener, rest = calls[0].listener, calls
    gathered = gather(listener.rule, window, arrivals, now)
    run_id: UUID | None = None
    for waiting in gathered.waiting:
        part, rest = rest[: waiting.taken], rest[waiting.taken :]
        payload = _payload(waiting)
        if waiting.run_id is None:
            run_id = _add_run(draft, waiting.key, payload, part, listener=listener, at=waiting.at, depth=waiting.depth)
            continue
        run_id = waiting.run_id
        draft.more.append(
            MoreInput(
                run_id=run_id,
                spec=listener.spec,
                input=payload.decode(),
                at=waiting.at,
                depth=waiting.depth,
                appends=waiting.appends,
            )
        )
        draft.callers[run_id] = part
    return replace(gathered.window, run_id=run_id)


def _payload(waiting: Waiting) -> bytes:
    return b"[" + b",".join(waiting.payload) + b"]" if isinstance(waiting.payload, list) else waiting.payload


def _note(draft: Draft, there: Mapping[UUID, UUID], outcome: Outcome) -> None:
    new = {run.id for run in draft.runs}
    for run_id, callers in draft.callers.items():
        found = there.get(run_id)
        if found is None:
            continue
        for call in callers:
            outcome.runs.setdefault(call.key, []).append(found)
            outcome.triggers.setdefault(call.key, []).append(call.listener.name)
            outcome.noted.append(Noted(call.seq, call.listener.id, found))
        if run_id in new and found == run_id:
            fields = {"trigger": callers[0].listener.name, "run_id": str(run_id)}
            outcome.told.append(("trigger.fired", fields))
    outcome.begins_at += [run.at for run in draft.runs] + [one.at for one in draft.more]
