"""What may be asked of an event, and that no question can cost more than a moment."""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.domain.errors import BadInput
from tocsin.domain.expression import MAX_LENGTH, MAX_LEVELS, Unanswerable, ask, check_expression, is_true
from tocsin.domain.payload import encode

PUSH = {
    "type": "com.github.push",
    "data": {"ref": "refs/heads/main", "forced": False, "size": 2, "commits": [{"id": "a"}, {"id": "b", "n": 3}]},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdx"), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("data.ref == 'refs/heads/main'", True),
        ("data.ref == 'refs/heads/main' && !(data.forced)", True),
        ("data.size > `2`", False),
        ("data.nothing.at.all", False),
        ("starts_with(data.ref, 'refs/heads/')", True),
        ("data.commits[?n > `2`]", True),
        ("data.commits[?n > `9`]", False),
        ("data.size", True),
        ("data.forced || contains(data.ref, 'tags')", False),
        ("length(data.commits) == `2`", True),
    ],
)
def test_a_filter_is_true_as_jmespath_has_it(expression: str, answer: bool) -> None:
    assert is_true(ask(check_expression("where", expression), PUSH)) is answer


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("data.commits[*].id", ["a", "b"]),
        ("{ref: data.ref, first: data.commits[0].id}", {"ref": "refs/heads/main", "first": "a"}),
        ("data.commits[?n].{id: id, n: n} | [0]", {"id": "b", "n": 3}),
    ],
)
def test_an_input_is_built_from_what_is_there(expression: str, answer: Any) -> None:
    assert ask(check_expression("input", expression), PUSH) == answer


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "data[",
        "data.",
        "`",
        "nonsense(data)",
        "join('', [@, @])",
        "to_string([@, @])",
        "map(&@, data)",
        "sort_by(data.commits, &id)",
        "[@, @] | [@, @]",
        "[@, @][] | [@, @][]",
        "{a: @, b: @}.{a: @, b: @}",
        "[@, @][*].[@, @]",
        "[[@, @], [@, @]][]",
        "not_null([@, @]) | [@, @]",
        "!" * (MAX_LEVELS + 2) + "a",
        "!data.forced",
        "a" * (MAX_LENGTH + 1),
    ],
)
def test_what_is_malformed_or_could_grow_is_refused_where_it_is_written(expression: str) -> None:
    with pytest.raises(BadInput, match="where"):
        check_expression("where", expression)


def test_a_function_that_meets_the_wrong_type_has_no_answer() -> None:
    with pytest.raises(Unanswerable, match="length"):
        ask("length(data.size)", PUSH)


def test_an_expression_gives_up_after_its_steps() -> None:
    body = {"data": [{"tags": ["x"] * 50}] * 500}
    with pytest.raises(Unanswerable, match="steps"):
        ask("data[*].tags[*].a", body)


PARTS = ["@", "a", "b.c", "a[]", "a[*].b", "[a, b]", "{x: a, y: @}", "a[?b == c]", "*.a", "values(@)", "not_null(a, b)"]
JOINTS = [" | ", ".", " && ", " || ", " == "]


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(JOINTS)), min_size=1, max_size=40), json_values)
@settings(max_examples=300, deadline=None)
def test_whatever_is_let_in_costs_a_moment_and_gives_what_can_be_stored(parts: list[Any], value: Any) -> None:
    expression = "".join(part + joint for part, joint in parts[:-1]) + parts[-1][0]
    try:
        check_expression("where", expression)
    except BadInput:
        return
    began = time.process_time()
    with suppress(Unanswerable, BadInput):
        encode(ask(expression, {"a": value, "b": {"c": value}}), what="input")
    assert time.process_time() - began < 0.5
