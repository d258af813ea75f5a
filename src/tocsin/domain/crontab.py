"""A crontab read whole, and the TOML app that does the same.

User crontabs and the system's (with a user column), comments, environment lines, ``@daily`` and its
kin, ``%`` as cron means it (the end of the command, then lines of its stdin). Times are read as
Debian's cron reads them, which is how a trigger reads them too.

Source: crontab(5) of Debian's cron and of cronie.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tocsin.domain.errors import BadInput
from tocsin.domain.rules import Cron

DEFAULT_SHELL: Final = "/bin/sh"
LONGEST_NAME: Final = 40

_ENVIRONMENT: Final = re.compile(r"""(?P<name>[A-Za-z_][A-Za-z0-9_]*|"[^"]+"|'[^']+')\s*=\s*(?P<value>.*)""")
#: Users that are no commands at the same time, as ``mail`` and ``git`` are.
_USERS: Final = frozenset(
    ("root", "www-data", "nobody", "postgres", "daemon", "debian-snmp", "munin", "smmsp", "logcheck", "irc", "ubuntu")
)
_WRAPPERS: Final = frozenset(
    (
        *("sudo", "nice", "ionice", "nohup", "exec", "env", "chronic", "flock", "timeout", "time", "setsid", "chrt"),
        *("taskset", "command", "doas", "su", "runuser"),
    )
)
_INTERPRETERS: Final = re.compile(r"(ba|da|z|k|c|tc|fi)?sh|python[0-9.]*|perl|ruby|php[0-9.]*|node|java|Rscript")
_TELLS_NOTHING: Final = frozenset(["cd", "test", "[", "sleep", "export", ".", "source", "set", "umask", "true"])
_SUFFIXES: Final = re.compile(r"\.(sh|bash|py|pl|rb|php|js|jar|cgi|R)$")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_AMOUNT: Final = re.compile(r"[0-9]+[smhd]?")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]*")
_NOT_PASSED_ON: Final = {
    "MAILTO": "nothing is mailed; `tocsin run list --state failed` shows what failed",
    "MAILFROM": "nothing is mailed",
    "LOGNAME": "commands run as the hub's own user",
    "USER": "commands run as the hub's own user",
    "RANDOM_DELAY": 'is not taken over; set jitter = "…" on the triggers that should spread',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line that calls something. number: of its line; comment: the line above it."""

    number: int
    name: str
    agent: str
    expression: str
    tz: str
    command: str
    stdin: str | None = None
    shell: str = DEFAULT_SHELL
    cwd: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    comment: str = ""

    @property
    def argv(self) -> list[str]:
        return [self.shell, "-c", self.command if self.stdin is None else _with_stdin(self.command, self.stdin)]


@dataclass(frozen=True, slots=True)
class Crontab:
    """faults and notes: ``NUMBER: text``. With faults, nothing of it is to be used."""

    source: str
    entries: tuple[Entry, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Context:
    """What the lines above an entry say."""

    tz: str
    shell: str = DEFAULT_SHELL
    cwd: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    comment: str = ""


def read_crontab(text: str, *, source: str, system: bool | None = None, tz: str | None = None) -> Crontab:
    """Everything a crontab says. system: it has a user column; None finds out. tz: of times without CRON_TZ."""
    lines = text.replace("\r\n", "\n").split("\n")
    has_user = _looks_like_the_systems(lines) if system is None else system
    context = _Context(tz=tz or "UTC")
    entries: list[Entry] = []
    faults: list[str] = []
    notes: list[str] = []
    for number, line in enumerate(lines, 1):
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#"):
            context.comment = stripped.lstrip("# \t") if stripped else ""
            continue
        assigned = _ENVIRONMENT.fullmatch(stripped)
        try:
            if assigned is not None:
                notes += [f"{number}: {note}" for note in _assign(context, assigned)]
            elif stripped.lower().startswith("@reboot"):
                notes.append(f"{number}: @reboot is left out: it names no time; let the service manager start it")
            else:
                entries.append(_entry(number, stripped, context, has_user=has_user))
        except BadInput as fault:
            faults.append(f"{number}: {fault}")
        context.comment = ""
    if not entries and not faults:
        faults.append("1: holds no line that calls anything")
    users = sorted({entry.user for entry in entries if entry.user is not None})
    if users:
        notes.append(f"1: user column: commands run as the hub's own user, not as {', '.join(users)}")
    return Crontab(source, tuple(_named(entries)), tuple(faults), tuple(notes))


def write_app(crontab: Crontab) -> str:
    """The app as TOML, in the order of the lines."""
    head = [
        f"# From {crontab.source}: {len(crontab.entries)} lines.".replace("\n", " "),
        "# Programs start in this file's directory, where cron took the home directory: set cwd where that matters.",
        '# A run that is still going when the next is due makes it skip; overlap = "allow" is what cron does.',
        *(f"# line {note}" for note in crontab.notes),
    ]
    blocks = ["\n".join(head)]
    seen: set[str] = set()
    for entry in crontab.entries:
        if entry.agent not in seen:
            seen.add(entry.agent)
            blocks.append("\n".join(_agent_lines(entry)))
        blocks.append("\n".join(_trigger_lines(entry)))
    return "\n\n".join(blocks) + "\n"


def _assign(context: _Context, assigned: re.Match[str]) -> Iterator[str]:
    """The lines below know the variable; what has another meaning to cron is told.

    Raises: BadInput.
    """
    name, value = assigned["name"].strip("\"'"), _unquoted(assigned["value"])
    match name:
        case "CRON_TZ":
            Cron("0 0 * * *", value)
            context.tz = value
        case "SHELL":
            if not value.startswith("/"):
                raise BadInput(f"SHELL {value!r}: must be a path")
            context.shell = value
        case "HOME":
            context.cwd = value
            context.environment[name] = value
        case _ if name in _NOT_PASSED_ON:
            yield f"{name}: {_NOT_PASSED_ON[name]}"
        case _ if name.startswith("TOCSIN_"):
            raise BadInput(f"{name}: names that begin with TOCSIN_ are the hub's")
        case _:
            context.environment[name] = value


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _entry(number: int, line: str, context: _Context, *, has_user: bool) -> Entry:
    """Raises: BadInput."""
    times = 1 if line.startswith("@") else 5
    words = line.split(None, times + has_user)
    if len(words) <= times + has_user:
        wanted = "a macro" if times == 1 else "five fields"
        raise BadInput(f"must have {wanted}{', a user' if has_user else ''} and a command")
    expression = " ".join(words[:times])
    Cron(expression, context.tz)
    command, stdin = _command(words[-1])
    if not command:
        raise BadInput("must have a command before its %")
    return Entry(
        number=number,
        name="",
        agent="",
        expression=expression,
        tz=context.tz,
        command=command,
        stdin=stdin,
        shell=context.shell,
        cwd=context.cwd,
        environment=tuple(context.environment.items()),
        user=words[times] if has_user else None,
        comment=context.comment,
    )


def _command(text: str) -> tuple[str, str | None]:
    """(command, stdin): the first bare ``%`` ends the command, the others are line ends; ``\\%`` is ``%``."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text)]
    command = parts[0].rstrip()
    return command, "\n".join(parts[1:]) + "\n" if len(parts) > 1 else None


def _with_stdin(command: str, stdin: str) -> str:
    """The command with a text on its stdin; in brackets, because it may be several commands."""
    mark = "END"
    while mark in stdin.split("\n"):
        mark += "_"
    return f"(\n{command}\n) <<'{mark}'\n{stdin}{mark}"


def _looks_like_the_systems(lines: Sequence[str]) -> bool:
    """Whether every line that calls something has a well-known user before its command."""
    found = False
    for line in lines:
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#") or _ENVIRONMENT.fullmatch(stripped):
            continue
        times = 1 if stripped.startswith("@") else 5
        words = stripped.split(None, times + 1)
        if len(words) < times + 2 or words[times] not in _USERS or words[times + 1].startswith("-"):
            return False
        found = True
    return found


def _named(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Each trigger has a name of its own; lines that call the same thing share an agent."""
    triggers: set[str] = set()
    agents: dict[object, str] = {}
    for entry in entries:
        key = (entry.command, entry.stdin, entry.shell, entry.cwd, entry.environment)
        base = _name_of(entry.command)
        if key not in agents:
            agents[key] = _free(base, set(agents.values()))
        name = _free(base, triggers)
        triggers.add(name)
        yield replace(entry, name=name, agent=agents[key])


def _free(base: str, taken: set[str]) -> str:
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def _name_of(command: str) -> str:
    """A name from what the command calls: ``certbot-renew``, ``backup``, ``pg-dump-shop``."""
    calls = [words for words in map(_called, re.split(r"&&|\|\||[;|]", command)) if words]
    telling = [words for words in calls if words[0] not in _TELLS_NOTHING and not _INTERPRETERS.fullmatch(words[0])]
    told = "-".join((telling or calls or [[]])[0])
    slug = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")[:LONGEST_NAME].strip("-")
    return slug or "command"


def _called(part: str) -> list[str]:
    """The program or script that a simple command calls, and the plain word after it."""
    words = [word.strip("\"'(){}") for word in part.split()]
    words = [word for word in words if word]
    while words:
        program = words[0].rpartition("/")[2]
        if program in _WRAPPERS or _ASSIGNMENT.match(words[0]):
            words = _past_options(words[1:])
            words = words[1:] if program == "flock" else words
        elif _INTERPRETERS.fullmatch(program) and len(words) > 1:
            rest = _past_options(words[1:])
            if words[1] == "-m" and len(words) > 2:
                rest = words[2:]
            if not rest or words[1] in ("-c", "-e"):
                return [program]
            words = rest
            return [_SUFFIXES.sub("", words[0].rpartition("/")[2]), *_plain(words[1:])]
        else:
            return [_SUFFIXES.sub("", program), *_plain(words[1:])]
    return []


def _past_options(words: list[str]) -> list[str]:
    """Without options, and without the numbers and lengths of time that stand after them."""
    while len(words) > 1 and (words[0].startswith("-") or _AMOUNT.fullmatch(words[0])):
        words = words[1:]
    return words


def _plain(words: list[str]) -> list[str]:
    """The next word, when it is one: an option, a path or a redirection tells nothing."""
    return [words[0]] if words and _WORD.fullmatch(words[0]) else []


def _agent_lines(entry: Entry) -> Iterator[str]:
    yield f"[agents.{entry.agent}]"
    yield f"command = [{', '.join(_quoted(word) for word in entry.argv)}]"
    if entry.cwd is not None:
        yield f"cwd = {_quoted(entry.cwd)}"
    if entry.environment:
        pairs = ", ".join(f"{_key(name)} = {_quoted(value)}" for name, value in entry.environment)
        yield f"env = {{ {pairs} }}"


def _trigger_lines(entry: Entry) -> Iterator[str]:
    comment = "".join(character for character in entry.comment if character.isprintable())
    yield f"# line {entry.number}{f': {comment}' if comment else ''}"
    yield f"[triggers.{entry.name}]"
    yield f"agent = {_quoted(entry.agent)}"
    yield f"cron = {_quoted(entry.expression)}"
    if entry.tz != "UTC":
        yield f"tz = {_quoted(entry.tz)}"


def _key(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else _quoted(name)


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
