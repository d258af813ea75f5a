"""Which events call a trigger: the same answer on every replica, and the same rule after it was stored."""

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin import every, on_event
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.event import MAX_DATA, Event
from tocsin.domain.event_rule import EventRule
from tocsin.domain.trigger import Overlap, TriggerSpec, default_overlap


def an_event(kind: str = "com.github.push", **attributes: Any) -> Event:
    return Event(**{"id": "1", "source": "https://github.com/acme/shop", "type": kind} | attributes)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (on_event("com.github.push"), True),
        (on_event("com.github.pull"), False),
        (on_event("com.github.pus"), False),
        (on_event("*"), True),
        (on_event("com.github.*"), True),
        (on_event("com.?ithub.push"), True),
        (on_event("com.github.push", source="https://github.com/acme/*"), True),
        (on_event("com.github.push", source="https://github.com/other/*"), False),
        (on_event("com.github.push", subject="main"), True),
        (on_event("com.github.push", subject="m[a]in"), False),
        (on_event("com.github.push", where="data.n > `1`"), True),
        (on_event("com.github.push", where="data.n > `2`"), False),
        (on_event("com.github.push", where="subject == 'main' && source == 'x'"), False),
    ],
)
def test_an_event_is_matched_by_type_source_subject_and_filter(rule: EventRule, matches: bool) -> None:
    assert rule.matches(an_event(subject="main", data={"n": 2})) is matches


def test_an_event_without_a_subject_matches_no_pattern_of_one() -> None:
    assert not on_event("*", subject="*?").matches(an_event())
    assert on_event("*").matches(an_event())


def test_a_bracket_in_a_pattern_is_a_bracket() -> None:
    assert on_event("*", source="http://[::1]/*").matches(an_event(source="http://[::1]/x"))


texts = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=12)


@given(st.text("ab*?", min_size=1, max_size=10), st.text("ab", min_size=1, max_size=10))
def test_patterns_are_globs(pattern: str, text: str) -> None:
    if len([part for part in pattern.split("*") if part]) > 9:
        return
    assert on_event(pattern).matches(an_event(text)) is fnmatchcase(text, pattern)


@given(texts, texts)
def test_two_events_never_share_a_key(one: str, other: str) -> None:
    """A source has no space in it, an id may have any."""
    pairs = {(source, event_id) for source in (one, other) for event_id in (one, other) if " " not in source}
    assert len({an_event(source=source, id=event_id).key for source, event_id in pairs}) == len(pairs)


lengths = st.timedeltas(timedelta(milliseconds=100), timedelta(days=400))


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["*", "run.succeeded", "a.?"])},
        optional={
            "source": st.just("tocsin"),
            "subject": st.sampled_from(["x*", "y"]),
            "where": st.just("data.a == 'b'"),
            "input": st.just("{a: data}"),
            "max_depth": st.integers(1, 100),
        },
    ),
    st.sampled_from(["debounce", "throttle", "batch", None]),
    lengths,
)
def test_a_rule_is_the_same_after_it_was_stored(fields: dict[str, Any], window: str | None, length: timedelta) -> None:
    windowed: dict[str, Any] = {window: length, "per": "subject"} if window else {}
    rule = EventRule(**fields, **windowed)
    assert EventRule.from_json(rule.to_json()) == rule


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"type": 5},
        {"type": "x" * 1_001},
        {"type": "*a" * 11},
        {"type": "x", "source": ""},
        {"type": "x", "where": "data["},
        {"type": "x", "input": 5},
        {"type": "x", "debounce": "5s", "batch": "5s"},
        {"type": "x", "debounce": "soon"},
        {"type": "x", "throttle": 0},
        {"type": "x", "per": "subject"},
        {"type": "x", "batch_size": 5},
        {"type": "x", "batch": "5s", "batch_size": 0},
        {"type": "x", "batch": "5s", "batch_size": True},
        {"type": "x", "max_depth": 0},
        {"type": "x", "max_depth": 101},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        on_event(**wrong)


@pytest.mark.parametrize(
    "form", [None, [], {}, {"type": "x", "tpye": 1}, {"type": "x", "batch_seconds": "5"}, {"type": "x", "debounce": 5}]
)
def test_a_stored_rule_that_nobody_could_have_written_is_refused(form: object) -> None:
    with pytest.raises(BadInput):
        EventRule.from_json(form)


@pytest.mark.parametrize(
    ("rule", "hears"),
    [
        (on_event("com.github.push"), []),
        (on_event("run.succeeded"), [["run.succeeded", "%"]]),
        (on_event("run.*", subject="night?ly*"), [["run.succeeded", "night_ly%"], ["run.failed", "night_ly%"]]),
        (on_event("run.failed", source="https://*"), []),
        (on_event("instance.lost", source="tocsin"), [["instance.lost", "%"]]),
    ],
)
def test_only_what_may_be_heard_of_the_hub_is_written(rule: EventRule, hears: list[list[str]]) -> None:
    assert rule.hears() == hears


def test_the_input_is_the_event_or_what_the_rule_says_of_it() -> None:
    event = an_event(time=datetime(2026, 3, 1, tzinfo=UTC), data={"n": 2})
    assert on_event("*").input_of(event) == {
        "id": "1",
        "source": "https://github.com/acme/shop",
        "type": "com.github.push",
        "subject": None,
        "time": "2026-03-01T00:00:00Z",
        "data": {"n": 2},
    }
    assert on_event("*", input="data.n").input_of(event) == 2


def test_windows_are_told_apart_by_what_per_says() -> None:
    rule = on_event("*", debounce="5s", per="data.pull")
    assert rule.window_of(an_event(data={"pull": 7})) == "7"
    one, other = (rule.window_of(an_event(data={"pull": "x" * 500 + end})) for end in "ab")
    assert one != other
    assert len(one) < 100
    assert on_event("*", debounce="5s").window_of(an_event()) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "a\0"},
        {"id": "x" * 501},
        {"id": "é" * 251},
        {"id": "\ud800"},
        {"source": "with space"},
        {"source": "tocsin"},
        {"source": ""},
        {"kind": ""},
        {"subject": ""},
        {"time": datetime(2026, 3, 1)},  # noqa: DTZ001 — that is the fault
        {"data": float("nan")},
        {"data": "\0"},
        {"data": object()},
    ],
)
def test_an_event_that_could_not_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        an_event(**wrong).check()


def test_an_event_that_is_too_large_is_refused_with_its_size() -> None:
    an_event(data="x" * (MAX_DATA - 2)).check()
    with pytest.raises(PayloadTooLarge):
        an_event(data="x" * MAX_DATA).check()


def test_a_trigger_has_a_schedule_or_an_event_rule_and_its_input_comes_with_the_event() -> None:
    rule = on_event("x")
    assert TriggerSpec(name="t", agent="a", event=rule).event == rule
    with pytest.raises(BadInput, match="schedule"):
        TriggerSpec(name="t", agent="a", event=rule, schedule=every(5))
    with pytest.raises(BadInput, match="input"):
        TriggerSpec(name="t", agent="a", event=rule, input={"a": 1})
    assert (default_overlap(None), default_overlap(rule)) == (Overlap.SKIP, Overlap.QUEUE_ALL)
