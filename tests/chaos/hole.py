"""A guard that is taken out of a fleet by itself, and which invariant is to notice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tocsin.store import database
from tocsin.store.statements import Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A guard that is gone. says: which; caught_by: the invariant that is meant to notice.

    install: in each replica; elsewhere: in each agent process; sql: on the database; settings: of the server.
    faults: what brings it to light.
    """

    says: str
    caught_by: str
    install: Callable[[], None] = lambda: None
    elsewhere: Callable[[], None] = lambda: None
    sql: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[str] = ()
    seconds: float = 10
    calm: float = 3


def put(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def statements(make: Callable[[], Statements]) -> Callable[[], None]:
    """The process's statements are these."""
    return lambda: put(database, "load", make)
