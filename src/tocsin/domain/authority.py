"""What a key lets its bearer do. A key has one or more scopes, which hold for every replica alike."""

from collections.abc import Collection
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """READ: look at everything. OPERATE: also fire, pause, resume, cancel, retry. ADMIN: also write triggers and
    keys. EMIT: send events, and nothing else. AGENT: connect as a process that runs agents, and nothing else.
    """

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    EMIT = "emit"
    AGENT = "agent"


OF_API: Final = (Scope.READ, Scope.OPERATE, Scope.ADMIN, Scope.EMIT)

_BELOW: Final[dict[Scope, frozenset[Scope]]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.OPERATE, Scope.READ}),
    Scope.ADMIN: frozenset({Scope.ADMIN, Scope.OPERATE, Scope.READ, Scope.EMIT}),
    Scope.EMIT: frozenset({Scope.EMIT}),
    Scope.AGENT: frozenset({Scope.AGENT}),
}


def allows(held: Collection[Scope], wanted: Scope) -> bool:
    """Whether one of the scopes is, or includes, the wanted one."""
    return any(wanted in _BELOW[scope] for scope in held)
