"""Histories with agent processes, each of which violates one invariant; see test_checker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.chaos.story import PEER, Story, instant

FIRST: Final = 51


def a_process_with_a_run(story: Story) -> tuple[str, str]:
    """(holder, run): a process that has beaten up to 31 seconds past noon, and has had a run in hand since 30."""
    story.keys = [{"name": "near", "agents": ["scribe"]}]
    holder = story.instance(FIRST, 26)
    story.beat(holder, 27, 28, 29)
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02, holder)
    story.beat(holder, 31)
    return holder, run_id


def a_process_as_it_should_be(story: Story) -> tuple[str, str]:
    holder, run_id = a_process_with_a_run(story)
    story.settle(run_id, 31.5, holder=holder)
    story.entry("TOLD", run_id, 31.6, 1, holder=holder, accepted=True)
    story.renew_all(32)
    return holder, run_id


def a_process_that_was_lost(story: Story, *, stops_at: float = 38.5) -> tuple[str, str]:
    """Its last beat was at 31 seconds past noon; at 39.2 it was given up, and a replica has begun its run."""
    holder, run_id = a_process_with_a_run(story)
    for second in range(30, 41, 2):
        story.renew_all(second)
    story.entry("END", run_id, stops_at, 1, end="cut")
    story.bury(holder, 39.2)
    story.sweep(run_id, 39.25)
    story.claim(run_id, 39.4, PEER)
    story.settle(run_id, 39.6, holder=PEER)
    return holder, run_id


def an_answer_that_is_nowhere(story: Story) -> None:
    holder, run_id = a_process_as_it_should_be(story)
    story.entry("TOLD", run_id, 31.8, 2, holder=holder, accepted=True)


def a_process_that_goes_on_when_it_is_cut_off(story: Story) -> None:
    a_process_that_was_lost(story, stops_at=39.8)


def a_process_that_is_lost_before_its_time(story: Story) -> None:
    holder, _ = a_process_as_it_should_be(story)
    story.entries = [entry for entry in story.entries if entry["what"] != "BEAT"]
    story.bury(holder, 32)


def a_process_whose_beats_nobody_writes(story: Story) -> None:
    holder, _ = a_process_that_was_lost(story)
    story.entries.append({"what": "BEAT", "holder": holder, "at": instant(38.9), "sent": instant(38.8)})


def a_process_that_is_lost_twice(story: Story) -> None:
    holder, _ = a_process_that_was_lost(story)
    story.bury(holder, 39.7)


def a_process_that_nobody_misses(story: Story) -> None:
    a_process_as_it_should_be(story)
    story.whole(3, 40)
    for second in range(34, 47, 2):
        story.renew_all(second)


def one_of_many_that_fell_silent_at_once(story: Story) -> None:
    a_process_that_was_lost(story)
    for number in (FIRST + 1, FIRST + 2):
        story.instance(number, 31.1)


def a_run_of_another_key(story: Story) -> None:
    a_process_as_it_should_be(story)
    story.keys = [{"name": "near", "agents": ["mason"]}]


Lies = Mapping[str, Sequence[Callable[[Story], None]]]

LIES_ELSEWHERE: Final[Lies] = {
    "I4": [an_answer_that_is_nowhere],
    "I6": [a_process_that_goes_on_when_it_is_cut_off],
    "I7": [
        a_process_that_is_lost_before_its_time,
        a_process_whose_beats_nobody_writes,
        a_process_that_is_lost_twice,
        a_process_that_nobody_misses,
        one_of_many_that_fell_silent_at_once,
    ],
    "I12": [a_run_of_another_key],
}
