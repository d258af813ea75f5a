"""Simulated time: moved by hand, in order, and passed by for whoever is frozen."""

from datetime import timedelta

import pytest

from tocsin.testing.clock import START, SimulatedClock, SimulatedTime


def test_timers_run_at_their_moment_and_in_their_order() -> None:
    time = SimulatedTime()
    clock = SimulatedClock(time, origin=1_000.0)
    seen: list[tuple[str, float]] = []
    clock.call_later(5, lambda: seen.append(("second", clock.monotonic())))
    clock.call_later(2, lambda: seen.append(("first", clock.monotonic())))
    clock.call_later(60, lambda: seen.append(("never", clock.monotonic())))
    time.advance(10)
    assert seen == [("first", 1_002.0), ("second", 1_005.0)]
    assert (clock.monotonic(), clock.now()) == (1_010.0, START + timedelta(seconds=10))


def test_a_timer_may_set_another_that_is_due_in_the_same_advance() -> None:
    time = SimulatedTime()
    clock = SimulatedClock(time)
    seen: list[float] = []

    def again() -> None:
        clock.call_later(1, lambda: seen.append(clock.monotonic()))

    clock.call_later(1, again)
    time.advance(3)
    assert seen == [2.0]


def test_a_cancelled_timer_does_not_run() -> None:
    time = SimulatedTime()
    clock = SimulatedClock(time)
    clock.call_later(1, lambda: pytest.fail("it was cancelled")).cancel()
    time.advance(2)


def test_a_frozen_clock_finds_the_time_gone_when_it_thaws() -> None:
    time = SimulatedTime()
    frozen, other = SimulatedClock(time), SimulatedClock(time)
    seen: list[str] = []
    frozen.call_later(1, lambda: seen.append("frozen"))
    other.call_later(2, lambda: seen.append("other"))
    frozen.frozen = True
    time.advance(100)
    assert seen == ["other"]
    frozen.frozen = False
    time.advance(0)
    assert seen == ["other", "frozen"]
    assert frozen.monotonic() == 100.0


async def test_sleeping_moves_the_time() -> None:
    time = SimulatedTime()
    await SimulatedClock(time).sleep(3)
    assert time.elapsed == 3.0


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        SimulatedTime().advance(-1)
