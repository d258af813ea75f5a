"""``tocsin instance``: which processes run agents elsewhere, and how they are. ``tocsin key``: who may."""

from datetime import datetime
from typing import Annotated, Any

import typer

from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import JsonFlag, Limit, limit_of, tell_cut
from tocsin.cli.output import between, emit, instant, length, print_fields, print_table

Name = Annotated[str, typer.Argument(help="The key's name.")]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_instances)
    app.command("show")(show)
    return app


def key_commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("revoke")(revoke)
    return app


def list_instances(
    limit: Limit = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that have left or were lost.")] = False,
    json: JsonFlag = False,
) -> None:
    """Instances, newest first, with their state, and why they are suspected; the gone with --all."""
    run_async(_list(limit_of(limit), everything, json))


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


def show(name: Annotated[str, typer.Argument(help="An instance's name or id.")], json: JsonFlag = False) -> None:
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
        [
            (run["id"], run["agent"], run["fence"], instant(datetime.fromisoformat(run["since"]), now))
            for run in row["running"]
        ],
        empty="it runs nothing",
    )


def create(
    name: Name,
    agents: Annotated[
        list[str], typer.Option("--agent", "-a", help="An agent that it is for; several times, or '*' for all.")
    ],
) -> None:
    """A new key for agent processes. It is shown once: hand it over as TOCSIN_AGENT_KEY."""
    run_async(_create(name, agents))


async def _create(name: str, agents: list[str]) -> None:
    async with opened() as control:
        typer.echo(await control.roster.create_key(name, agents))


def list_keys(json: JsonFlag = False) -> None:
    """Keys by name, with the agents that they are for."""
    run_async(_list_keys(json))


async def _list_keys(json: bool) -> None:
    async with opened() as control:
        rows = await control.roster.keys()
        now = await control.now()
    if json:
        for row in rows:
            emit(row)
        return
    print_table(
        ["key", "state", "created", "agents"],
        [
            (
                row["name"],
                "valid" if row["revoked_at"] is None else f"revoked {instant(row['revoked_at'], now)}",
                instant(row["created_at"], now),
                ", ".join(row["agents"]),
            )
            for row in rows
        ],
        empty="there is no key: processes of this host need none; `tocsin key create` makes one",
    )


def revoke(name: Name) -> None:
    """The key lets nobody in any more."""
    run_async(_revoke(name))


async def _revoke(name: str) -> None:
    async with opened() as control:
        await control.roster.revoke_key(name)
    typer.echo(f"key {name} is revoked")


def _shown(value: Any, now: datetime) -> Any:
    if isinstance(value, datetime):
        return instant(value, now)
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return ", ".join(value) if isinstance(value, list) else value
