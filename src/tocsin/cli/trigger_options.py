"""What can be said of a trigger on the command line, and the trigger that comes of it."""

import os
import sys
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tocsin.cli import completion
from tocsin.domain.errors import BadInput, PayloadTooLarge

if TYPE_CHECKING:
    from tocsin.domain.event_rule import EventRule
    from tocsin.domain.hook import Hook as HookSpec
    from tocsin.domain.schedule import Schedule
    from tocsin.domain.trigger import CatchUp as CatchUpPolicy
    from tocsin.domain.trigger import TriggerSpec

NewName = Annotated[str, typer.Argument(metavar="NAME", help="The trigger's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The trigger's name.", autocompletion=completion.triggers)]
Cron = Annotated[list[str] | None, typer.Option(metavar="EXPR", help="A cron expression; may be given again.")]
Tz = Annotated[str | None, typer.Option(metavar="ZONE", help="IANA zone of the cron expressions.")]
Every = Annotated[str | None, typer.Option(metavar="LENGTH", help="A length of time, such as 90s or 5m.")]
At = Annotated[list[str] | None, typer.Option(metavar="INSTANT", help="An ISO 8601 instant; may be given again.")]
Jitter = Annotated[str | None, typer.Option(metavar="LENGTH", help="Spread over this length of time.")]
OnEvent = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE|JSON", help='Events that call it: their type, or {"type": …, "where": …}, or {} for none.'
    ),
]
Hook = Annotated[
    str | None,
    typer.Option(
        metavar="JSON", help='Who calls it at /hooks/NAME: {"scheme": "github", "secret": VARIABLE}, or {} for nobody.'
    ),
]
Input = Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="JSON, @FILE, or @- for stdin.")]
Overlap = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="skip, queue_one, queue_all, cancel_previous or allow.",
        autocompletion=completion.words("skip", "queue_one", "queue_all", "cancel_previous", "allow"),
    ),
]
CatchUp = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY", help="skip, latest or all.", autocompletion=completion.words("skip", "latest", "all")
    ),
]
Priority = Annotated[int | None, typer.Option(metavar="N", help="0 to 9, 9 first.")]
ExpiresAfter = Annotated[str | None, typer.Option(metavar="LENGTH", help="How long a run may wait in the queue.")]

SCHEDULE_OPTIONS: Final = ("cron", "tz", "every", "at", "jitter")
POLICY_OPTIONS: Final = ("overlap", "catch_up", "priority", "expires_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The options as they were typed; None for those that were not."""

    agent: str | None
    cron: list[str] | None
    tz: str | None
    every: str | None
    at: list[str] | None
    jitter: str | None
    on_event: str | None
    hook: str | None
    input: str | None
    overlap: str | None
    catch_up: str | None
    priority: int | None
    expires_after: str | None

    def check_any(self) -> None:
        """Raises: BadInput, when nothing was given."""
        if all(not getattr(self, field.name) and getattr(self, field.name) != 0 for field in fields(self)):
            raise BadInput("nothing to change: give an option, such as --cron; see `tocsin trigger edit --help`")

    def new(self, name: str) -> "TriggerSpec":
        """Raises: BadInput."""
        from tocsin.domain.trigger import TriggerSpec, default_overlap  # noqa: PLC0415

        spec = self.applied(TriggerSpec(name=name, agent=self.agent or ""))
        return spec if self.overlap is not None else replace(spec, overlap=default_overlap(spec.event, spec.hook))

    def applied(self, spec: "TriggerSpec") -> "TriggerSpec":
        """The trigger with these changes.

        Raises: BadInput.
        """
        from tocsin.domain.trigger import called_by  # noqa: PLC0415
        from tocsin.options import TRIGGER_OPTIONS, options_of  # noqa: PLC0415

        policy = {name: getattr(self, name) for name in POLICY_OPTIONS if getattr(self, name) is not None}
        changes = options_of("trigger", spec.name, TRIGGER_OPTIONS, policy)
        if self.agent is not None:
            changes["agent"] = self.agent
        if self.input is not None:
            changes["input"] = read_input(self.input)
        if self.on_event is not None:
            changes |= {"event": read_event_rule(self.on_event), "schedule": None}
        if self.hook is not None:
            changes["hook"] = read_hook_option(self.hook)
        if any(getattr(self, name) for name in SCHEDULE_OPTIONS):
            changes["schedule"] = self._schedule(spec.schedule)
        return replace(spec, **called_by(changes))

    def _schedule(self, now: "Schedule | None") -> "Schedule":
        """New rules replace the old ones; bounds and exceptions stay."""
        from tocsin.domain import schedule as schedules  # noqa: PLC0415
        from tocsin.domain.duration import parse_duration  # noqa: PLC0415
        from tocsin.domain.rules import Cron as CronRule  # noqa: PLC0415

        rules = [schedules.cron(expression, self.tz or "UTC").rules[0] for expression in self.cron or ()]
        if self.every is not None:
            rules.append(schedules.every(self.every).rules[0])
        if self.at:
            rules.append(schedules.at(*self.at).rules[0])
        if not rules and now is None:
            raise BadInput("--tz and --jitter need a schedule: give --cron, --every or --at")
        if not rules and now is not None:
            # A zone alone moves the expressions that are there.
            rules = [
                replace(rule, tz=self.tz) if self.tz is not None and isinstance(rule, CronRule) else rule
                for rule in now.rules
            ]
        elif self.tz is not None and not self.cron:
            raise BadInput("--tz is for --cron: every and at have no zone")
        built = schedules.Schedule(tuple(rules)) if now is None else replace(now, rules=tuple(rules))
        return built if self.jitter is None else replace(built, jitter=parse_duration(self.jitter))


def read_hook_option(text: str) -> "HookSpec | None":
    """The hook of an option: the options of ``webhook`` as JSON; an empty one is none.

    Raises: BadInput.
    """
    import msgspec  # noqa: PLC0415

    from tocsin.domain.hook import Hook  # noqa: PLC0415

    try:
        given = msgspec.json.decode(text)
    except ValueError as error:
        raise BadInput(f'--hook: must be JSON, such as {{"scheme": "github", "secret": VARIABLE}}: {error}') from None
    return None if given == {} else Hook.from_json(given)


def read_event_rule(text: str) -> "EventRule | None":
    """The rule of an option: a type by itself, or the options of ``on_event`` as JSON; an empty one is none.

    Raises: BadInput.
    """
    import msgspec  # noqa: PLC0415

    from tocsin.domain.event_rule import on_event, read_rule  # noqa: PLC0415

    if not text.lstrip().startswith("{"):
        return on_event(text)
    try:
        given = msgspec.json.decode(text.encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--on-event: is not JSON: {error}") from None
    return read_rule(given) if given else None


def read_input(text: str | None, *, option: str = "--input") -> Any:
    """The JSON value of an option, from a file after ``@``, from stdin after ``@-``.

    Raises: BadInput, PayloadTooLarge.
    """
    import msgspec  # noqa: PLC0415

    from tocsin.domain.agent import MAX_PAYLOAD  # noqa: PLC0415
    from tocsin.domain.payload import accept  # noqa: PLC0415

    if text is None:
        return None
    if not text.startswith("@"):
        return msgspec.json.decode(accept(text.encode(errors="replace"), what=option))
    name = text[1:]
    try:
        if name == "-":
            content = sys.stdin.buffer.read(MAX_PAYLOAD + 1)
        else:
            with Path(name).open("rb") as file:
                # A device or a pipe has no size to be told, and perhaps no end.
                content = file.read(MAX_PAYLOAD + 1)
                size = max(len(content), os.fstat(file.fileno()).st_size)
            if size > MAX_PAYLOAD:
                raise PayloadTooLarge(f"{option} {name}", size=size, limit=MAX_PAYLOAD)
    except OSError as error:
        raise BadInput(f"{option} {text}: {error.strerror or error}") from None
    return msgspec.json.decode(accept(content, what=f"{option} {name}"))


def catch_up_of(text: str | None) -> "CatchUpPolicy | None":
    """Raises: BadInput."""
    from tocsin.domain.trigger import CatchUp as CatchUpPolicy  # noqa: PLC0415

    if text is None:
        return None
    if text not in list(CatchUpPolicy):
        raise BadInput(f"--catch-up {text!r}: must be latest or skip")
    return CatchUpPolicy(text)


def read_instant(option: str, text: str, *, or_length: bool = False) -> datetime:
    """An instant; without an offset it is in UTC. or_length: what the refusal says could stand there as well.

    Raises: BadInput.
    """
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        more = ", or a length of time such as 90d" if or_length else ""
        raise BadInput(f"{option} {text!r}: must be ISO 8601, such as 2026-03-29T00:00:00Z{more}") from None
