"""``tocsin instance``: which processes run agents elsewhere, and how they are."""

from datetime import datetime
from typing import Annotated, Any

import typer

from tocsin.cli import completion
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import JsonFlag, Limit, limit_of, tell_cut
from tocsin.cli.output import between, emit, instant, length, print_fields, print_table

MOST = 100_000

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An instance's name or id.", autocompletion=completion.instances)
]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_instances)
    app.command("show")(show)
    return app


def list_instances(
    limit: Limit = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that have left or were lost.")] = False,
    json: JsonFlag = False,
) -> None:
    """Instances, newest first, with their state, and why they are suspected; the gone with --all."""
    run_async(_list(MOST if everything and limit is None else limit_of(limit), everything, json))


async def _list(limit: int, everything: bool, json: bool) -> None:
    async with opened() as control:
        rows = await control.roster.instances(limit=limit, everything=everything)
        now = await control.now()
    if json:
        for row in rows:
            emit(row)
        return
    print_table(
        ["instance", "state", "why", "running", "slots", "last beat", "hub", "agents"],
        [
            (
                row["name"],
                row["state"],
                row["why"] or "",
                len(row["running"]),
                row["slots"],
                f"{length(max(0.0, between(row['heard_at'], now) or 0))} ago",
                row["replica"] or "",
                ", ".join(row["agents"]),
            )
            for row in rows
        ],
        empty="no instance is connected; start one with `tocsin work APP --hub HOST:PORT`",
    )
    tell_cut(len(rows), limit, "--limit shows more")


def show(
    name: Name,
    json: JsonFlag = False,
) -> None:
    """One instance: what it runs and since when, where it is connected, where it stands still."""
    run_async(_show(name, json))


async def _show(name: str, json: bool) -> None:
    async with opened() as control:
        row = await control.roster.instance(name)
        now = await control.now()
    if json:
        emit(row)
        return
    print_fields([(key, _shown(value, now)) for key, value in row.items() if key != "running"])
    print_table(
        ["run", "agent", "fence", "since"],
        [(run["id"], run["agent"], run["fence"], instant(run["since"], now)) for run in row["running"]],
        empty="it runs nothing",
    )


def _shown(value: Any, now: datetime) -> Any:
    if isinstance(value, datetime):
        return instant(value, now)
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return ", ".join(value) if isinstance(value, list) else value
