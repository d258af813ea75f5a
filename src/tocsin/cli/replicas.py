"""``tocsin replica``: which hubs are there, and which have gone."""

from datetime import datetime
from typing import Annotated, Any

import typer

from tocsin.cli import completion
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import JsonFlag, Limit, limit_of, tell_cut
from tocsin.cli.output import between, emit, instant, length, print_fields, print_table

MOST = 100_000

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A replica's name or id.", autocompletion=completion.replicas)
]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_replicas)
    app.command("show")(show)
    return app


def list_replicas(
    limit: Limit = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """Replicas, newest first; those that have ended with --all."""
    run_async(_list(MOST if everything and limit is None else limit_of(limit), everything, json))


async def _list(limit: int, everything: bool, json: bool) -> None:
    async with opened() as control:
        rows = await control.replicas(limit=limit, everything=everything)
        now = await control.now()
    if json:
        for row in rows:
            emit(row)
        return
    print_table(
        ["replica", "state", "running", "slots", "renewed", "started", "version", "agents"],
        [
            (
                row["name"],
                row["state"],
                row["running"],
                row["slots"],
                f"{length(max(0.0, between(row['renewed_at'], now) or 0))} ago",
                instant(row["started_at"], now),
                row["version"],
                ", ".join(row["agents"]),
            )
            for row in rows
        ],
        empty="no replica is alive; start one with `tocsin up APP` or `tocsin serve`",
    )
    tell_cut(len(rows), limit, "--limit shows more")


def show(
    name: Name,
    json: JsonFlag = False,
) -> None:
    """One replica."""
    run_async(_show(name, json))


async def _show(name: str, json: bool) -> None:
    async with opened() as control:
        row = await control.replica(name)
        now = await control.now()
    if json:
        emit(row)
        return
    print_fields([(key, _shown(value, now)) for key, value in row.items()])


def _shown(value: Any, now: datetime) -> Any:
    if isinstance(value, datetime):
        return instant(value, now)
    return ", ".join(value) if isinstance(value, list) else value
