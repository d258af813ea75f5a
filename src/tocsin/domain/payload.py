"""What may stand in an input, an output or a line of text: JSON and UTF-8 that PostgreSQL takes."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tocsin.domain.agent import MAX_PAYLOAD
from tocsin.domain.errors import BadInput, PayloadTooLarge

MAX_DEPTH: Final = 500
"""Levels of nesting; parsers of other languages give up not far above."""

MAX_TEXT: Final = 4_000

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def encode(value: object, *, what: str) -> bytes:
    """The value as JSON that the store takes.

    Dataclasses, msgspec structs, instants, UUIDs, sets and whatever has ``model_dump`` (pydantic)
    are taken too. ``what`` names the value in an error (``output``, ``input``).

    Raises: BadInput, naming the part at fault; PayloadTooLarge.
    """
    if value is None:
        return b"null"
    try:
        encoded = msgspec.json.encode(value, enc_hook=_dump)
    except RecursionError:
        raise BadInput(f"{what} is nested deeper than {MAX_DEPTH} levels, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise BadInput(_refusal(value, what, error)) from None
    _check_stored(encoded, what)
    # msgspec writes NaN and the infinities as null, so only a text with a null in it can hide one.
    if b"null" in encoded:
        _check_finite(value, what)
    return encoded


def accept(text: bytes, *, what: str) -> bytes:
    """A JSON text from outside, unchanged, once it is known that the store takes it.

    Raises: BadInput, also when it is not JSON; PayloadTooLarge.
    """
    if len(text) > MAX_PAYLOAD:
        raise PayloadTooLarge(what, size=len(text), limit=MAX_PAYLOAD)
    try:
        msgspec.json.decode(text)
    except RecursionError:
        raise BadInput(f"{what} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BadInput(f"{what} is not JSON: {error}") from None
    _check_stored(text, what)
    return text


def check_instant(value: datetime, *, what: str) -> None:
    """The store can hold the instant, which has an offset. Its driver takes the calendar's first and last for infinity.

    Raises: BadInput.
    """
    try:
        is_held = _FIRST < value.astimezone(UTC) < _LAST
    except OverflowError:
        is_held = False
    if not is_held:
        raise BadInput(
            f"{what} {value.isoformat()}: must lie within the years 1–9999 of UTC, but not at their very end"
        )


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """The text without what PostgreSQL refuses (NUL, lone surrogates), cut to ``limit`` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _dump(value: Any) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(type(value).__name__)


def _check_stored(encoded: bytes, what: str) -> None:
    if len(encoded) > MAX_PAYLOAD:
        raise PayloadTooLarge(what, size=len(encoded), limit=MAX_PAYLOAD)
    if b"\\u0000" in encoded and _NUL.search(encoded):
        raise BadInput(f"{what} has a NUL character (\\u0000), which PostgreSQL cannot store: remove it")
    # No text is deeper than it has opening brackets, so nearly every one is cleared by counting.
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(encoded) > MAX_DEPTH:
        raise BadInput(f"{what} is nested deeper than {MAX_DEPTH} levels")


def _depth(encoded: bytes) -> int:
    try:
        level: list[Any] = [msgspec.json.decode(encoded)]
    except RecursionError:
        return MAX_DEPTH + 1
    depth = 0
    while containers := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in containers for child in _inside(value)]
    return depth


def _inside(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _check_finite(value: object, what: str) -> None:
    stack: list[tuple[str, object]] = [(what, msgspec.to_builtins(value, enc_hook=_dump))]
    while stack:
        path, part = stack.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise BadInput(f"{path} is {part}, which JSON has no number for: use null or a text")
        stack.extend((path + step, child) for step, child in _children(part))


def _refusal(value: object, what: str, error: Exception) -> str:
    """Names the innermost part that cannot be encoded."""
    path, part = what, value
    while True:
        for step, child in _children(part):
            if not _encodes(child):
                path, part = path + step, child
                break
        else:
            break
    path = plain(path, 200)
    if isinstance(error, UnicodeEncodeError):
        return f"{path} has half a surrogate pair, which is no character: decode it with errors='replace'"
    if isinstance(part, Mapping):
        return f"{path} has a key that is neither a text nor a number: JSON's keys are texts"
    return f"{path} is of type {type(part).__name__}, which JSON has no form for: use dicts, lists, texts, numbers"


def _encodes(value: object) -> bool:
    try:
        msgspec.json.encode(value, enc_hook=_dump)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _children(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a value, each with its step in a path (``.name`` or ``[index]``)."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield f".{key}", child
    elif isinstance(value, list | tuple | set | frozenset):
        for index, child in enumerate(value):
            yield f"[{index}]", child
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
