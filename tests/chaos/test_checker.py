"""Each invariant is shown a history, made by hand, in which it and nothing else is violated."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.course import certain
from tests.chaos.lies_elsewhere import (
    LIES_ELSEWHERE,
    a_process_as_it_should_be,
    a_process_that_was_lost,
    an_answer_that_is_nowhere,
)
from tests.chaos.story import HOLDER, PEER, POLICY, TRIGGER, Story, a_story, an_id, instant
from tocsin.testing.history.checker import DECIDED, check, report
from tocsin.testing.invariants import caught


def a_cursor_off_its_schedule(story: Story) -> None:
    place = next(place for place, change in enumerate(story.audit) if change.table == "triggers")
    story.audit[place] = replace(story.audit[place], after={**story.audit[place].row, "next_at": instant(7)})


def two_runs_of_one_occurrence(story: Story) -> None:
    """The account is even: one occurrence has no run, another two."""
    story.change("runs", an_id(1_001), 20.6, nominal_at=instant(10))
    story.change(
        "skips", "s", 20.6, trigger_id=TRIGGER, first_at=instant(20), last_at=instant(20), count=0, reason="expired"
    )


def two_ends_that_were_both_accepted(story: Story) -> None:
    story.answer(an_id(1_001), 21, 1, HOLDER, state="failed")


def an_instant_that_nobody_decided(story: Story) -> None:
    story.change("triggers", TRIGGER, 24, next_at=instant(50), wake_at=instant(50))


def an_instant_that_was_missed_in_time(story: Story) -> None:
    story.change("triggers", TRIGGER, 24, policy={**POLICY, "catch_up": "all", "catch_up_window": 100})
    at = {"first_at": instant(30), "last_at": instant(30)}
    story.change("skips", "s", 31, trigger_id=TRIGGER, count=1, reason="missed", **at)
    story.change("triggers", TRIGGER, 31, next_at=instant(40), wake_at=instant(40))
    story.renew_all(32)


def a_result_of_a_former_holder(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02)
    story.settle(run_id, 30.5)
    story.transitions[-1]["actor"] = story.entries[-1]["holder"] = f"replica:{PEER}"
    story.renew_all(32)


def an_attempt_that_began_twice(story: Story) -> None:
    story.entry("START", an_id(1_001), 20.1, 1, effective=instant(20), pid=42)


def a_claim_after_sigterm(story: Story) -> None:
    story.event("signal", 15, pid=41, signal="SIGTERM")
    story.ends(HOLDER, 21, 0)
    story.renew(HOLDER, 20.9, ended="released")


def a_run_taken_from_one_who_drains(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02)
    story.event("signal", 30.5, pid=41, signal="SIGTERM")
    story.renew(HOLDER, 30.6, ended="released")
    story.sweep(run_id, 31, state="failed")
    story.ends(HOLDER, 33, 0)
    story.renew(PEER, 33.5)


def two_attempts_of_one_scope(story: Story) -> None:
    first, second = story.plan(2, 30), story.plan(3, 40)
    story.claim(first, 39.5, PEER)
    story.claim(second, 40.1)
    story.settle(first, 41, holder=PEER)
    story.settle(second, 42)
    story.renew_all(43)


def two_attempts_of_one_key(story: Story) -> None:
    story.agents = [{"name": "scribe", "concurrency": 1, "concurrency_key": "room.number"}]
    story.whole(2, 30)
    for number in (3, 4):
        run_id = story.plan(number, 40, kind="manual", scope=None, input={"room": {"number": 7}})
        story.claim(run_id, 40.1)
    for number in (3, 4):
        story.settle(an_id(1_000 + number), 41)
    story.whole(5, 40)
    story.renew_all(43)


def a_verdict_on_the_living(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.renew(HOLDER, 29.9)
    story.claim(run_id, 30.02)
    story.sweep(run_id, 31, state="failed")
    story.renew_all(33)


def a_verdict_of_the_blind(story: Story) -> None:
    """The database was away for longer than the lease; the first to come back judged at once."""
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02)
    story.event("on", 30.5, fault="F8", number=0, excuses=["blind", "late", "silent"])
    story.event("off", 36, fault="F8", number=0)
    story.sweep(run_id, 36.2, state="failed")
    story.renew_all(38)


def a_death_that_nobody_noticed(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02)
    story.ends(HOLDER, 30.1)
    story.sweep(run_id, 39.9, state="failed")
    story.renew(PEER, 39.95)


def more_attempts_than_allowed(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.claim(run_id, 30.02)
    story.settle(run_id, 30.5, attempt=4)
    story.renew_all(32)


def a_run_that_is_lost_three_times_and_not_poisoned(story: Story) -> None:
    run_id = story.plan(2, 30)
    story.event("spawn", 30, replica="r43", pid=43)
    for loss in range(3):
        story.claim(run_id, 30.02 + loss)
        story.renew(HOLDER, 30.5 + loss, ended="lost")
        story.sweep(run_id, 30.51 + loss, reason="lost", state="queued" if loss < 2 else "failed")
    story.renew_all(34)


def a_poison_that_is_not_set_aside(story: Story) -> None:
    story.poisoned.add(an_id(7))
    story.trigger(24, key=an_id(7), name="poison", next_at=instant(24), wake_at=instant(24))


def a_decision_that_came_late(story: Story) -> None:
    run_id = story.plan(2, 30, at=34)
    story.claim(run_id, 34.1)
    story.settle(run_id, 34.2)
    story.renew_all(35)


def more_caught_up_than_the_policy_keeps(story: Story) -> None:
    story.event("on", 30, fault="F2", number=0, excuses=["late"])
    story.event("off", 50, fault="F2", number=0)
    for number in (2, 3):
        run_id = story.plan(number, 10 * number + 10, at=50, lane="late")
        story.claim(run_id, 50.1 + number)
        story.settle(run_id, 50.2 + number)
    one, two = [place for place, change in enumerate(story.audit) if change.before is None][-2:]
    story.audit[two] = replace(story.audit[two], txid=story.audit[one].txid)
    story.whole(4, 50)
    story.renew_all(55)


def a_run_before_its_instant(story: Story) -> None:
    run_id = story.plan(2, 30, at=29.5)
    story.claim(run_id, 29.6)
    story.settle(run_id, 30.5)
    story.renew_all(32)


def a_run_of_a_paused_trigger(story: Story) -> None:
    story.change("triggers", TRIGGER, 24, paused=["user"])
    story.whole(2, 30)
    story.renew_all(32)


def an_account_that_was_taken_back(story: Story) -> None:
    story.change(
        "skips", "s", 21, trigger_id=TRIGGER, first_at=instant(2), last_at=instant(2), count=3, reason="withdrawn"
    )
    story.erase("skips", "s", 22)


def an_end_without_a_transition(story: Story) -> None:
    run_id = story.plan(2, 24, kind="manual")
    story.change("runs", run_id, 24.5, state="cancelled", seq=2, finished_at=instant(24.5))


def a_gap_in_the_trail(story: Story) -> None:
    story.transitions[-1]["seq"] += 1
    story.change("runs", an_id(1_001), 20.6, seq=story.transitions[-1]["seq"])


def an_answered_fire_that_is_lost(story: Story) -> None:
    story.calls.append({"at": instant(12), "op": "fire", "trigger": "tick", "key": "k", "run": an_id(9), "ok": True})


def one_key_with_two_runs(story: Story) -> None:
    for run_id in (an_id(1_000), an_id(1_001)):
        story.calls.append({"at": instant(12), "op": "fire", "trigger": "tick", "key": "k", "run": run_id, "ok": True})


def a_commit_that_was_seen_and_is_gone(story: Story) -> None:
    story.seen.add((an_id(1_001), 4, "succeeded"))


def a_deletion_that_is_lost(story: Story) -> None:
    story.calls.append({"at": instant(12), "op": "delete", "trigger": "tick", "ok": True})


def a_pause_that_is_lost(story: Story) -> None:
    for second, op in ((12, "pause"), (13, "resume"), (14, "pause")):
        story.calls.append({"at": instant(second), "op": op, "trigger": "tick", "version": 1, "ok": True})


def a_run_that_waits_for_nothing(story: Story) -> None:
    story.plan(2, 30, kind="manual")
    for number in (3, 4):
        story.whole(number, 10 * number)
    story.renew_all(45)


def a_limit_that_nobody_reaches_and_a_run_that_waits(story: Story) -> None:
    """A permit was lost with its holder: the agent's three are held by two."""
    story.agents = [{"name": "scribe", "concurrency": 3, "concurrency_key": None}]
    story.plan(2, 30, kind="manual", scope=None)
    for number in (6, 7):
        story.claim(story.plan(number, 30, kind="manual", scope=None), 30.1)
    for number in (3, 4):
        story.whole(number, 10 * number)
    story.renew_all(45)


def a_session_that_idles_in_transaction(story: Story) -> None:
    story.sessions.append(
        {"application_name": "tocsin", "state": "idle in transaction", "xact_start": instant(5), "now": instant(25)}
    )


def too_many_sessions(story: Story) -> None:
    story.samples.append({"at": instant(20), "connections": 60, "processes": {}})


def files_that_are_never_closed(story: Story) -> None:
    for second in range(60):
        figures = {"rss": 1 << 27, "fds": 20 + second * 4}
        story.samples.append({"at": instant(second / 3), "connections": 9, "processes": {"41": figures}})


def tasks_that_nobody_awaits(story: Story) -> None:
    for second in range(60):
        figures = {"rss": 1 << 27, "fds": 20, "tasks": 15 + second * 6}
        story.samples.append({"at": instant(second / 3), "connections": 9, "processes": {"41": figures}})


def a_listener_that_knows_no_patience(story: Story) -> None:
    for second in range(20):
        figures = {"rss": 1 << 27, "fds": 20, "listens": 1 + second * 7}
        story.samples.append({"at": instant(second), "connections": 9, "processes": {"41": figures}})


def dead_rows_that_nobody_removes(story: Story) -> None:
    story.samples.append({"at": instant(20), "connections": 9, "processes": {}, "rows": {"runs": [100, 90_000]}})


LIES: dict[str, list[Callable[[Story], None]]] = {
    "I0": [a_cursor_off_its_schedule],
    "I1": [two_runs_of_one_occurrence],
    "I2": [two_ends_that_were_both_accepted],
    "I3": [an_instant_that_nobody_decided, an_instant_that_was_missed_in_time],
    "I4": [a_result_of_a_former_holder, an_attempt_that_began_twice],
    "I5": [a_claim_after_sigterm, a_run_taken_from_one_who_drains],
    "I6": [two_attempts_of_one_scope, two_attempts_of_one_key],
    "I7": [a_verdict_on_the_living, a_verdict_of_the_blind, a_death_that_nobody_noticed],
    "I8": [more_attempts_than_allowed, a_run_that_is_lost_three_times_and_not_poisoned],
    "I9": [a_poison_that_is_not_set_aside, a_decision_that_came_late],
    "I10": [more_caught_up_than_the_policy_keeps],
    "I14": [a_run_before_its_instant],
    "I15": [a_run_of_a_paused_trigger, an_account_that_was_taken_back],
    "I16": [an_end_without_a_transition, a_gap_in_the_trail],
    "I17": [
        an_answered_fire_that_is_lost,
        one_key_with_two_runs,
        a_commit_that_was_seen_and_is_gone,
        a_deletion_that_is_lost,
        a_pause_that_is_lost,
    ],
    "I18": [
        a_run_that_waits_for_nothing,
        a_limit_that_nobody_reaches_and_a_run_that_waits,
        a_session_that_idles_in_transaction,
    ],
    "I20": [
        too_many_sessions,
        files_that_are_never_closed,
        tasks_that_nobody_awaits,
        a_listener_that_knows_no_patience,
        dead_rows_that_nobody_removes,
    ],
}


def last(story: Story) -> float:
    """Until when the story has been told, and a little more."""
    told = max(change.at for change in story.audit)
    return max(25.0, (told - instant(0)).total_seconds() + 0.4)


def test_a_good_history_violates_nothing() -> None:
    story = a_story()
    assert check(story.logs(last(story))) == []


@pytest.mark.parametrize("tell", [a_process_as_it_should_be, a_process_that_was_lost])
def test_a_good_history_with_an_agent_process_violates_nothing(tell: Callable[[Story], object]) -> None:
    story = a_story()
    tell(story)
    logs = story.logs(last(story))
    assert not (violations := check(logs)), report(logs, violations)


def test_every_invariant_that_is_decided_has_a_history_that_violates_it() -> None:
    assert sorted(LIES.keys() | LIES_ELSEWHERE.keys(), key=lambda name: int(name[1:])) == DECIDED


@pytest.mark.parametrize(
    ("invariant", "lie"),
    [(name, lie) for told in (LIES, LIES_ELSEWHERE) for name, lies in told.items() for lie in lies],
    ids=lambda one: str(getattr(one, "__name__", one)),
)
def test_a_history_that_violates_one_invariant_is_caught_by_it_alone(
    invariant: str, lie: Callable[[Story], None]
) -> None:
    story = a_story()
    lie(story)
    logs = story.logs(last(story))
    violations = check(logs)
    assert set(caught(violations)) == {invariant}, report(logs, violations)


def test_a_pause_without_an_answer_may_have_been_done_or_not() -> None:
    story = a_story()
    a_pause_that_is_lost(story)
    story.calls.append({"at": instant(15), "op": "resume", "trigger": "tick", "ok": False})
    assert check(story.logs(last(story))) == []


def test_what_was_answered_as_the_snapshot_was_taken_may_stand_behind_it() -> None:
    story = a_story()
    an_answer_that_is_nowhere(story)
    story.calls.append({"at": instant(31.8), "op": "fire", "trigger": "tick", "ok": True, "run": an_id(99), "key": "k"})
    logs = story.logs(last(story))
    assert set(caught(check(logs))) == {"I4", "I17"}
    for before, found in ((31.9, {"I4", "I17"}), (31.79, set())):
        entries, calls = (certain(rows, before=instant(before)) for rows in (logs.entries, logs.calls))
        assert set(caught(check(replace(logs, entries=entries, calls=calls)))) == found


def test_a_limit_that_was_reached_a_moment_ago_excuses_who_waits() -> None:
    story = a_story()
    a_limit_that_nobody_reaches_and_a_run_that_waits(story)
    story.settle(an_id(1_007), 45)
    assert check(story.logs(45.3)) == []


@pytest.mark.parametrize(
    ("lie", "since", "until"),
    [(an_instant_that_nobody_decided, 28, 42), (a_verdict_on_the_living, 29, 33), (too_many_sessions, 18, 22)],
)
def test_a_report_shows_the_rows_and_the_smallest_window_around_them(
    lie: Callable[[Story], None], since: float, until: float
) -> None:
    story = a_story()
    lie(story)
    for second in range(60):
        story.event("on", second, fault="F0", number=second)
    logs = story.logs(last(story))
    violation = check(logs)[0]
    told = report(logs, [violation]).splitlines()
    rows = str(violation).splitlines()
    assert told[: len(rows)] == rows
    shown = [line.split()[0] for line in told if "fault=F0" in line]
    assert shown
    assert f"{instant(since):%H:%M:%S.%f}" <= min(shown)
    assert max(shown) <= f"{instant(until):%H:%M:%S.%f}"
