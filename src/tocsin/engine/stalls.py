"""Runs that no longer come any further are asked to stop. Never by their age: only by what they last told.

Progress, usage and log lines of an attempt count, and what its process says of it in its beats.
"""

from datetime import timedelta
from typing import Final

from tocsin.clock import Clock
from tocsin.domain.run import StopReason
from tocsin.engine.hands import Hand
from tocsin.telemetry import Log

LOOKS: Final = 4
"""Within ``stall_after``; a run is stopped after as many of them in a row have seen nothing new."""


def watch(hand: Hand, stall_after: timedelta, *, clock: Clock, log: Log) -> None:
    """The attempt is looked at until it has ended, and asked to stop once it stands still."""
    every = stall_after.total_seconds() / LOOKS
    seen, still = hand.reports.advances, 0

    def look() -> None:
        nonlocal seen, still
        if hand.ended or hand.stop.requested:
            return
        still = still + 1 if hand.reports.advances == seen else 0
        seen = hand.reports.advances
        if still < LOOKS:
            clock.call_later(every, look)
            return
        log.warning(
            "run.stalled",
            run_id=str(hand.assignment.run_id),
            trigger=hand.assignment.trigger,
            fence=hand.assignment.fence,
            after=stall_after.total_seconds(),
        )
        hand.ask_to_stop(StopReason.STALLED)

    clock.call_later(every, look)
