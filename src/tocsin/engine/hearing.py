"""The triggers that listen, as this process remembers them.

Reads: all of them, when the version that came with the events is not the one that is remembered. Whoever writes a
run holds its trigger first, and finds an older version out. Those of one type are found by it. The call of a webhook is
for its own trigger, and for those that name such a source; else whoever may call one hook could call every trigger.
"""

from dataclasses import dataclass
from uuid import UUID

from tocsin.domain.errors import BadInput
from tocsin.domain.event import HOOKS, Event
from tocsin.domain.event_rule import EventRule
from tocsin.domain.trigger import TriggerSpec
from tocsin.store.database import Session
from tocsin.store.events import Events, Listening
from tocsin.store.trigger_rows import read_spec


@dataclass(frozen=True, slots=True)
class Listener:
    """A trigger that listens, its row read."""

    id: UUID
    name: str
    version: int
    spec: TriggerSpec
    rule: EventRule

    @property
    def names_hooks(self) -> bool:
        """Whether its rule has such a source."""
        return (self.rule.source or "").startswith(HOOKS)

    def deafness(self, event: Event) -> str | None:
        """Why the event is not for it whatever its rule says, in words."""
        own = f"{HOOKS}{self.name}"
        if self.spec.hook is not None:
            return None if event.source == own else f"it has a hook: only calls of {own} are for it"
        if event.source.startswith(HOOKS) and not self.names_hooks:
            return f"a webhook's call is for those whose rule names its source: {event.source!r}"
        return None


@dataclass(frozen=True, slots=True)
class Unreadable:
    id: UUID
    name: str
    version: int
    reason: str


class Hearing:
    """Shared by all who match events in one process. Reading it anew twice at once does no harm."""

    def __init__(self) -> None:
        self._version = ""
        self._by_type: dict[str, list[Listener]] = {}
        self._others: list[Listener] = []
        self._by_hook: dict[str, Listener] = {}
        self._to_hooks: list[Listener] = []
        self.unreadable: list[Unreadable] = []

    def knows(self, version: str) -> bool:
        return self._version == version

    async def read(self, session: Session, events: Events) -> None:
        """All that listens stands here as it does in the database."""
        version, rows = await events.listening(session)
        by_type: dict[str, list[Listener]] = {}
        others: list[Listener] = []
        by_hook: dict[str, Listener] = {}
        to_hooks: list[Listener] = []
        unreadable: list[Unreadable] = []
        for row in rows:
            try:
                listener = _read(row)
            except (BadInput, ValueError, TypeError, LookupError, RecursionError) as error:
                unreadable.append(Unreadable(row.id, row.name, row.version, str(error) or type(error).__name__))
                continue
            kind = listener.rule.exact_type
            if listener.spec.hook is not None:
                by_hook[f"{HOOKS}{listener.name}"] = listener
            elif listener.names_hooks:
                to_hooks.append(listener)
            else:
                (others if kind is None else by_type.setdefault(kind, [])).append(listener)
        self._by_type, self._others, self._by_hook, self._to_hooks = by_type, others, by_hook, to_hooks
        self.unreadable, self._version = unreadable, version

    def candidates(self, event: Event) -> list[Listener]:
        """Those whom the event may be for, all as of this moment."""
        if event.source.startswith(HOOKS):
            own = self._by_hook.get(event.source)
            return [*([own] if own is not None else ()), *self._to_hooks]
        return [*self._by_type.get(event.type, ()), *self._others]

    def all(self) -> list[Listener]:
        """All that listen, to whatever."""
        plain = (listener for found in self._by_type.values() for listener in found)
        return [*plain, *self._others, *self._by_hook.values(), *self._to_hooks]

    def forget(self) -> None:
        """It is read anew before it is used again."""
        self._version = ""


def _read(row: Listening) -> Listener:
    spec = read_spec(row.agent, None, row.policy)
    if spec.event is None:
        raise BadInput("it listens but has no event rule")
    return Listener(row.id, row.name, row.version, spec, spec.event)
