"""What becomes of events that share a window: which runs wait, until when, and with what.

A window is one trigger's, and one key's within it. Its run is written when its first event comes, to be claimed once
the window is over: nobody has to be there to close it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.event_rule import EventRule

PATIENCE: Final = 10
"""So many debounces after its first event a window is over, however busy it is."""

ROOM: Final = MAX_PAYLOAD - 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One event that falls into a window. key: its occurrence's; payload: what it gives to a run; size: of that."""

    key: str
    payload: Any
    size: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window as it stands. run_id: of the run that waits for its end at due_at; None, when none does any more.

    opened_at: when the run's first event came; count, size: what it has been given; free_at: before which throttle lets
    no further one begin.
    """

    run_id: UUID | None = None
    opened_at: datetime | None = None
    due_at: datetime | None = None
    count: int = 0
    size: int = 0
    free_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A run that waits until ``at``: the window's own (run_id), or a new one under the key of its first event.

    payload: its input, or with ``appends`` what is added to it. taken: how many of the arrivals are in it.
    """

    run_id: UUID | None
    key: str
    at: datetime
    payload: Any
    depth: int
    taken: int
    appends: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """The runs in the order of what arrived, and the window as it stands then. Its run is the last of them."""

    waiting: list[Waiting]
    window: Window


def gather(rule: EventRule, window: Window, arrivals: Sequence[Arrival], now: datetime) -> Gathered:
    """Every arrival is in exactly one run, or its place there was taken by a later one. At least one arrival."""
    if window.run_id is not None and (window.due_at is None or window.due_at <= now):
        # It is over; whoever has room claims its run.
        window = Window(free_at=window.free_at)
    if rule.batch is not None:
        return _batched(window, arrivals, now, rule.batch, rule.batch_size)
    if rule.debounce is not None:
        return _debounced(window, arrivals, now, rule.debounce)
    assert rule.throttle is not None, "only windowed rules gather"
    return _throttled(window, arrivals, now, rule.throttle)


def _debounced(window: Window, arrivals: Sequence[Arrival], now: datetime, quiet: timedelta) -> Gathered:
    opened_at = window.opened_at if window.run_id is not None and window.opened_at is not None else now
    at = min(now + quiet, max(now, opened_at + quiet * PATIENCE))
    return _one(window, arrivals, at, opened_at, None)


def _throttled(window: Window, arrivals: Sequence[Arrival], now: datetime, apart: timedelta) -> Gathered:
    if window.run_id is not None and window.due_at is not None:
        return _one(window, arrivals, window.due_at, window.opened_at or now, window.free_at)
    free_at = window.free_at if window.free_at is not None and window.free_at > now else now
    if free_at > now or len(arrivals) == 1:
        return _one(Window(), arrivals, free_at, now, free_at + apart)
    # The first begins at once; what came with it waits.
    first = _one(Window(), arrivals[:1], now, now, now + apart)
    rest = _one(Window(), arrivals[1:], now + apart, now, now + apart + apart)
    return Gathered(first.waiting + rest.waiting, rest.window)


def _one(
    window: Window, arrivals: Sequence[Arrival], at: datetime, opened_at: datetime, free_at: datetime | None
) -> Gathered:
    """One run, with what the last of them gives."""
    last = arrivals[-1]
    depth = max(arrival.depth for arrival in arrivals)
    waiting = Waiting(
        run_id=window.run_id, key=arrivals[0].key, at=at, payload=last.payload, depth=depth, taken=len(arrivals)
    )
    after = Window(
        run_id=window.run_id,
        opened_at=opened_at,
        due_at=at,
        count=window.count + len(arrivals),
        size=last.size,
        free_at=free_at,
    )
    return Gathered([waiting], after)


def _batched(window: Window, arrivals: Sequence[Arrival], now: datetime, length: timedelta, most: int) -> Gathered:
    waiting: list[Waiting] = []
    rest = list(arrivals)
    while rest:
        taken, size = _fitting(window, rest, most)
        if not taken:
            # What is there leaves no room for the next one: it waits no longer.
            waiting.append(_closed(window, rest[0], now))
            window = Window()
            continue
        part, rest = rest[:taken], rest[taken:]
        opened_at = window.opened_at if window.run_id is not None and window.opened_at is not None else now
        count = window.count + taken
        at = now if count >= most or rest else window.due_at or now + length
        waiting.append(
            Waiting(
                run_id=window.run_id,
                key=part[0].key,
                at=at,
                payload=[arrival.payload for arrival in part],
                depth=max(arrival.depth for arrival in part),
                taken=taken,
                appends=window.run_id is not None,
            )
        )
        after = Window(run_id=window.run_id, opened_at=opened_at, due_at=at, count=count, size=size)
        window = Window() if rest else after
    return Gathered(waiting, window)


def _closed(window: Window, arrival: Arrival, now: datetime) -> Waiting:
    return Waiting(run_id=window.run_id, key=arrival.key, at=now, payload=[], depth=0, taken=0, appends=True)


def _fitting(window: Window, arrivals: Sequence[Arrival], most: int) -> tuple[int, int]:
    """(how many of them have room in the window's run, its size then). Into an empty one goes at least one."""
    count, size = window.count, window.size
    for taken, arrival in enumerate(arrivals):
        full = count >= most or size + arrival.size + 1 > ROOM
        if full and count:
            return taken, size
        count, size = count + 1, size + arrival.size + 1
    return len(arrivals), size
