"""``tocsin key``: who may do what."""

from datetime import datetime, timedelta
from typing import Annotated

import typer

from tocsin.cli import completion
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import JsonFlag
from tocsin.cli.output import emit, instant, print_table
from tocsin.domain.errors import BadInput

Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("revoke")(revoke)
    return app


def create(
    name: Name,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", metavar="SCOPE", help="read, operate, admin or emit: what it may do in the API."),
    ] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option(
            "--agent", "-a", metavar="NAME", help="For a process that runs this agent; several times, or '*' for all."
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="When it ends: ISO 8601, or a length such as 90d.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """A new key, shown once. An agent process takes it as TOCSIN_AGENT_KEY."""
    run_async(_create(name, scopes or [], agents or [], expires, json))


async def _create(name: str, scopes: list[str], agents: list[str], expires: str | None, json: bool) -> None:
    async with opened() as control:
        end = _end_of(expires, await control.now()) if expires is not None else None
        row = await control.keys.create(name, scopes=scopes, agents=agents, expires_at=end)
    if json:
        emit(row)
    else:
        typer.echo(row["key"])


def _end_of(text: str, now: datetime) -> datetime:
    """An instant, or a length of time from now.

    Raises: BadInput.
    """
    from tocsin.cli.trigger_options import read_instant  # noqa: PLC0415
    from tocsin.domain.duration import parse_duration  # noqa: PLC0415

    try:
        length: timedelta | None = parse_duration(text)
    except BadInput:
        length = None
    try:
        return now + length if length is not None else read_instant("--expires", text, or_length=True)
    except OverflowError:
        raise BadInput(f"--expires {text!r}: lies beyond the calendar's end") from None


def list_keys(json: JsonFlag = False) -> None:
    """Keys by name, with what they are for and when they were used last."""
    run_async(_list_keys(json))


async def _list_keys(json: bool) -> None:
    async with opened() as control:
        rows = await control.keys.all()
        now = await control.now()
    if json:
        for row in rows:
            emit(row)
        return
    print_table(
        ["key", "state", "scopes", "agents", "created", "expires", "last used"],
        [
            (
                row["name"],
                row["state"],
                ", ".join(row["scopes"]),
                ", ".join(row["agents"]),
                instant(row["created_at"], now),
                instant(row["expires_at"], now) if row["expires_at"] is not None else "never",
                instant(row["last_used_at"], now) if row["last_used_at"] is not None else "never",
            )
            for row in rows
        ],
        empty="there is no key: whoever is on this host needs none; `tocsin key create` makes one",
    )


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name.", autocompletion=completion.keys)],
) -> None:
    """The key opens nothing any more."""
    run_async(_revoke(name))


async def _revoke(name: str) -> None:
    async with opened() as control:
        await control.keys.revoke(name)
    typer.echo(f"key {name} is revoked")
