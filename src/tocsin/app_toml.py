"""APP files in TOML. All faults are found at once, each with its file and its key.

    [agents.NAME]      command = ["prog", "arg"], cwd, env      or      python = "pkg.mod:function"
                       timeout, deadline, retries, … as in @hub.agent
    [triggers.NAME]    agent, input
                       cron = "…" | ["…", "…"], tz, gap, fold; every = "5m", after_completion; at = instant | [instants]
                       start_at, end_at, max_occurrences, jitter, except
                       or on_event = {type = "…", source, subject, where, input, debounce, …} as in on_event(…)
                       overlap, catch_up, priority, … as in hub.trigger

Several rules in one trigger are a union. A program starts in the file's directory, and a ``cwd`` that is
relative counts from there. A ``[hub]`` table holds settings, which are read elsewhere.
"""

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from tocsin.declared import AgentFunction, App, CommandAgent
from tocsin.domain.agent import AgentSpec, check_name
from tocsin.domain.errors import BadInput, InvalidApp, InvalidSchedule
from tocsin.domain.event_rule import OPTIONS as EVENT_OPTIONS
from tocsin.domain.event_rule import EventRule, on_event
from tocsin.domain.rules import Cron, Rule
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import TriggerSpec, default_overlap
from tocsin.options import AGENT_OPTIONS, TRIGGER_OPTIONS, Option, json_value, nearest, read_options
from tocsin.toml_rules import BOUNDS, Table, rule_of

SECTIONS: Final = ("agents", "triggers", "hub")
AGENT_KEYS: Final = ("command", "cwd", "env", "python")
RULE_KEYS: Final = ("cron", "every", "at")
BOUND_KEYS: Final = (
    "tz",
    "gap",
    "fold",
    "after_completion",
    "start_at",
    "end_at",
    "max_occurrences",
    "jitter",
    "except",
)
TRIGGER_KEYS: Final = ("agent", "input", "on_event", *RULE_KEYS, *BOUND_KEYS)

#: Options that are judged only together with others.
_BESIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "backoff_base": ("backoff_cap",),
    "backoff_cap": ("backoff_base",),
    "concurrency_key": ("concurrency",),
}
#: In place of what was refused, so that the rest can be judged.
_STAND_IN: Final = "x"
_ANY_RULE: Final = Cron("* * * * *")
_STAND_INS: Final[Mapping[str, Any]] = {"start_at": datetime.min.replace(tzinfo=UTC)}
_SPECS: Final[Mapping[str, tuple[Callable[..., Any], Mapping[str, Option]]]] = {
    "agent": (AgentSpec, AGENT_OPTIONS),
    "trigger": (partial(TriggerSpec, agent=_STAND_IN), TRIGGER_OPTIONS),
}


def read_toml(path: Path) -> App:
    """The app of a TOML file.

    Raises: InvalidApp, with all faults.
    """
    return _Reading(path).read()


class _Reading:
    """One file being read; faults gather until the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: list[str] = []
        self._functions: dict[str, AgentFunction] = {}
        self._commands: dict[str, CommandAgent] = {}
        self._triggers: list[TriggerSpec] = []

    def read(self) -> App:
        content = self._content()
        for key in content:
            if key not in SECTIONS:
                self._fault(key, f"is unknown{nearest(key, SECTIONS)}")
        agents, triggers = self._section(content, "agents"), self._section(content, "triggers")
        for name, table in agents.items():
            self._agent(name, table)
        for name, table in triggers.items():
            self._trigger(name, table, agents)
        if self._faults:
            raise InvalidApp(self._faults)
        return App(
            source=str(self._path),
            functions=self._functions,
            commands=self._commands,
            triggers=tuple(self._triggers),
        ).checked()

    def _content(self) -> Table:
        try:
            return tomllib.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InvalidApp([f"{self._path}: no such file"]) from None
        except UnicodeDecodeError as error:
            raise InvalidApp([f"{self._path}: is not UTF-8: {error.reason} at byte {error.start}"]) from None
        except OSError as error:
            raise InvalidApp([f"{self._path}: cannot be read: {error.strerror}"]) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidApp([f"{self._path}: is not TOML: {error}"]) from None

    def _section(self, content: Table, name: str) -> dict[str, Table]:
        section = content.get(name, {})
        if not isinstance(section, dict):
            self._fault(name, f"must be tables, as in [{name}.NAME]")
            return {}
        for key, table in section.items():
            if not isinstance(table, dict):
                self._fault(f"{name}.{key}", f"must be a table, as in [{name}.{key}]")
        return {key: table for key, table in section.items() if isinstance(table, dict)}

    def _agent(self, name: str, table: Table) -> None:
        key = f"agents.{name}"
        fields = self._options(key, AGENT_OPTIONS, table, AGENT_KEYS)
        if ("command" in table) == ("python" in table):
            self._fault(key, 'must have either command = ["program"] or python = "pkg.mod:function"')
            return
        # After a fault the rest of the table is still read, for its own faults.
        spec = self._spec("agent", key, name, fields) or AgentSpec(name=_STAND_IN)
        with self._faults_at(key, f"agent {name!r}: ", f"agent {_STAND_IN!r}: "):
            if "python" in table:
                self._functions[name] = self._function(f"{key}.python", spec, table["python"])
            else:
                self._commands[name] = self._command(key, spec, table)

    def _function(self, key: str, spec: AgentSpec, ref: object) -> AgentFunction:
        module, _, name = ref.partition(":") if isinstance(ref, str) else ("", "", "")
        if not module or not name:
            raise _Fault(key, f'{ref!r}: must be "pkg.mod:function"')
        here = str(self._path.resolve().parent)
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            found: object = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # an author's code may raise anything
            told = str(error).splitlines() or [""]
            raise _Fault(key, f"{ref!r}: {type(error).__name__}: {told[0]}") from error
        return AgentFunction.of(spec, found)

    def _command(self, key: str, spec: AgentSpec, table: Table) -> CommandAgent:
        argv, cwd, env = table["command"], table.get("cwd", "."), table.get("env", {})
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
            raise _Fault(f"{key}.command", f'{argv!r}: must be a list of texts, as in ["/usr/bin/pg_dump", "shop"]')
        if not isinstance(cwd, str):
            raise _Fault(f"{key}.cwd", f"{cwd!r}: must be a text")
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise _Fault(f"{key}.env", "must be a table of texts")
        place = self._path.resolve().parent / cwd
        return CommandAgent(spec=spec, argv=tuple(argv), cwd=str(place), env=env)

    def _trigger(self, name: str, table: Table, agents: Table) -> None:
        key = f"triggers.{name}"
        before = len(self._faults)
        fields = self._options(key, TRIGGER_OPTIONS, table, TRIGGER_KEYS)
        agent = table.get("agent")
        if not isinstance(agent, str) or agent not in agents:
            missing = "is missing" if agent is None else f"no agent {agent!r}"
            self._fault(
                f"{key}.agent", f"{missing}; declared: {', '.join(agents) or 'none'}{nearest(agent, list(agents))}"
            )
        with self._faults_at(f"{key}.input"):
            fields["input"] = json_value(table.get("input"), what="input")
        fields["schedule"] = self._schedule(key, table)
        caller = next((name for name in ("on_event", "hook") if name in table), None)
        if caller is not None:
            for stray in [name for name in ("input", *RULE_KEYS) if name in table]:
                self._fault(f"{key}.{stray}", f"does not go with {caller}")
            fields |= {"input": None, "schedule": None}
            if "on_event" in table:
                fields["event"] = self._event(f"{key}.on_event", table["on_event"])
            fields.setdefault("overlap", default_overlap(fields.get("event"), fields.get("hook")))
        spec = self._spec("trigger", key, name, fields)
        if spec is not None and len(self._faults) == before:
            self._triggers.append(replace(spec, agent=str(agent)))

    def _event(self, key: str, given: Any) -> EventRule | None:
        """None after a fault."""
        if not isinstance(given, dict):
            self._fault(key, 'must be a table, as in {type = "com.github.push"}')
            return None
        strange = [name for name in given if name not in EVENT_OPTIONS]
        for name in strange:
            self._fault(f"{key}.{name}", f"is unknown{nearest(name, EVENT_OPTIONS)}")
        if "type" not in given:
            self._fault(f"{key}.type", "is missing")
        elif not strange:
            with self._faults_at(key):
                return on_event(**given)
        return None

    def _spec(self, kind: str, key: str, name: str, fields: Mapping[str, Any]) -> Any:
        """None after a fault; each option is tried by itself first, so that one hides no other."""
        build, options = _SPECS[kind]
        before = len(self._faults)
        with self._faults_at(key):
            check_name(kind, name)
        told: set[str] = set()
        for option, meant in options.items():
            alone = {field: fields[field] for field in (meant.field, *_BESIDE.get(meant.field, ())) if field in fields}
            try:
                build(name=_STAND_IN, **alone)
            except BadInput as fault:
                text = str(fault).removeprefix(f"{kind} {_STAND_IN!r}: ")
                if text not in told:
                    self._fault(f"{key}.{option}", text.removeprefix(f"{option} "))
                told.add(text)
        if len(self._faults) == before:
            with self._faults_at(key, f"{kind} {name!r}: "):
                return build(name=name, **fields)
        return None

    def _schedule(self, key: str, table: Table) -> Schedule | None:
        """None also where there was a fault."""
        before = len(self._faults)
        given = [rule for rule in RULE_KEYS if rule in table]
        rules: list[Rule] = []
        for kind in given:
            rules += self._rules(key, kind, table)
        if not given:
            for stray in [bound for bound in BOUND_KEYS if bound in table]:
                self._fault(f"{key}.{stray}", "does nothing without cron, every or at")
            return None
        schedule = self._bounded(key, given[0], tuple(rules) or (_ANY_RULE,), self._bounds(key, table))
        return schedule if len(self._faults) == before else None

    def _bounds(self, key: str, table: Table) -> dict[str, Any]:
        """Those that could be read, under the schedule's names for them."""
        bounds: dict[str, Any] = {"max_occurrences": table.get("max_occurrences")}
        for name, read in BOUNDS.items():
            try:
                bounds["excepts" if name == "except" else name] = read(table)
            except InvalidSchedule as fault:
                self._schedule_fault(key, name, fault)
                if name in _STAND_INS:
                    bounds[name] = _STAND_INS[name]
        return bounds

    def _bounded(self, key: str, kind: str, rules: tuple[Rule, ...], bounds: dict[str, Any]) -> Schedule | None:
        """The schedule; None where a fault is in more than one bound. A bound that is refused is left out then."""
        while True:
            try:
                return Schedule(rules=rules, **bounds)
            except InvalidSchedule as fault:
                self._schedule_fault(key, kind, fault)
                if bounds.pop(fault.field, None) is None:
                    return None
                if fault.field in _STAND_INS:
                    bounds[fault.field] = _STAND_INS[fault.field]

    def _rules(self, key: str, kind: str, table: Table) -> list[Rule]:
        given = table[kind]
        several = given if isinstance(given, list) else [given]
        if not several:
            self._fault(f"{key}.{kind}", "must not be empty")
        rules: list[Rule] = []
        for one in several:
            try:
                rules.append(rule_of(kind, one, table))
            except InvalidSchedule as fault:
                self._schedule_fault(key, kind, fault)
        return rules

    def _options(
        self, key: str, options: Mapping[str, Option], table: Table, beside: tuple[str, ...]
    ) -> dict[str, Any]:
        given = {name: value for name, value in table.items() if name not in beside}
        fields, faults = read_options(options, given, beside=beside)
        for name, text in faults:
            self._fault(f"{key}.{name}", text)
        return fields

    def _fault(self, key: str, text: str) -> None:
        told = f"{self._path}: {key}: {text}"
        if told not in self._faults:  # a zone is read once for each rule
            self._faults.append(told)

    @contextmanager
    def _faults_at(self, key: str, *prefixes: str) -> Iterator[None]:
        try:
            yield
        except BadInput as fault:
            text = str(fault)
            for prefix in prefixes:
                text = text.removeprefix(prefix)
            self._fault(fault.key if isinstance(fault, _Fault) else key, text)

    def _schedule_fault(self, key: str, kind: str, fault: InvalidSchedule) -> None:
        """A fault in a field that is a key of the trigger is told there, others (``minute``) at the rule."""
        if fault.field in BOUND_KEYS or fault.field == kind:
            self._fault(f"{key}.{fault.field}", f"{_shown(fault.value)}: {fault.reason}")
        else:
            self._fault(f"{key}.{kind}", str(fault))


class _Fault(BadInput):
    """A fault at a key deeper than the one that is being read."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def _shown(value: object) -> str:
    return str(value) if isinstance(value, date) else repr(value)
