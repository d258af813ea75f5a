"""What an author may say of an agent and of a trigger, read alike from Python and from TOML."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, Literal, TypedDict

import msgspec

from tocsin.domain.agent import AgentSpec, OnLost
from tocsin.domain.duration import parse_duration
from tocsin.domain.errors import BadInput
from tocsin.domain.hook import Hook, read_hook
from tocsin.domain.payload import encode
from tocsin.domain.trigger import CatchUp, Overlap

Length = str | float | timedelta
"""``"10m"``, a number of seconds, or a timedelta."""

ExceptionNames = type[BaseException] | str | Sequence[type[BaseException] | str]


class AgentOptions(TypedDict, total=False):
    """See AgentSpec; retries: attempts after the first."""

    timeout: Length | None
    deadline: Length | None
    retries: int
    backoff: Length
    backoff_cap: Length
    retry_on: ExceptionNames
    no_retry: ExceptionNames
    on_lost: OnLost | Literal["retry", "fail"]
    concurrency: int | None
    concurrency_key: str | None
    cancel_within: Length
    suspect_after: Length | None
    dead_after: Length | None
    stall_after: Length | None


class TriggerOptions(TypedDict, total=False):
    """See TriggerSpec."""

    overlap: Overlap | Literal["skip", "queue_one", "queue_all", "cancel_previous", "allow"]
    overlap_scope: str
    catch_up: CatchUp | Literal["skip", "latest", "all"]
    catch_up_window: Length | None
    max_catch_up: int
    grace: Length
    expires_after: Length | None
    priority: int
    hook: Hook | None


@dataclass(frozen=True, slots=True)
class Option:
    """The field of a spec that an option sets, and how its value is read."""

    field: str
    read: Callable[[Any], object]


def _length(value: Any) -> timedelta:
    try:
        return parse_duration(value)
    except BadInput as fault:
        raise BadInput(str(fault).removeprefix("duration ")) from None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"{value!r}: must be a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{value!r}: must be a text")
    return value


def _hook(value: object) -> Hook:
    if isinstance(value, Hook):
        return value
    if not isinstance(value, Mapping):
        raise BadInput(
            f'{value!r}: must be webhook(…), or a table such as {{scheme = "github", secret = "GITHUB_SECRET"}}'
        )
    try:
        return read_hook(value)
    except BadInput as fault:
        raise BadInput(str(fault).removeprefix("hook ").removeprefix("hook: ")) from None


def _or_none(read: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda value: None if value is None else read(value)


def _one_of(kind: type[StrEnum]) -> Callable[[Any], object]:
    def read(value: object) -> StrEnum:
        if isinstance(value, str) and value in list(kind):
            return kind(value)
        raise BadInput(f"{value!r}: must be one of {', '.join(kind)}{nearest(value, list(kind))}")

    return read


def _exceptions(value: object) -> tuple[str, ...]:
    several = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    return tuple(dict.fromkeys(_exception(one) for one in several))


def _exception(one: object) -> str:
    """The bare name of the class, as outcomes carry it."""
    if isinstance(one, type) and issubclass(one, BaseException):
        return one.__name__
    name = one.rpartition(".")[2] if isinstance(one, str) else ""
    if not name.isidentifier() and name not in ("exit", "signal"):
        raise BadInput(f"{one!r}: must be an exception class, or its name")
    return name


AGENT_OPTIONS: Final[Mapping[str, Option]] = {
    "timeout": Option("timeout", _or_none(_length)),
    "deadline": Option("deadline", _or_none(_length)),
    "retries": Option("max_attempts", lambda value: 1 + _count(value)),
    "backoff": Option("backoff_base", _length),
    "backoff_cap": Option("backoff_cap", _length),
    "retry_on": Option("retry_on", _exceptions),
    "no_retry": Option("no_retry", _exceptions),
    "on_lost": Option("on_lost", _one_of(OnLost)),
    "concurrency": Option("concurrency", _or_none(_count)),
    "concurrency_key": Option("concurrency_key", _or_none(_text)),
    "cancel_within": Option("cancel_within", _length),
    "suspect_after": Option("suspect_after", _or_none(_length)),
    "dead_after": Option("dead_after", _or_none(_length)),
    "stall_after": Option("stall_after", _or_none(_length)),
}
TRIGGER_OPTIONS: Final[Mapping[str, Option]] = {
    "overlap": Option("overlap", _one_of(Overlap)),
    "overlap_scope": Option("overlap_scope", _text),
    "catch_up": Option("catch_up", _one_of(CatchUp)),
    "catch_up_window": Option("catch_up_window", _or_none(_length)),
    "max_catch_up": Option("max_catch_up", _count),
    "grace": Option("grace", _length),
    "expires_after": Option("expires_after", _or_none(_length)),
    "priority": Option("priority", _count),
    "hook": Option("hook", _or_none(_hook)),
}


def read_options(
    table: Mapping[str, Option], given: Mapping[str, object], *, beside: Sequence[str] = ()
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The fields of the spec that were given, and the faults as (option, text).

    beside: further options that the caller reads itself, known for the sake of advice.
    """
    fields: dict[str, Any] = {}
    faults: list[tuple[str, str]] = []
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            faults.append((name, f"is unknown{nearest(name, [*table, *beside])}"))
            continue
        try:
            fields[option.field] = option.read(value)
        except BadInput as fault:
            faults.append((name, str(fault)))
    return fields, faults


def options_of(kind: str, name: object, table: Mapping[str, Option], given: Mapping[str, object]) -> dict[str, Any]:
    """The fields of the spec that were given.

    Raises: BadInput, for the first fault, naming what is declared.
    """
    fields, faults = read_options(table, given)
    if faults:
        raise BadInput(f"{kind} {name!r}: {': '.join(faults[0])}")
    return fields


def agent_spec(name: str, given: Mapping[str, object]) -> AgentSpec:
    """Raises: BadInput, for the first fault."""
    return AgentSpec(name=name, **options_of("agent", name, AGENT_OPTIONS, given))


def json_value(value: object, *, what: str) -> Any:
    """The value as it will be read back from the store: tuples are lists, instants are texts.

    Raises: BadInput, PayloadTooLarge.
    """
    return msgspec.json.decode(encode(value, what=what))


def nearest(name: object, known: Sequence[str]) -> str:
    """``; did you mean …?``, where one of the known names is near."""
    found = get_close_matches(name, [str(one) for one in known], n=1) if isinstance(name, str) else ()
    return f"; did you mean {found[0]!r}?" if found else ""
