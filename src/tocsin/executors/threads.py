"""Threads for agents that are plain functions: daemons, so that a stuck one never blocks the exit."""

import contextvars
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

IDLE_SECONDS: Final = 10.0


class DaemonThreads:
    """Starts a thread whenever none is idle, and lets go of those that stay idle.

    There is no limit of its own: its caller has one, and a thread that was given up on must not
    take the place of another. ``concurrent.futures`` joins its threads at exit, which an agent that
    never returns would block for ever.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._works: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        # Counts the threads that wait for work and have not been promised any.
        self._idle = threading.Semaphore(0)

    def run(self, work: Callable[[], object]) -> None:
        """The work has a thread at once, with the caller's context variables; it must not raise.

        Raises: RuntimeError, when no thread can be started; then the work is never done.
        """
        context = contextvars.copy_context()
        bound = partial(context.run, work)
        if self._idle.acquire(blocking=False):
            self._works.put(bound)
        else:
            # Handed over, not queued, where another thread would find it though this one never started.
            threading.Thread(target=self._serve, args=([bound],), name=self._name, daemon=True).start()

    def _serve(self, first: list[Callable[[], object]]) -> None:
        # Popped, because the thread keeps its arguments for as long as it lives.
        first.pop()()
        while True:
            self._idle.release()
            try:
                work = self._works.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    return
                # Work was promised to this thread between the two lines, so it is on its way.
                work = self._works.get()
            work()
