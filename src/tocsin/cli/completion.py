"""``tocsin completion``: scripts by which a shell completes commands, options and names.

A script asks this program for what may stand there, at each press of the key. Names come from the hub, if one is there
and says them within a second; nothing is started for it, and nothing is said where there are none.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from tocsin.cli.connection import GIVEN_URL, data_of, opened, run_async, url_of

if TYPE_CHECKING:
    from tocsin.cli.operations import Operations, Row
    from tocsin.settings import Settings

VARIABLE: Final = "_TOCSIN_COMPLETE"
"""Set by a script, and nowhere else."""

WITHIN: Final = 1.0
"""Seconds that names may take."""

MOST: Final = 1_000
RECENT: Final = 50

Words: TypeAlias = list[tuple[str, str]]
"""What may stand there, and what a person is told of it."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def add_to(app: typer.Typer) -> None:
    app.command("completion")(completion)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a script that completes words in a shell.

    For bash: source <(tocsin completion bash)
    """
    from typer._completion_shared import get_completion_script  # noqa: PLC0415

    typer.echo(get_completion_script(prog_name="tocsin", complete_var=VARIABLE, shell=shell.value))


def be_asked() -> None:
    """What a script asks is understood: as the library does it where it has the options for it."""
    from typer._completion_classes import completion_init  # noqa: PLC0415

    completion_init()


def triggers(context: typer.Context, incomplete: str) -> Words:
    return _names(
        context, incomplete, lambda hub: hub.triggers(limit=MOST, after=incomplete[:-1] or None), "name", "status"
    )


def agents(context: typer.Context, incomplete: str) -> Words:
    return _names(context, incomplete, lambda hub: hub.agents(limit=MOST, after=incomplete[:-1] or None), "name")


def runs(context: typer.Context, incomplete: str) -> Words:
    """The latest."""
    return _names(context, incomplete, lambda hub: hub.runs(limit=RECENT), "id", "state", "trigger")


def instances(context: typer.Context, incomplete: str) -> Words:
    return _names(context, incomplete, lambda hub: hub.roster.instances(limit=MOST), "name", "state")


def replicas(context: typer.Context, incomplete: str) -> Words:
    return _names(context, incomplete, lambda hub: hub.replicas(limit=MOST), "name", "state")


def keys(context: typer.Context, incomplete: str) -> Words:
    return _names(context, incomplete, lambda hub: hub.keys.all(), "name", "state")


def words(*known: str) -> Callable[[str], list[str]]:
    """Completes one of a few."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def _names(
    context: typer.Context,
    incomplete: str,
    ask: "Callable[[Operations], Awaitable[Sequence[Row]]]",
    field: str,
    *told: str,
) -> Words:
    """Values of a field that begin so. Empty where the hub cannot be asked, for whatever reason: there is nobody to be
    told of it.
    """
    GIVEN_URL.set(context.find_root().params.get("url"))
    try:
        rows = run_async(_rows(ask))
    except Exception:  # a press of a key shows names, or nothing
        return []
    found = [(str(row[field]), " ".join(str(row[name]) for name in told)) for row in rows]
    return [word for word in found if word[0].startswith(incomplete)]


async def _rows(ask: "Callable[[Operations], Awaitable[Sequence[Row]]]") -> "Sequence[Row]":
    import asyncio  # noqa: PLC0415

    from tocsin.settings import load_settings  # noqa: PLC0415

    if not _is_there(load_settings()):
        return []
    async with asyncio.timeout(WITHIN), opened() as hub:
        return await ask(hub)


def _is_there(settings: "Settings") -> bool:
    """Whether a hub can be asked without a server being started for it."""
    if url_of(settings) is not None or settings.database_url is not None:
        return True
    data = data_of(settings.home)
    return data is not None and (data / "postmaster.pid").exists()
