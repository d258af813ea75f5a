"""``tocsin trigger fire, backfill, why``: runs that are asked for, and what has become of those that were due."""

from typing import Annotated, Any

import typer

from tocsin.cli import trigger_options as given
from tocsin.cli.audit import what_of
from tocsin.cli.connection import opened, run_async
from tocsin.cli.exits import DONE
from tocsin.cli.listing import JsonFlag, Limit, limit_of, tell_cut
from tocsin.cli.operations import Row
from tocsin.cli.output import counted, emit, instant, print_table
from tocsin.cli.runs import read_since
from tocsin.cli.trigger_options import Name, read_instant
from tocsin.cli.watching import LONGEST_PAUSE, follow
from tocsin.domain.errors import BadInput


def fire(
    name: Name,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="The same key gives the same run.")] = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end, as `tocsin run watch` does.")] = False,
    json: JsonFlag = False,
) -> None:
    """A run now, whatever the schedule says."""
    code = run_async(_fire(name, key, given.read_input(input), watch=watch, json=json))
    if code:
        raise typer.Exit(code)


async def _fire(name: str, key: str | None, payload: Any, *, watch: bool, json: bool) -> int:
    async with opened() as control:
        row = await control.fire(name, key=key, input=payload)
        if json and not watch:
            emit(row)
        elif not json:
            what = "queued run" if row["created"] else f"that key was seen before, and gave the {row['state']} run"
            typer.echo(f"{what} {row['id']}" + ("" if watch else f"; follow it with `tocsin run watch {row['id']}`"))
        return await follow(control, row["id"], longest=LONGEST_PAUSE, json=json) if watch else DONE


def backfill(
    name: Name,
    *,
    since: Annotated[str | None, typer.Option(metavar="INSTANT", help="First instant, ISO 8601.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Last instant, ISO 8601; now when left out.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    cancel: Annotated[str | None, typer.Option(metavar="ID", help="Cancel what is queued of a backfill.")] = None,
    json: JsonFlag = False,
) -> None:
    """Run past occurrences again, one at a time."""
    if (since is None) == (cancel is None):
        raise BadInput("a backfill needs --since INSTANT, or --cancel ID")
    run_async(_backfill(name, since=since, until=until, dry_run=dry_run, cancel=cancel, json=json))


async def _backfill(
    name: str, *, since: str | None, until: str | None, dry_run: bool, cancel: str | None, json: bool
) -> None:
    async with opened() as control:
        if cancel is not None:
            row = await control.cancel_backfill(name, cancel)
            told = f"cancelled {counted(row['cancelled'], 'queued run')} of backfill {cancel}"
        else:
            end = read_instant("--until", until) if until is not None else await control.now()
            row = await control.backfill(name, read_instant("--since", since or ""), end, dry_run=dry_run)
            told = counted(row["count"], "occurrence") + (
                " would run" if dry_run else f" queued; `tocsin trigger backfill {name} --cancel {row['id']}` stops it"
            )
    if json:
        emit(row)
    else:
        typer.echo(told)


def why(
    name: Name,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="ISO 8601, or a length such as 2h; 24h when left out.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="ISO 8601, or a length such as 2h.")] = None,
    limit: Limit = None,
    json: JsonFlag = False,
) -> None:
    """Why did it run, or not? Every decision on record, and who changed or paused it."""
    run_async(_why(name, since, until, limit_of(limit), json))


async def _why(name: str, since: str | None, until: str | None, limit: int, json: bool) -> None:
    async with opened() as control:
        now = await control.now()
        first, last = (read_since(text, now) for text in (since, until))
        answer = await control.why(name, since=first, until=last, limit=limit)
    if json:
        emit({name: answer[name] for name in ("trigger", "standing", "changes")})
        for decision in answer["decisions"]:
            emit({"trigger": name, **decision})
        return
    for sentence in answer["standing"]:
        typer.echo(sentence)
    typer.echo("")
    print_table(
        ["instant (UTC)", "decision", "reason", "count", "decided", "run"],
        [
            (
                _span(decision),
                decision["decision"],
                decision["reason"],
                decision["count"],
                instant(decision["decided_at"]),
                decision["run_id"],
            )
            for decision in answer["decisions"]
        ],
        empty="no decision on record in that range",
    )
    if answer["changes"]:
        typer.echo("")
        print_table(
            ["changed (UTC)", "what", "by", "detail"],
            [
                (instant(change["at"]), change["action"], change["actor"], what_of(change))
                for change in answer["changes"]
            ],
            empty="",
        )
    tell_cut(len(answer["decisions"]), limit, "--limit or --since shows more")


def _span(decision: Row) -> str:
    first, last = instant(decision["at"]), instant(decision["until"])
    if first == last:
        return first
    return f"{first} – {last[11:] if last[:10] == first[:10] else last}"
