"""``tocsin emit`` and ``tocsin event``: what is told, and what came of it."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tocsin.cli import trigger_options as given
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, gathered, limit_of, tell_cut
from tocsin.cli.operations import Row
from tocsin.cli.output import compact, counted, emit, instant, print_fields, print_table

if TYPE_CHECKING:
    from tocsin.domain.event import Event

SOURCE: Final = "cli"
"""Of an event that is told here without one."""

Number = Annotated[
    int, typer.Argument(min=1, metavar="NUMBER", help="The event's number, as `tocsin event list` shows it.")
]


def add_to(app: typer.Typer) -> None:
    app.command("emit")(emit_event)


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_events)
    app.command("show")(show)
    return app


def emit_event(
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="What has happened, such as order.paid.")],
    *,
    source: Annotated[str, typer.Option(metavar="URI", help="Who tells it: a URI, or a part of one.")] = SOURCE,
    data: Annotated[
        str | None, typer.Option("--data", metavar="JSON|@FILE", help="JSON, @FILE, or @- for stdin.")
    ] = None,
    dedup_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same source and key are taken once.")
    ] = None,
    subject: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is about.")] = None,
    json: JsonFlag = False,
) -> None:
    """Tell the hub of an event."""
    from uuid_utils.compat import uuid7  # noqa: PLC0415

    from tocsin.domain.event import Event  # noqa: PLC0415

    told = given.read_input(data, option="--data")
    run_async(_emit(Event(id=dedup_key or str(uuid7()), source=source, type=kind, subject=subject, data=told), json))


async def _emit(event: "Event", json: bool) -> None:
    async with opened() as control:
        [told] = await control.emit([event])
    if json:
        emit(told)
    elif not told["accepted"]:
        typer.echo(f"event {told['id']} from {event.source} was known: nothing is done twice")
    else:
        called = ", ".join(f"{name} ({run})" for name, run in zip(told["triggers"], told["runs"], strict=True))
        came_to = f": {called}" if called else "; `tocsin event list` tells why"
        typer.echo(f"event {told['id']} is taken: {counted(len(told['runs']), 'run')}{came_to}")


def list_events(
    *,
    kind: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only of this type, such as order.*.")
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="URI", help="Only from there.")] = None,
    trigger: Annotated[str | None, typer.Option(metavar="NAME", help="Only those that were for this trigger.")] = None,
    called: Annotated[
        bool | None, typer.Option("--called/--uncalled", help="Only those that came to a run, or to none.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Received since: ISO 8601, or a length such as 2h.")
    ] = None,
    limit: Limit = None,
    everything: All = False,
    json: JsonFlag = False,
) -> None:
    """Events, the latest first, with what each came to."""
    most = limit_of(limit, everything=everything)
    run_async(
        _list(
            {"type": kind, "source": source, "trigger": trigger, "called": called},
            since=since,
            limit=most,
            everything=everything,
            json=json,
        )
    )


async def _list(filters: dict[str, Any], *, since: str | None, limit: int, everything: bool, json: bool) -> None:
    from tocsin.cli.runs import read_since  # noqa: PLC0415

    async with opened() as control:
        now = await control.now()
        start = read_since(since, now)

        async def fetch(size: int, before: Any) -> list[Row]:
            return await control.events.page(limit=size, before=before, since=start, **filters)

        rows = await gathered(fetch, key="number", limit=limit, everything=everything, json=json)
    if rows is None:
        return
    print_table(
        ["event", "received", "type", "source", "came to", "id"],
        [
            (row["number"], instant(row["received_at"], now), row["type"], row["source"], came_to(row), row["id"])
            for row in rows
        ],
        empty="no events",
    )
    if not everything:
        tell_cut(len(rows), limit)


def came_to(row: Row) -> str:
    """``review: succeeded, audit: paused``; or why it is nothing."""
    if row["fault"] is not None:
        return f"cannot be read: {row['fault']}"
    if row["matched_at"] is None:
        return "waits to be matched"
    return ", ".join(f"{call['trigger']}: {_end_of(call)}" for call in row["calls"]) or "nothing"


def _end_of(call: Row) -> str:
    return str(call["reason"] or call["state"] or "a run that is forgotten")


def show(number: Number, json: JsonFlag = False) -> None:
    """One event: its data, what it came to, and why it did not call the others."""
    run_async(_show(number, json))


async def _show(number: int, json: bool) -> None:
    async with opened() as control:
        row = await control.events.show(number)
        now = await control.now()
    if json:
        emit(row)
        return
    told = {name: value for name, value in row.items() if name not in ("calls", "uncalled", "data", "extensions")}
    fields = [(name, instant(value, now) if isinstance(value, datetime) else value) for name, value in told.items()]
    fields += list(row["extensions"].items())
    print_fields([*fields, ("data", compact(row["data"], 2_000)), ("came to", came_to(row))])
    for call in row["calls"]:
        if call["run_id"] is not None:
            typer.echo(f"see `tocsin run show {call['run_id']}` of {call['trigger']}")
    if row["uncalled"]:
        typer.echo("")
        print_table(
            ["not called", "because"],
            [(one["trigger"], one["because"]) for one in row["uncalled"]],
            empty="",
        )
