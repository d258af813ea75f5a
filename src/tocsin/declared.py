"""What an app declares, as values: agents that are functions, agents that are programs, triggers."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import BadInput, InvalidApp
from tocsin.domain.trigger import TriggerSpec
from tocsin.options import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFunction:
    """A Python function as an agent. takes_run: it is handed the Run; else it is called bare."""

    spec: AgentSpec
    function: Callable[..., Any]
    is_async: bool
    takes_run: bool

    @classmethod
    def of(cls, spec: AgentSpec, function: object) -> "AgentFunction":
        """The function with what a look at its signature tells.

        Raises: BadInput, when it could not be called with a Run or with nothing.
        """
        at = f"agent {spec.name!r}"
        if not callable(function) or isinstance(function, type):
            raise BadInput(f"{at}: must be a function, not {_described(function)}")
        if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
            raise BadInput(f"{at}: {_described(function)} yields; an agent returns its result once")
        return cls(
            spec=spec,
            function=function,
            is_async=_is(inspect.iscoroutinefunction, function),
            takes_run=_takes_run(at, function),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAgent:
    """A program as an agent: started without a shell, in ``cwd``, with ``env`` added to the hub's own."""

    spec: AgentSpec
    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at = f"agent {self.spec.name!r}"
        if not self.argv or not self.argv[0]:
            raise BadInput(f"{at}: command must name a program, as in ['/usr/bin/pg_dump', 'shop']")
        if any("\0" in word for word in (*self.argv, self.cwd or "", *self.env, *self.env.values())):
            raise BadInput(f"{at}: command, cwd and env must not have NUL characters")
        for name in self.env:
            if not name or "=" in name or name.startswith("TOCSIN_"):
                raise BadInput(f"{at}: env {name!r}: must not be empty, have an '=' or begin with TOCSIN_")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """Everything one APP declares. source: where it was read from, for messages; name: what it calls itself."""

    source: str
    name: str = ""
    functions: Mapping[str, AgentFunction] = field(default_factory=dict)
    commands: Mapping[str, CommandAgent] = field(default_factory=dict)
    triggers: tuple[TriggerSpec, ...] = ()

    @property
    def identity(self) -> str:
        """By what its triggers are known to be its own: its name, or else its file's, wherever that lies."""
        return self.name or PurePath(self.source).name

    @property
    def agents(self) -> dict[str, AgentSpec]:
        functions = {name: agent.spec for name, agent in self.functions.items()}
        return functions | {name: agent.spec for name, agent in self.commands.items()}

    def checked(self) -> "App":
        """The app, once every trigger is known to name an agent of it.

        Raises: InvalidApp, with all faults.
        """
        agents = self.agents
        known = sorted(agents)
        faults = [
            f"{self.source}: trigger {trigger.name!r}: no agent {trigger.agent!r}; "
            f"declared: {', '.join(known) or 'none'}{nearest(trigger.agent, known)}"
            for trigger in self.triggers
            if trigger.agent not in agents
        ]
        if faults:
            raise InvalidApp(faults)
        return self


def _is(kind: Callable[[object], bool], function: Callable[..., Any]) -> bool:
    """Also for objects whose ``__call__`` is of that kind."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004 — it is looked into


def _takes_run(at: str, function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in positional if p.default is p.empty]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(needed) > 1 or named:
        asked = ", ".join([*needed[1:], *named])
        raise BadInput(f"{at}: takes one argument, the Run, or none; nothing can be given for {asked}")
    return bool(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _described(function: object) -> str:
    return f"{getattr(function, '__qualname__', None) or repr(function)}"
