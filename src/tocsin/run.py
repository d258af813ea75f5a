"""What an agent is handed: the run, its ways to report, and the signal that asks it to stop."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Protocol

import msgspec

from tocsin.domain.assignment import Assignment, LastRun
from tocsin.domain.run import StopReason

__all__ = ["Cancelled", "LastRun", "Reports", "Run", "StopSignal"]

_NOT_READ: Final = object()


class StopSignal:
    """Asks one attempt to stop, once. Readable from any thread; requested on the event loop.

    task: what the attempt runs in. interrupts: whether it is cancelled by the request, unless it watches.
    An agent that touches ``run.cancelled`` is *watching*: it is given notice and time. One that does
    not is cancelled the way its kind is (CancelledError, terminate).
    """

    _birth: ClassVar = threading.Lock()

    # One is made for every attempt, and nearly none is used: nothing is set before it is.
    reason: StopReason | None = None
    watched: bool = False
    task: "asyncio.Task[Any] | None" = None
    interrupts: bool = False
    _callbacks: tuple[Callable[[StopReason], None], ...] = ()
    _event: threading.Event | None = None

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def request(self, reason: StopReason) -> None:
        """The attempt has been asked to stop; a second request changes nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._event is not None:
            self._event.set()
        if self.interrupts and not self.watched and self.task is not None:
            self.task.cancel()
        for callback in self._callbacks:
            callback(reason)

    def on_request(self, callback: Callable[[StopReason], None]) -> None:
        """The callback runs on the event loop when a stop is asked for, at once if it was already."""
        self._callbacks += (callback,)
        if self.reason is not None:
            callback(self.reason)

    def wait_in_thread(self, seconds: float | None = None) -> bool:
        """Blocks a thread until a stop is asked for; True if it was."""
        # Two threads of one agent must not each make an event: the first would never be set.
        with self._birth:
            if self._event is None:
                self._event = threading.Event()
        # Looked at after the event can be seen, as request() does it the other way round.
        if self.reason is not None:
            self._event.set()
        return self._event.wait(seconds)


class Cancelled:
    """``run.cancelled``: truthy once the agent should stop, awaitable, and ``wait(seconds)`` in a thread."""

    __slots__ = ("_signal",)

    def __init__(self, signal: StopSignal) -> None:
        self._signal = signal

    def __bool__(self) -> bool:
        return self._signal.requested

    def __await__(self) -> Generator[Any, None, StopReason]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[StopReason] = loop.create_future()

        def resolve(reason: StopReason) -> None:
            if not future.done():
                future.set_result(reason)

        def wake(reason: StopReason) -> None:
            # A thread's agent may wait on a loop of its own, which may be closed by now.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, reason)

        self._signal.on_request(wake)
        return future.__await__()

    def wait(self, seconds: float | None = None) -> bool:
        """For plain ``def`` agents: sleep up to ``seconds``, True as soon as a stop is asked for."""
        return self._signal.wait_in_thread(seconds)

    @property
    def reason(self) -> StopReason | None:
        return self._signal.reason


class Reports(Protocol):
    """Where a run's reports go; each call returns at once and may come from any thread."""

    def progress(self, message: str, fraction: float | None) -> None: ...
    def usage(self, figures: dict[str, Any]) -> None: ...
    def log(self, line: str) -> None: ...
    def follow_up(self, at: datetime | None, after: timedelta | None, payload: Any) -> None: ...


class Run:
    """One attempt of one run, as its agent sees it."""

    __slots__ = ("_assignment", "_input", "reports", "signal")

    def __init__(self, assignment: Assignment, reports: Reports, signal: StopSignal) -> None:
        self._assignment = assignment
        self._input: Any = _NOT_READ
        self.reports = reports
        self.signal = signal

    @property
    def id(self) -> str:
        return str(self._assignment.run_id)

    @property
    def trigger(self) -> str:
        """The trigger's name."""
        return self._assignment.trigger

    @property
    def agent(self) -> str:
        return self._assignment.agent

    @property
    def attempt(self) -> int:
        """1 for the first."""
        return self._assignment.attempt

    @property
    def fence(self) -> int:
        """Grows with every claim of this run: hand it on to whatever can refuse an older one."""
        return self._assignment.fence

    @property
    def nominal_at(self) -> datetime:
        """The scheduled instant, UTC."""
        return self._assignment.nominal_at

    @property
    def effective_at(self) -> datetime:
        """The scheduled instant plus its jitter, UTC."""
        return self._assignment.effective_at

    @property
    def input(self) -> Any:
        """What the run was called with, decoded once."""
        if self._input is _NOT_READ:
            self._input = msgspec.json.decode(self._assignment.input)
        return self._input

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts, for effects outside."""
        return self._assignment.idempotency_key

    @property
    def deadline(self) -> datetime | None:
        """The instant by which this attempt must have ended; None without a limit."""
        return self._assignment.due_by

    @property
    def traceparent(self) -> str | None:
        """The attempt's place in its trace, as W3C Trace Context writes it; None where runs are not traced."""
        return self._assignment.traceparent

    @property
    def last(self) -> LastRun | None:
        """The trigger's last success."""
        return self._assignment.last

    @property
    def cancelled(self) -> Cancelled:
        """Whether to stop. Touching it tells the hub that this agent watches for itself."""
        self.signal.watched = True
        return Cancelled(self.signal)

    def progress(self, message: str, fraction: float | None = None) -> None:
        """The hub shows where the run is; fraction in [0, 1]. Written within a second, fenced."""
        self.reports.progress(message, fraction)

    def usage(
        self,
        *,
        model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: float | None = None,
        **more: Any,
    ) -> None:
        """What the attempt has cost so far is added up and stored with it, per model."""
        figures = {
            "model": model,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cost_usd": cost_usd,
        }
        self.reports.usage(figures | more)

    def log(self, line: str) -> None:
        """A line is kept with the attempt, up to the attempt's bound; written within a second, fenced."""
        self.reports.log(line)

    def schedule(
        self,
        *,
        at: datetime | None = None,
        after: timedelta | float | None = None,
        input: Any = None,  # noqa: A002 — the word that the author's face uses everywhere
    ) -> None:
        """Wakes the same trigger's agent again; written in the transaction that settles this run.

        Raises: ValueError, unless exactly one of ``at`` (aware) and ``after`` (seconds) is given.
        """
        if (at is None) == (after is None):
            raise ValueError("run.schedule() takes exactly one of at= and after=")
        if at is not None and at.tzinfo is None:
            raise ValueError("run.schedule(at=…) needs an instant with a time zone")
        distance = timedelta(seconds=after) if isinstance(after, int | float) else after
        self.reports.follow_up(at, distance, input)
