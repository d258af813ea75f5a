"""Agents that are programs.

A program is handed the run's input as JSON on stdin and what else there is to know as TOCSIN_* in its
environment. It answers with

    exit 0        its stdout is the output: JSON as it stands, other text as a text, nothing as null
    exit 75       (EX_TEMPFAIL) try again later, uncounted: in 60 s, or as stdout says {"retry_after": 5}
    another exit  the attempt failed; the last line of stderr says why
    a signal      likewise

and its stderr is kept as the attempt's log, line by line. Asked to stop, its process group is sent SIGTERM, and
SIGKILL when its time is up; a result as JSON and an exit of 0 still count after that, other text does
not, as it may be half of one. When the program has ended, its group is killed: nothing is left over.
"""

import os
import signal
from collections.abc import Mapping
from typing import Final

import msgspec

from tocsin.declared import CommandAgent
from tocsin.domain.agent import MAX_PAYLOAD, AgentSpec
from tocsin.domain.errors import BadInput, PayloadTooLarge
from tocsin.domain.payload import accept
from tocsin.domain.run import Failed, Outcome, Stopped, StopReason, Succeeded
from tocsin.engine.executor import Assignment
from tocsin.engine.outcome import RETRY_SECONDS, postponed, refused_result, result_of
from tocsin.executors.child import Child
from tocsin.run import Reports, StopSignal

TEMPFAIL: Final = 75
INTERRUPT_SECONDS: Final = 5.0
"""Between SIGTERM and SIGKILL when the hub itself has no time to lose."""

MAX_LAST_OUTPUT: Final = 32 * 1024


class Command:
    """The executor of programs. environ: what they inherit; TOCSIN_* of it, the hub's own, is left out."""

    def __init__(
        self,
        commands: Mapping[str, CommandAgent],
        *,
        slots: int,
        name: str = "command",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._commands = dict(commands)
        self._specs = {key: command.spec for key, command in commands.items()}
        self._name = name
        self._slots = slots
        inherited = os.environ if environ is None else environ
        self._environ = {key: value for key, value in inherited.items() if not key.startswith("TOCSIN_")}

    @property
    def name(self) -> str:
        return self._name

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        return self._specs

    @property
    def slots(self) -> int:
        return self._slots

    async def execute(self, assignment: Assignment, reports: Reports, stop: StopSignal) -> Outcome:
        """See Executor."""
        command = self._commands.get(assignment.agent)
        if command is None:
            return Failed("UnknownAgent", f"no agent {assignment.agent!r} in this process; has its app been changed?")
        if stop.requested:
            return Stopped()
        environ = {**self._environ, **command.env, **_told(assignment)}
        try:
            child = await Child.start(command.argv, cwd=command.cwd, env=environ, log=reports.log)
        except (OSError, ValueError) as error:
            return _not_started(command, error)
        try:
            child.feed(assignment.input.encode() + b"\n")
            stop.on_request(lambda reason: child.terminate(_grace(command.spec, reason)))
            await child.wait()
        finally:
            await child.close()
        return _outcome(child, stop)


def _told(assignment: Assignment) -> dict[str, str]:
    """The run, as far as it fits into an environment."""
    told = {
        "TOCSIN_RUN_ID": str(assignment.run_id),
        "TOCSIN_TRIGGER": assignment.trigger,
        "TOCSIN_AGENT": assignment.agent,
        "TOCSIN_ATTEMPT": str(assignment.attempt),
        "TOCSIN_FENCE": str(assignment.fence),
        "TOCSIN_IDEMPOTENCY_KEY": assignment.idempotency_key,
        "TOCSIN_NOMINAL_AT": assignment.nominal_at.isoformat(),
        "TOCSIN_EFFECTIVE_AT": assignment.effective_at.isoformat(),
    }
    if assignment.due_by is not None:
        told["TOCSIN_DEADLINE"] = assignment.due_by.isoformat()
    if assignment.traceparent is not None:
        told["TRACEPARENT"] = assignment.traceparent
    if assignment.last is not None and len(assignment.last.raw.encode()) <= MAX_LAST_OUTPUT:
        told["TOCSIN_LAST_OUTPUT"] = assignment.last.raw
    return told


def _grace(policy: AgentSpec, reason: StopReason) -> float:
    own = policy.cancel_within.total_seconds()
    if reason in (StopReason.INTERRUPTED, StopReason.LEASE_LOST, StopReason.FENCED):
        return min(own, INTERRUPT_SECONDS)
    return own


def _not_started(command: CommandAgent, error: Exception) -> Failed:
    program = command.argv[0]
    if command.cwd is not None and not os.path.isdir(command.cwd):
        return Failed("NotStarted", f"no directory {command.cwd!r} to start in: correct cwd", final=True)
    match error:
        case FileNotFoundError():
            text = f"no program {program!r}: install it, or write its full path"
        case PermissionError():
            text = f"{program!r} may not be executed: chmod +x it, or name its interpreter first"
        case OSError(strerror=reason) if reason == "Exec format error":
            text = f"{program!r} has no executable format: begin it with a #! line"
        case ValueError():
            text = f"{program!r} cannot be started: {error}"
        case _:
            # Out of processes, memory or file descriptors: another time it may work.
            return Failed(type(error).__name__, f"{program!r} could not be started: {error}")
    return Failed("NotStarted", text, final=True)


def _outcome(child: Child, stop: StopSignal) -> Outcome:
    code = child.returncode
    if child.overflowed:
        return refused_result(_overflow())
    if code == 0:
        return _result(bytes(child.stdout), stopping=stop.requested)
    why = f": {child.lines.last}" if child.lines.last else ""
    if code == TEMPFAIL:
        return postponed(_retry_after(bytes(child.stdout)), f"exit code {code}{why}")
    if stop.requested:
        return Stopped()
    if code < 0:
        return Failed("signal", f"killed by {_signal_name(-code)}{why}")
    return Failed("exit", f"exit code {code}{why}")


def _result(stdout: bytes, *, stopping: bool) -> Outcome:
    text = stdout.strip()
    if not text:
        return Stopped() if stopping else Succeeded(b"null")
    if _is_json(text):
        try:
            return Succeeded(accept(text, what="output"))
        except BadInput as refusal:
            return refused_result(refusal)
    if stopping:
        return Stopped()
    # NUL would be refused, and a program that wrote binary by mistake has nonetheless succeeded.
    return result_of(text.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"))


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except ValueError:
        return False
    except RecursionError:
        return True
    return True


def _retry_after(stdout: bytes) -> float:
    try:
        asked = msgspec.json.decode(stdout, type=dict[str, object]).get("retry_after")
    except (ValueError, RecursionError):
        return RETRY_SECONDS
    # As it stands: an int may be too large for a float.
    return asked if isinstance(asked, int | float) and not isinstance(asked, bool) else RETRY_SECONDS


def _overflow() -> PayloadTooLarge:
    return PayloadTooLarge("output", size=MAX_PAYLOAD + 1, limit=MAX_PAYLOAD)


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name
