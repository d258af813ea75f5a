"""The author's face: a Hub on which agents and triggers are declared, and the reading of APP files."""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar, Unpack, cast, overload

from tocsin.app_toml import read_toml
from tocsin.declared import AgentFunction, App, CommandAgent
from tocsin.domain.errors import BadInput, InvalidApp, InvalidSchedule
from tocsin.domain.event_rule import EventRule
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec, default_overlap
from tocsin.options import TRIGGER_OPTIONS, AgentOptions, TriggerOptions, agent_spec, json_value, nearest, options_of

__all__ = ["App", "Hub", "load_app"]

F = TypeVar("F", bound=Callable[..., Any])

_NOT_THE_APP: Final = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)


class Hub:
    """What one app declares. Declaring the same again changes nothing; something else under a name is refused.

    name: by what its triggers are known as this app's, for ``--prune``; without one, the file's name.
    """

    def __init__(self, *, name: str = "") -> None:
        self._name = name
        self._functions: dict[str, AgentFunction] = {}
        self._commands: dict[str, CommandAgent] = {}
        self._triggers: dict[str, TriggerSpec] = {}

    @overload
    def agent(self, function: F, /) -> F: ...

    @overload
    def agent(
        self, function: None = None, /, *, name: str | None = None, **options: Unpack[AgentOptions]
    ) -> Callable[[F], F]: ...

    def agent(self, function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
        """The function is an agent, under its own name or the one given, and stays what it was.

        Raises: BadInput.
        """

        def declare(declared: F) -> F:
            spec = agent_spec(_name_of(declared) if name is None else name, options)
            self._declare(self._functions, spec.name, AgentFunction.of(spec, declared))
            return declared

        return declare if function is None else declare(function)

    def command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        **options: Unpack[AgentOptions],
    ) -> None:
        """The program is an agent; see tocsin.executors.command for what it is told and may answer.

        Raises: BadInput.
        """
        if isinstance(argv, str) or not all(isinstance(word, str) for word in argv):
            raise BadInput(f"agent {name!r}: command must be a list of texts, as in ['/usr/bin/pg_dump', 'shop']")
        spec = agent_spec(name, cast(Mapping[str, object], options))
        place = None if cwd is None else os.fspath(cwd)
        self._declare(
            self._commands, spec.name, CommandAgent(spec=spec, argv=tuple(argv), cwd=place, env=dict(env or {}))
        )

    def trigger(
        self,
        name: str,
        agent: str | Callable[..., Any],
        schedule: Schedule | EventRule | None = None,
        *,
        input: object = None,  # noqa: A002 — the word that the author's face uses everywhere
        **options: Unpack[TriggerOptions],
    ) -> None:
        """The agent is called as the schedule says, by the events that on_event(…) names, or over HTTP as
        hook=webhook(…) says; without any of them, when it is fired by hand.

        Raises: BadInput, PayloadTooLarge.
        """
        if schedule is not None and not isinstance(schedule, Schedule | EventRule):
            raise BadInput(
                f"trigger {name!r}: schedule must be cron(…), every(…), at(…) or on_event(…), not {schedule!r}"
            )
        event = schedule if isinstance(schedule, EventRule) else None
        fields = options_of("trigger", name, TRIGGER_OPTIONS, cast(Mapping[str, object], options))
        trigger = TriggerSpec(
            name=name,
            agent=agent if isinstance(agent, str) else self._name_under(name, agent),
            schedule=schedule if isinstance(schedule, Schedule) else None,
            event=event,
            input=json_value(input, what=f"trigger {name!r}: input"),
            **{"overlap": default_overlap(event, fields.get("hook"))} | fields,
        )
        if self._triggers.setdefault(name, trigger) != trigger:
            raise BadInput(f"trigger {name!r} is declared twice, differently: give one of them another name")

    def build(self, source: str = "hub") -> App:
        """Everything declared so far.

        Raises: InvalidApp, with all faults.
        """
        return App(
            source=source,
            name=self._name,
            functions=dict(self._functions),
            commands=dict(self._commands),
            triggers=tuple(self._triggers.values()),
        ).checked()

    def _declare(self, kind: dict[str, Any], name: str, agent: AgentFunction | CommandAgent) -> None:
        known = self._functions.get(name) or self._commands.get(name)
        if known is not None and known != agent:
            raise BadInput(f"agent {name!r} is declared twice, differently: give one of them another name=")
        kind[name] = agent

    def _name_under(self, trigger: str, function: Callable[..., Any]) -> str:
        names = [name for name, agent in self._functions.items() if agent.function is function]
        if len(names) == 1:
            return names[0]
        if names:
            raise BadInput(f"trigger {trigger!r}: the function is the agents {', '.join(names)}: say which by name")
        shown = getattr(function, "__qualname__", repr(function))
        raise BadInput(f"trigger {trigger!r}: {shown} is no agent of this hub: put @hub.agent above it")


def load_app(ref: str) -> App:
    """The app that a reference names: ``path/app.py[:hub]``, ``pkg.mod[:hub]`` or ``file.toml``.

    The directory of the file, or the current one, can be imported from afterwards, as in a script.

    Raises: InvalidApp, one line for each fault.
    """
    place, colon, name = ref.rpartition(":") if ":" in ref else (ref, "", "")
    if not place or (colon and not name.isidentifier()):
        raise InvalidApp([f"{ref!r} is no app; write path/app.py, pkg.mod, either with :name, or file.toml"])
    if place.endswith(".toml"):
        if name:
            raise InvalidApp([f"{ref}: a TOML file has no names in it; write {place}"])
        return read_toml(Path(place))
    by_path = place.endswith(".py") or "/" in place or os.sep in place
    module = _import_file(place) if by_path else _import_module(place)
    return _hub_of(module, place, name).build(place)


def _import_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise InvalidApp(
            [f"{place}: {'is a directory' if path.is_dir() else 'no such file'}; name a .py or .toml file"]
        )
    if path.suffix != ".py":
        raise InvalidApp([f"{place}: is neither .py nor .toml"])
    path = path.resolve()
    _make_importable(path.parent)
    # Under its own name, a module that imports the app back gets this one and not a second copy.
    taken = path.stem in sys.stdlib_module_names or path.stem in sys.modules or not path.stem.isidentifier()
    name = f"_tocsin_app_{path.stem}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidApp([f"{place}: cannot be imported"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        del sys.modules[name]
        raise InvalidApp([_told(error, place)]) from error
    return module


def _import_module(place: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
            raise InvalidApp([_told(error, place)]) from error
        raise InvalidApp([f"{place}: no module {error.name!r}; is it installed, or is it a path?"]) from error
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        raise InvalidApp([_told(error, place)]) from error


def _make_importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _told(error: BaseException, place: str) -> str:
    """One line: where in the author's files, and what."""
    words = str(error).strip().splitlines() or [""]
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(error.filename, place)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, SystemExit):
        words = ["it ends the process while it is read; put that under if __name__ == '__main__'"]
    told = words[0] if isinstance(error, BadInput) else f"{type(error).__name__}: {words[0]}".rstrip(": ")
    if isinstance(error, InvalidSchedule):
        told = f"schedule: {told}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *_NOT_THE_APP))]
    return f"{_shown(own[-1].filename, place)}:{own[-1].lineno}: {told}" if own else f"{place}: {told}"


def _shown(filename: str, place: str) -> str:
    """The app's own file as its author wrote it, others from the current directory."""
    if Path(place).resolve() == Path(filename).resolve():
        return place
    with_cwd = Path(filename)
    return str(with_cwd.relative_to(Path.cwd())) if with_cwd.is_relative_to(Path.cwd()) else filename


def _hub_of(module: ModuleType, place: str, name: str) -> Hub:
    if name:
        found = vars(module).get(name)
        if isinstance(found, Hub):
            return found
        what = f"no {name!r} in it{nearest(name, list(vars(module)))}" if found is None else f"{name!r} is no Hub"
        raise InvalidApp([f"{place}: {what}"])
    hubs: dict[Hub, str] = {}
    for key, value in vars(module).items():
        if isinstance(value, Hub):
            hubs.setdefault(value, key)
    if not hubs:
        raise InvalidApp([f"{place}: no Hub in it; write hub = Hub() and declare agents on it"])
    if len(hubs) > 1:
        names = list(hubs.values())
        raise InvalidApp([f"{place}: several Hubs ({', '.join(names)}); say which, as in {place}:{names[0]}"])
    return next(iter(hubs))


def _name_of(function: object) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise BadInput(f"{function!r} has no name to call the agent by: give name=")
    return name
