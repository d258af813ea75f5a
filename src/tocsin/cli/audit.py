"""``tocsin audit``: who did what, when, to which thing."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, gathered, limit_of, tell_cut
from tocsin.cli.operations import Row
from tocsin.cli.output import compact, instant, print_table
from tocsin.cli.runs import read_since

OF_A_TRIGGER: Final = ("run", "backfill")
"""Kinds that go by their trigger's name and an id of their own."""


def add_to(app: typer.Typer) -> None:
    app.command("audit")(audit)


def audit(
    *,
    trigger: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only of this trigger, its runs and backfills; also one that is gone."),
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="ACTOR", help="Only by this actor: key:NAME, cli:USER@HOST, …")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Only what was done in this way, such as paused.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="ISO 8601, or a length such as 2h.")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="ISO 8601, or a length such as 2h.")] = None,
    limit: Limit = None,
    everything: All = False,
    json: JsonFlag = False,
) -> None:
    """Who did what, when, the latest first."""
    filters = {"trigger": trigger, "actor": actor, "action": action}
    run_async(_audit(filters, (since, until), limit_of(limit, everything=everything), everything, json))


async def _audit(
    filters: Mapping[str, str | None],
    span: tuple[str | None, str | None],
    limit: int,
    everything: bool,
    json: bool,
) -> None:
    async with opened() as control:
        now = await control.now()
        since, until = (read_since(text, now) for text in span)

        async def fetch(size: int, before: Any) -> list[Row]:
            return await control.audit(limit=size, before=before, since=since, until=until, **filters)

        rows = await gathered(fetch, key="id", limit=limit, everything=everything, json=json)
    if rows is None:
        return
    print_table(
        ["at (UTC)", "actor", "action", "what", "detail"],
        [(instant(row["at"]), row["actor"], row["action"], _target(row), what_of(row)) for row in rows],
        empty="nothing on record",
    )
    if not everything:
        tell_cut(len(rows), limit)


def _target(row: Row) -> str:
    of = "of " if row["kind"] in OF_A_TRIGGER else ""
    return f"{row['kind']} {of}{row['target']}"


def what_of(row: Row) -> str:
    """What there is to say of a record, on one line."""
    detail = row["detail"]
    match row["action"]:
        case "changed":
            fields = [
                f"{name}: {_value(old)} → {_value(detail['after'].get(name))}" for name, old in detail["before"].items()
            ]
            version = [f"version {detail['version']}"] if "version" in detail else []
            return ", ".join(version + fields + (["input"] if detail.get("input_changed") else []))
        case "paused":
            end = detail["until"]
            return f"for {detail['reason']}" + (f" until {instant(datetime.fromisoformat(end))}" if end else "")
        case "resumed" | "pause_ended":
            left = f", still for {', '.join(detail['left'])}" if detail["left"] else ""
            return f"from {', '.join(detail['reasons'])}{left}"
        case _:
            own = {"id": row["target_id"]} if row["kind"] in OF_A_TRIGGER else {}
            told = {name: value for name, value in (own | detail).items() if value not in (None, [])}
            return ", ".join(f"{name} {_value(value)}" for name, value in told.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return compact(value) if isinstance(value, dict | bool) or value is None else str(value)
