"""Debounce, throttle and batch: every event is in exactly one run, or in one with what came after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from tocsin.domain.event_rule import EventRule, on_event
from tocsin.domain.window import PATIENCE, ROOM, Arrival, Window, gather

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass
class Course:
    """One window over a time, as the store keeps it. runs: key, instant and what it was given, of each."""

    rule: EventRule
    now: datetime = NOON
    window: Window = field(default_factory=Window)
    runs: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    number: int = 0

    def arrive(self, count: int = 1, *, size: int = 10) -> None:
        arrivals = [self._arrival(size) for _ in range(count)]
        gathered = gather(self.rule, self.window, arrivals, self.now)
        assert sum(waiting.taken for waiting in gathered.waiting) == count
        run_id = None
        for waiting in gathered.waiting:
            run_id = waiting.run_id or uuid4()
            former = self.runs.get(run_id)
            assert (former is None) == (waiting.run_id is None)
            given = former["given"] + waiting.payload if former and waiting.appends else waiting.payload
            assert former is None or former["at"] > self.now, "it may be claimed already"
            self.runs[run_id] = {"at": waiting.at, "given": given, "key": former["key"] if former else waiting.key}
            assert waiting.at >= self.now
        self.window = replace(gathered.window, run_id=run_id)

    def _arrival(self, size: int) -> Arrival:
        self.number += 1
        return Arrival(key=f"e{self.number}", payload=self.number, size=size, depth=1)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def told(self) -> list[tuple[float, Any]]:
        return [((run["at"] - NOON).total_seconds(), run["given"]) for run in self.runs.values()]


def test_debounce_waits_until_it_has_been_quiet_and_gives_the_last() -> None:
    course = Course(on_event("*", debounce=5))
    for pause in (2, 3, 4, 6, 1):
        course.arrive()
        course.pass_time(pause)
    assert course.told() == [(14, 4), (20, 5)]


def test_debounce_does_not_wait_for_ever() -> None:
    course = Course(on_event("*", debounce=5))
    for _ in range(100):
        course.arrive()
        course.pass_time(1)
    assert [at for at, _ in course.told()] == [5 * PATIENCE, 100, 104][: len(course.runs)]


def test_throttle_begins_with_the_first_and_keeps_its_distance() -> None:
    course = Course(on_event("*", throttle=10))
    for pause in (1, 1, 1, 30, 2, 9, 100):
        course.arrive()
        course.pass_time(pause)
    assert course.told() == [(0, 1), (10, 4), (33, 5), (43, 6), (53, 7)]


def test_throttle_splits_what_comes_together_into_now_and_later() -> None:
    course = Course(on_event("*", throttle=10))
    course.arrive(3)
    assert course.told() == [(0, 1), (10, 3)]
    course.pass_time(10)
    course.arrive()
    assert course.told()[2:] == [(20, 4)]


def test_batch_gathers_from_the_first_on() -> None:
    course = Course(on_event("*", batch=10))
    for pause in (4, 4, 4, 1):
        course.arrive()
        course.pass_time(pause)
    assert course.told() == [(10, [1, 2, 3]), (22, [4])]


def test_a_full_batch_does_not_wait() -> None:
    course = Course(on_event("*", batch=10, batch_size=3))
    course.arrive(2)
    course.pass_time(1)
    course.arrive(6)
    assert course.told() == [(1, [1, 2, 3]), (1, [4, 5, 6]), (11, [7, 8])]
    course.arrive()
    assert course.told()[2:] == [(1, [7, 8, 9])]
    course.arrive()
    assert course.told()[3:] == [(11, [10])]


def test_a_batch_that_would_grow_too_large_is_closed() -> None:
    course = Course(on_event("*", batch=10))
    course.arrive(2, size=ROOM // 2 - 10)
    course.arrive(1, size=100)
    assert course.told() == [(0, [1, 2]), (10, [3])]
    course.pass_time(1)
    course.arrive(1, size=ROOM + 1_000)
    assert course.told() == [(0, [1, 2]), (1, [3]), (11, [4])]


steps = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([0.0, 0.5, 1, 3, 5, 20])), min_size=1, max_size=40)


@given(st.sampled_from(["debounce", "throttle", "batch"]), st.sampled_from([1.0, 3.0, 5.0]), steps)
def test_nothing_is_lost_or_doubled_and_nobody_waits_beyond_the_window(
    kind: str, length: float, course_of_events: Sequence[tuple[int, float]]
) -> None:
    window, rule = timedelta(seconds=length), on_event("*", debounce=length)
    if kind != "debounce":
        rule = on_event("*", throttle=length) if kind == "throttle" else on_event("*", batch=length, batch_size=5)
    course = Course(rule)
    came: dict[int, datetime] = {}
    for count, pause in course_of_events:
        before = course.number
        course.arrive(count)
        came |= dict.fromkeys(range(before + 1, course.number + 1), course.now)
        course.pass_time(pause)
    runs = list(course.runs.values())
    assert len({run["key"] for run in runs}) == len(runs)
    if kind == "batch":
        assert sorted(number for run in runs for number in run["given"]) == list(came)
        assert all(1 <= len(run["given"]) <= 5 for run in runs)
        assert all(run["at"] <= came[number] + window for run in runs for number in run["given"])
        return
    # The last word is heard, and each run gives the newest that there was.
    given = [run["given"] for run in runs]
    assert given == sorted(set(given))
    assert given[-1] == course.number
    ats = [run["at"] for run in runs]
    assert ats == sorted(ats)
    if kind == "throttle":
        assert all((later - earlier).total_seconds() >= length for earlier, later in pairwise(ats))
    else:
        assert all(came[run["given"]] <= run["at"] <= came[run["given"]] + window for run in runs)


@given(steps)
def test_depth_only_rises(course_of_events: Sequence[tuple[int, float]]) -> None:
    rule = on_event("*", debounce=3)
    for depths in course_of_events:
        arrivals = [Arrival(key=f"{n}", payload=n, size=1, depth=n) for n in range(1, depths[0] + 1)]
        assert gather(rule, Window(), arrivals, NOON).waiting[0].depth == depths[0]
