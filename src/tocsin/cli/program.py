"""All commands under one name, and what becomes of whatever they raise: one line and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from tocsin.cli import completion
from tocsin.cli.admin import add_to as add_admin
from tocsin.cli.agents import commands as agent_commands
from tocsin.cli.audit import add_to as add_audit
from tocsin.cli.connection import GIVEN_URL
from tocsin.cli.crontab import commands as import_commands
from tocsin.cli.events import add_to as add_emit
from tocsin.cli.events import commands as event_commands
from tocsin.cli.exits import DONE, INTERRUPTED, REFUSED, code_of, lines_of, say
from tocsin.cli.instances import commands as instance_commands
from tocsin.cli.keys import commands as key_commands
from tocsin.cli.process import add_to as add_processes
from tocsin.cli.replicas import commands as replica_commands
from tocsin.cli.runs import commands as run_commands
from tocsin.cli.schedules import add_to as add_schedules
from tocsin.cli.triggers import commands as trigger_commands
from tocsin.cli.work import add_to as add_work
from tocsin.domain.errors import BadInput, TocsinError
from tocsin.version import __version__

OF_A_HUB: Final = {"asyncpg", "fastapi", "uvicorn", "grpc", "grpc_health", "grpc_reflection", "google"}
"""Modules of the extra ``hub``."""

HELP = "Rings every agent on time, exactly once, and keeps watch over the run until it is over."


def program() -> typer.Typer:
    """The whole command line, without any of what its commands need."""
    app = typer.Typer(
        name="tocsin",
        help=HELP,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    add_processes(app)
    add_work(app)
    add_admin(app)
    add_schedules(app)
    add_audit(app)
    completion.add_to(app)
    add_emit(app)
    app.add_typer(trigger_commands(), name="trigger", help="Triggers: what is called, and when.")
    app.add_typer(run_commands(), name="run", help="Runs: what was called, and how it ended.")
    app.add_typer(event_commands(), name="event", help="Events: what was told, and what came of it.")
    app.add_typer(agent_commands(), name="agent", help="Agents: what can be called.")
    app.add_typer(replica_commands(), name="replica", help="Replicas: which hubs are there.")
    app.add_typer(instance_commands(), name="instance", help="Instances: processes that run agents elsewhere.")
    app.add_typer(key_commands(), name="key", help="Keys: who may do what.")
    app.add_typer(import_commands(), name="import", help="Bring schedules along from elsewhere.")
    return app


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tocsin {__version__}")
        raise typer.Exit


def _root(
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The hub to speak to; else TOCSIN_URL. Its key is TOCSIN_KEY."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    GIVEN_URL.set(url)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """One command from its words to its exit code; nothing is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = _run(words or ["--help"])
    return code if _flushed() else code or DONE


def _run(words: list[str]) -> int:
    try:
        _check_words(words)
        if completion.VARIABLE in os.environ:
            completion.be_asked()
        answer = typer.main.get_command(program()).main(words, prog_name="tocsin", standalone_mode=False)
        return answer if isinstance(answer, int) else DONE
    except (BrokenPipeError, SystemExit):
        # Nobody reads on, as behind `| head`: typer leaves by sys.exit then, and nowhere else.
        return DONE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:  # the last line of defence: a person gets a line, not a traceback
        return _told(error)


def _check_words(words: list[str]) -> None:
    """Raises: BadInput, for a word that is not text: neither a hub nor a database can be asked for it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise BadInput(f"argument {word[:80]!r}: is not UTF-8: write it as that") from None


def _told(error: Exception) -> int:
    """The error's lines are on stderr; its exit code."""
    if isinstance(error, typer.TyperException):
        return _misused(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in OF_A_HUB:
        say(f"this command needs what a hub needs, and {error.name} is not installed: pip install 'tocsin[hub]'")
        return REFUSED
    if not isinstance(error, TocsinError):
        return _unexpected(error)
    for line in lines_of(error):
        say(line)
    return code_of(error)


def _misused(error: typer.TyperException) -> int:
    told = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tocsin"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(told)
        return 2
    told = told.strip().rstrip(".")
    say(f"{told} See `{path} --help`" if told.endswith("?") else f"{told}; see `{path} --help`")
    return 2


def _unexpected(error: Exception) -> int:
    if os.environ.get("TOCSIN_LOG_LEVEL", "").lower() == "debug":
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    text = str(error).strip().splitlines()
    say(
        f"unexpected {type(error).__name__}{f': {text[0]}' if text else ''}; "
        "this is a bug: please report it with what TOCSIN_LOG_LEVEL=debug shows"
    )
    return 1


def _flushed() -> bool:
    """What was written has gone out; where nobody reads any more, the interpreter's end must not complain."""
    clean = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            clean = False
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError):
                continue
    return clean
