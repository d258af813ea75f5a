"""Small questions about a JSON value, in JMESPath: no loops, no names from outside, and a bounded cost.

Two things could grow without bound in JMESPath, and both are kept out: what is built (``[a, b]``, ``{x: a}``) is not
taken apart again, so that nothing can double itself, and functions are the few that look at a value and make no
larger one. What is left is linear in the value for each part of the expression, and steps are counted besides.
Source: the JMESPath specification, https://jmespath.org/specification.html; docs/decisions/0016-jmespath.md.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from tocsin.domain.errors import BadInput

MAX_LENGTH: Final = 1_000
MAX_LEVELS: Final = 40
MAX_STEPS: Final = 5_000
"""Parts of an expression that are looked at for one value, each element of a list anew: some milliseconds."""

FUNCTIONS: Final = frozenset(
    {
        "abs", "avg", "ceil", "contains", "ends_with", "floor", "keys", "length", "max", "min", "not_null",
        "starts_with", "sum", "to_number", "type", "values",
    }
)  # fmt: skip
_BUILDERS: Final = frozenset({"multi_select_list", "multi_select_dict"})
_FLOWS: Final = frozenset(
    {
        "subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection", "flatten",
    }
)  # fmt: skip

Node: TypeAlias = Any
"""A part of a parsed expression: a dict with its type, its children and its value."""


class Unanswerable(Exception):
    """The expression has no answer for this value: a function met the wrong type, or it took too many steps."""


def check_expression(what: str, text: object) -> str:
    """The expression, once it is known that it can be asked.

    Raises: BadInput, naming ``what``.
    """
    if not isinstance(text, str) or not text.strip():
        # An object is an input in the wrong place, which may hold secrets, and not repeated.
        told = "an object or a list" if isinstance(text, Mapping | list | tuple) else repr(text)
        raise BadInput(f"{what} {told}: must be a JMESPath expression, such as data.repository.name")
    if len(text) > MAX_LENGTH:
        raise BadInput(f"{what}: at most {MAX_LENGTH} characters, this has {len(text)}")
    try:
        _parsed(text)
    except BadInput as fault:
        raise BadInput(f"{what} {text!r}: {fault}") from None
    return text


def ask(text: str, value: object) -> Any:
    """What the expression says of the value.

    Raises: Unanswerable.
    """
    try:
        return _Counting().visit(_parsed(text), value)
    except (JMESPathError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise Unanswerable(_line(error)) from error


def is_true(answer: object) -> bool:
    """As JMESPath has it: false, null and whatever is empty are not."""
    return not (answer is None or answer is False or answer in ("", [], {}))


class _Counting(TreeInterpreter):
    """Gives up after so many steps."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_STEPS

    def visit(self, node: Node, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Unanswerable(f"it takes more than {MAX_STEPS:,} steps")
        return super().visit(node, *args, **kwargs)


@lru_cache(maxsize=16_384)
def _parsed(text: str) -> Node:
    try:
        tree: Node = Parser().parse(text).parsed
        _check(tree, 0)
    except (JMESPathError, ValueError, RecursionError) as error:
        raise BadInput(_line(error)) from None
    return tree


def _check(node: Node, level: int) -> None:
    if level > MAX_LEVELS:
        raise BadInput(f"is nested deeper than {MAX_LEVELS} levels")
    kind = node["type"]
    if kind == "function_expression" and node["value"] not in FUNCTIONS:
        raise BadInput(f"has no function {node['value']!r}; there are {', '.join(sorted(FUNCTIONS))}")
    children = _children(node)
    if kind in _FLOWS and children and children[0]["type"] == "not_expression":
        # As the library binds it, where everybody means the other: it would never be true.
        raise BadInput("is read as (!a).b: write !(a.b)")
    if kind in _FLOWS and children and _builds(children[0]) and any(map(_builds_anywhere, children[1:])):
        raise BadInput("what was built with […] or {…} cannot be built upon once more")
    if kind == "flatten" and children and _builds(children[0]):
        raise BadInput("what was built with […] or {…} cannot be flattened")
    for child in children:
        _check(child, level + 1)


def _children(node: Node) -> list[Node]:
    """A slice's are numbers."""
    return [child for child in node.get("children", ()) if isinstance(child, dict)]


def _builds(node: Node) -> bool:
    """Whether something built may come out of it."""
    return _builds_anywhere(node) and node["type"] not in ("comparator", "not_expression")


def _builds_anywhere(node: Node) -> bool:
    return any(part["type"] in _BUILDERS for part in _parts(node))


def _parts(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        part = stack.pop()
        yield part
        stack += _children(part)


def _line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
