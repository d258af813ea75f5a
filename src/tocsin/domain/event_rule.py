"""Which events call a trigger, what its run is given of them, and how many of them make one run.

An event rule is to an event trigger what a schedule is to a scheduled one. Matching is pure: the same event and the
same rule give the same answer on every replica.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import translate
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from tocsin.domain.duration import LONGEST, format_duration, parse_duration
from tocsin.domain.errors import BadInput
from tocsin.domain.event import HUB, HUB_TYPES, MAX_ATTRIBUTE, Event
from tocsin.domain.expression import Unanswerable, ask, check_expression, is_true

MAX_DEPTH: Final = 8
MOST_DEPTH: Final = 100
MAX_BATCH: Final = 1_000
DEFAULT_BATCH: Final = 100
SHORTEST: Final = timedelta(milliseconds=100)
MAX_KEY: Final = 200
"""Characters of what ``per`` says; of longer ones a hash is kept."""

WINDOWS: Final = ("debounce", "throttle", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule:
    """type, source, subject: exact, or with ``*`` and ``?``. where, input, per: JMESPath, asked of the whole event.

    input: what a run is given; None for the event itself. At most one of debounce (one run, once it has been quiet
    for so long), throttle (at most one run in so long) and batch (one run for all of so long, with a list as input, of
    at most batch_size). per: events with the same answer share a window; None for one window of all.
    max_depth: runs that may stand one after the other in a chain of events.
    """

    type: str
    source: str | None = None
    subject: str | None = None
    where: str | None = None
    input: str | None = None
    debounce: timedelta | None = None
    throttle: timedelta | None = None
    batch: timedelta | None = None
    batch_size: int = DEFAULT_BATCH
    per: str | None = None
    max_depth: int = MAX_DEPTH
    _patterns: tuple[re.Pattern[str] | None, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("type", "source", "subject"):
            pattern = getattr(self, name)
            if pattern is not None or name == "type":
                _check_pattern(name, pattern)
        for name in ("where", "input", "per"):
            if getattr(self, name) is not None:
                check_expression(name, getattr(self, name))
        self._check_windows()
        if type(self.max_depth) is not int or not 1 <= self.max_depth <= MOST_DEPTH:
            raise BadInput(f"max_depth must be 1–{MOST_DEPTH}, not {self.max_depth!r}")
        patterns = tuple(_compiled(pattern) for pattern in (self.type, self.source, self.subject))
        object.__setattr__(self, "_patterns", patterns)

    def _check_windows(self) -> None:
        given = [name for name in WINDOWS if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadInput(f"{given[1]} does not go with {given[0]}: one window at most")
        for name in given:
            if not SHORTEST <= getattr(self, name) <= LONGEST:
                raise BadInput(f"{name} must be from 0.1 s to 100 years")
        if self.per is not None and not given:
            raise BadInput("per does nothing without debounce, throttle or batch")
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= MAX_BATCH:
            raise BadInput(f"batch_size must be 1–{MAX_BATCH}, not {self.batch_size!r}")
        if self.batch_size != DEFAULT_BATCH and self.batch is None:
            raise BadInput("batch_size does nothing without batch")

    @property
    def is_windowed(self) -> bool:
        return self.debounce is not None or self.throttle is not None or self.batch is not None

    @property
    def exact_type(self) -> str | None:
        """The only type that it matches, if there is only one."""
        return None if _is_glob(self.type) else self.type

    def matches(self, event: Event) -> bool:
        """Raises: Unanswerable, when the filter has no answer for this event."""
        texts = (event.type, event.source, event.subject)
        for pattern, text in zip(self._patterns, texts, strict=True):
            if pattern is not None and (text is None or not pattern.fullmatch(text)):
                return False
        return self.where is None or is_true(ask(self.where, event.view()))

    def refusal(self, event: Event) -> str | None:
        """Why it does not match, in words; None where it does."""
        for name, pattern in zip(("type", "source", "subject"), self._patterns, strict=True):
            text = getattr(event, name)
            if pattern is not None and (text is None or not pattern.fullmatch(text)):
                return f"{name} {text!r} is not {getattr(self, name)}"
        try:
            return None if self.where is None or is_true(ask(self.where, event.view())) else f"not so: {self.where}"
        except Unanswerable as error:
            return f"no answer to {self.where}: {error}"

    def input_of(self, event: Event) -> Any:
        """Raises: Unanswerable."""
        view = event.view()
        return view if self.input is None else ask(self.input, view)

    def window_of(self, event: Event) -> str:
        """The key of the window that the event falls into. Raises: Unanswerable."""
        if self.per is None:
            return ""
        text = str(ask(self.per, event.view()))
        return text if len(text) <= MAX_KEY else f"blake2b:{blake2b(text.encode(), digest_size=16).hexdigest()}"

    def hears(self) -> list[list[str]]:
        """(type, LIKE pattern of the subject) of what the hub itself may tell it: the rest is not even written.

        A ``_`` or ``%`` that stands for itself lets through a little more than it should, which ``matches`` keeps out.
        """
        if self.source is not None and not _matches(self.source, HUB):
            return []
        subject = "%" if self.subject is None else _like(self.subject)
        return [[kind, subject] for kind in HUB_TYPES if _matches(self.type, kind)]

    def to_json(self) -> dict[str, Any]:
        """The canonical form; what has its default is left out."""
        form: dict[str, Any] = {"type": self.type}
        for name in ("source", "subject", "where", "input", "per"):
            if getattr(self, name) is not None:
                form[name] = getattr(self, name)
        for name in WINDOWS:
            if getattr(self, name) is not None:
                form[f"{name}_seconds"] = getattr(self, name).total_seconds()
        if self.batch_size != DEFAULT_BATCH:
            form["batch_size"] = self.batch_size
        if self.max_depth != MAX_DEPTH:
            form["max_depth"] = self.max_depth
        return form

    @classmethod
    def from_json(cls, form: object) -> "EventRule":
        """Raises: BadInput."""
        if not isinstance(form, Mapping):
            raise BadInput("an event rule must be an object")
        fields: dict[str, Any] = {}
        for name, value in form.items():
            window = name.removesuffix("_seconds") if isinstance(name, str) else ""
            if name in _FIELDS:
                fields[name] = value
            elif window in WINDOWS and window != name:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise BadInput(f"{name} must be a number of seconds")
                fields[window] = _length(name, value)
            else:
                advice = f"say {name}_seconds" if name in WINDOWS else f"there are {', '.join(_NAMES)}"
                raise BadInput(f"an event rule has no {str(name)[:80]!r}: {advice}")
        if "type" not in fields:
            raise BadInput("an event rule needs a type")
        return cls(**fields)

    def __str__(self) -> str:
        """The rule in one line, as listings show it."""
        parts = [f"on {self.type}"]
        parts += [f"{name} {getattr(self, name)}" for name in ("source", "subject", "where") if getattr(self, name)]
        parts += [f"{name} {format_duration(getattr(self, name))}" for name in WINDOWS if getattr(self, name)]
        return " ".join(parts + ([f"per {self.per}"] if self.per else []))


OPTIONS: Final = ("type", "source", "subject", "where", "input", *WINDOWS, "batch_size", "per", "max_depth")
"""What an author may say of the events that call a trigger."""

_NAMES: Final = tuple(f"{name}_seconds" if name in WINDOWS else name for name in OPTIONS)
"""The same as a form has it."""

_FIELDS: Final = frozenset({"type", "source", "subject", "where", "input", "batch_size", "per", "max_depth"})


def on_event(
    type: str,  # noqa: A002 — the word that CloudEvents has for it
    *,
    source: str | None = None,
    subject: str | None = None,
    where: str | None = None,
    input: str | None = None,  # noqa: A002 — the word that the author's face uses everywhere
    debounce: str | float | timedelta | None = None,
    throttle: str | float | timedelta | None = None,
    batch: str | float | timedelta | None = None,
    batch_size: int = DEFAULT_BATCH,
    per: str | None = None,
    max_depth: int = MAX_DEPTH,
) -> EventRule:
    """The events that call a trigger, as in ``on_event("com.github.push", where="data.ref == 'refs/heads/main'")``.

    Raises: BadInput.
    """
    return EventRule(
        type=type,
        source=source,
        subject=subject,
        where=where,
        input=input,
        debounce=_length("debounce", debounce),
        throttle=_length("throttle", throttle),
        batch=_length("batch", batch),
        batch_size=batch_size,
        per=per,
        max_depth=max_depth,
    )


def read_rule(given: Mapping[str, Any]) -> EventRule:
    """The rule of a table of ``on_event``'s options.

    Raises: BadInput, for the first fault.
    """
    for name in given:
        if name not in OPTIONS:
            raise BadInput(f"{name} is unknown; must be one of {', '.join(OPTIONS)}")
    if "type" not in given:
        raise BadInput("type is missing")
    return on_event(**given)


def _length(name: str, length: str | float | timedelta | None) -> timedelta | None:
    try:
        return None if length is None else parse_duration(length)
    except BadInput as fault:
        raise BadInput(f"{name}: {str(fault).removeprefix('duration ')}") from None


def _check_pattern(name: str, pattern: object) -> None:
    if not isinstance(pattern, str) or not pattern or not pattern.isprintable():
        raise BadInput(f"{name} {pattern!r}: must be a text, such as com.github.push or com.github.*")
    if len(pattern) > MAX_ATTRIBUTE:
        raise BadInput(f"{name}: at most {MAX_ATTRIBUTE} characters, this has {len(pattern)}")
    if len(re.findall(r"\*+", pattern)) > 10:
        raise BadInput(f"{name} {pattern!r}: at most ten asterisks")


def _is_glob(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


@lru_cache(maxsize=4_096)
def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    """None where everything matches. A bracket is a bracket: sources may have one."""
    return None if pattern is None or pattern == "*" else re.compile(translate(pattern.replace("[", "[[]")))


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is None or compiled.fullmatch(text) is not None


def _like(pattern: str) -> str:
    return re.sub(r"\*+", "%", pattern).replace("?", "_")
