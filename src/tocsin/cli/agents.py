"""``tocsin agent``: what can be called."""

from typing import Annotated, Any

import typer

from tocsin.cli import completion
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, gathered, limit_of, tell_cut
from tocsin.cli.operations import Row
from tocsin.cli.output import emit, instant, print_fields, print_table

Name = Annotated[str, typer.Argument(metavar="NAME", help="The agent's name.", autocompletion=completion.agents)]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_agents)
    app.command("show")(show)
    return app


def list_agents(limit: Limit = None, everything: All = False, json: JsonFlag = False) -> None:
    """Agents by name, with what they have in hand."""
    run_async(_list(limit_of(limit, everything=everything), everything, json))


async def _list(limit: int, everything: bool, json: bool) -> None:
    async with opened() as control:

        async def fetch(size: int, after: Any) -> list[Row]:
            return await control.agents(limit=size, after=after)

        rows = await gathered(fetch, key="name", limit=limit, everything=everything, json=json)
    if rows is None:
        return
    print_table(
        ["agent", "running", "queued", "limit", "triggers", "served by", "declared in"],
        [
            (
                row["name"],
                row["running"],
                row["queued"],
                row["concurrency"] or "–",
                row["triggers"],
                ", ".join([*row["replicas"], *row["instances"]]) or "nobody",
                row["source"],
            )
            for row in rows
        ],
        empty="no agents; declare some with `tocsin sync APP`",
    )
    if not everything:
        tell_cut(len(rows), limit)


def show(
    name: Name,
    json: JsonFlag = False,
) -> None:
    """One agent with its policy."""
    run_async(_show(name, json))


async def _show(name: str, json: bool) -> None:
    async with opened() as control:
        row = await control.agent(name)
        now = await control.now()
    if json:
        emit(row)
        return
    fields = [(key, value) for key, value in row.items() if key != "spec"]
    policy = [(key, value) for key, value in row["spec"].items() if key != "name"]
    shown = [
        (key, instant(value, now) if key == "declared_at" else ", ".join(value) if isinstance(value, list) else value)
        for key, value in [*fields, *policy]
    ]
    print_fields(list(dict(shown).items()))
