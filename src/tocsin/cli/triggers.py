"""``tocsin trigger``: what is called, and when."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.cli import trigger_options as given
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, Row, limit_of, pages, tell_cut
from tocsin.cli.output import compact, counted, emit, instant, print_fields, print_table
from tocsin.domain.errors import BadInput

if TYPE_CHECKING:
    from tocsin.engine.control import Control

Name = Annotated[str, typer.Argument(help="The trigger's name.")]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for name, command in (
        ("list", list_triggers),
        ("show", show),
        ("add", add),
        ("edit", edit),
        ("pause", pause),
        ("resume", resume),
        ("fire", fire),
        ("backfill", backfill),
        ("why", why),
        ("delete", delete),
    ):
        app.command(name)(command)
    return app


def list_triggers(limit: Limit = None, everything: All = False, json: JsonFlag = False) -> None:
    """Triggers by name."""
    run_async(_list(limit_of(limit, everything=everything), everything, json))


async def _list(limit: int, everything: bool, json: bool) -> None:
    async with opened() as control:
        now = await control.now()

        async def fetch(size: int, after: Any) -> list[Row]:
            return await control.triggers(limit=size, after=after)

        rows = []
        async for row in pages(fetch, key="name", limit=limit, everything=everything):
            if json:
                emit(row)
            else:
                rows.append(row)
    if json:
        return
    print_table(
        ["trigger", "status", "next", "agent", "schedule"],
        [
            (
                row["name"],
                row["status"],
                instant(row["next_at"], now) if row["status"] not in ("broken", "paused") else "–",
                row["agent"],
                row["broken_reason"] or row["schedule"] or "by hand",
            )
            for row in rows
        ],
        empty="no triggers; declare some with `tocsin sync APP`, or add one with `tocsin trigger add`",
    )
    if not everything:
        tell_cut(len(rows), limit)


def show(name: Name, json: JsonFlag = False) -> None:
    """One trigger with its rules and its policy."""
    run_async(_answer(lambda control: control.trigger(name), json))


async def _answer(
    ask: "Callable[[Control], Awaitable[Row]]", json: bool, tell: Callable[[Row, datetime], None] | None = None
) -> None:
    async with opened() as control:
        row = await ask(control)
        now = await control.now()
    if json:
        emit(row)
    else:
        (tell or print_trigger)(row, now)


def _tell_added(row: Row, now: datetime) -> None:
    typer.echo(f"{row['name']} is added: {_rhythm(row, now)}")


def _tell_edited(row: Row, now: datetime) -> None:
    typer.echo(f"{row['name']} is changed, now version {row['version']}: {_rhythm(row, now)}")
    if row["source"] != "by hand":
        typer.echo(
            f"tocsin: {row['name']} is declared in {row['source']}: the next `tocsin sync` or `up` takes this back",
            err=True,
        )


def _tell_paused(row: Row, now: datetime) -> None:
    typer.echo(
        f"{row['name']} is paused since {instant(row['paused_at'], now)} for: {', '.join(row['paused'])}; "
        "runs in hand go on"
    )


def _tell_resumed(row: Row, now: datetime) -> None:
    if row["paused"]:
        typer.echo(f"{row['name']} is still paused for: {', '.join(row['paused'])}")
    else:
        typer.echo(f"{row['name']} is resumed: {_rhythm(row, now)}")


def _rhythm(row: Row, now: datetime) -> str:
    """Its schedule, and what comes next."""
    if row["status"] == "broken":
        return f"broken, {row['broken_reason']}"
    if row["schedule"] is None:
        return f"fired by hand, `tocsin trigger fire {row['name']}`"
    if row["paused"]:
        return f"{row['schedule']}, paused"
    return f"{row['schedule']}, {row['status']}" + (
        f", next at {instant(row['next_at'], now)}" if row["next_at"] else ""
    )


def print_trigger(row: Row, now: datetime) -> None:
    fields: list[tuple[str, Any]] = []
    for key, value in row.items():
        if isinstance(value, datetime):
            fields.append((key, instant(value, now)))
        elif key == "policy":
            fields += [(name, setting) for name, setting in value.items() if setting is not None]
        elif key == "input":
            fields.append((key, None if value is None else compact(value, 2_000)))
        elif key == "paused":
            fields.append((key, ", ".join(value)))
        elif key != "rules":
            fields.append((key, value))
    print_fields(fields)


def add(
    name: Name,
    *,
    agent: Annotated[str, typer.Option(help="The agent that is called.")],
    cron: given.Cron = None,
    tz: given.Tz = None,
    every: given.Every = None,
    at: given.At = None,
    jitter: given.Jitter = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    overlap: given.Overlap = None,
    catch_up: given.CatchUp = None,
    priority: given.Priority = None,
    expires_after: given.ExpiresAfter = None,
    json: JsonFlag = False,
) -> None:
    """A new trigger of a declared agent.

    Without a schedule it is fired by hand.
    """
    changes = given.Changes(
        agent=agent,
        cron=cron,
        tz=tz,
        every=every,
        at=at,
        jitter=jitter,
        input=input,
        overlap=overlap,
        catch_up=catch_up,
        priority=priority,
        expires_after=expires_after,
    )
    run_async(_answer(lambda control: control.add_trigger(changes.new(name)), json, _tell_added))


def edit(
    name: Name,
    *,
    agent: Annotated[str | None, typer.Option(help="The agent that is called.")] = None,
    cron: given.Cron = None,
    tz: given.Tz = None,
    every: given.Every = None,
    at: given.At = None,
    jitter: given.Jitter = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    overlap: given.Overlap = None,
    catch_up: given.CatchUp = None,
    priority: given.Priority = None,
    expires_after: given.ExpiresAfter = None,
    if_version: Annotated[int | None, typer.Option(help="Only while it has this version.")] = None,
    json: JsonFlag = False,
) -> None:
    """Change what is named; the rest stays as it is."""
    changes = given.Changes(
        agent=agent,
        cron=cron,
        tz=tz,
        every=every,
        at=at,
        jitter=jitter,
        input=input,
        overlap=overlap,
        catch_up=catch_up,
        priority=priority,
        expires_after=expires_after,
    )
    changes.check_any()
    run_async(
        _answer(lambda control: control.edit_trigger(name, changes.applied, if_version=if_version), json, _tell_edited)
    )


def pause(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; each reason is cleared by itself.")] = "user",
    json: JsonFlag = False,
) -> None:
    """Let nothing become a run until it is resumed."""
    run_async(_answer(lambda control: control.pause(name, reason=reason), json, _tell_paused))


def resume(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Clear only this reason.")] = None,
    catch_up: Annotated[str | None, typer.Option(help="latest: also run the last occurrence of the pause.")] = None,
    json: JsonFlag = False,
) -> None:
    """Go on from now."""
    wanted = given.catch_up_of(catch_up)
    run_async(_answer(lambda control: control.resume(name, catch_up=wanted, reason=reason), json, _tell_resumed))


def fire(
    name: Name,
    key: Annotated[str | None, typer.Option(help="The same key gives the same run.")] = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    json: JsonFlag = False,
) -> None:
    """A run now, whatever the schedule says."""
    run_async(_fire(name, key, given.read_input(input), json))


async def _fire(name: str, key: str | None, payload: Any, json: bool) -> None:
    async with opened() as control:
        row = await control.fire(name, key=key, input=payload)
    if json:
        emit(row)
    else:
        what = "queued run" if row["created"] else f"that key was seen before, and gave the {row['state']} run"
        typer.echo(f"{what} {row['id']}; follow it with `tocsin run watch {row['id']}`")


def backfill(
    name: Name,
    *,
    since: Annotated[str | None, typer.Option(help="First instant, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Last instant, ISO 8601; now when left out.")] = None,
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
    since: Annotated[str | None, typer.Option(help="ISO 8601; the last 24 hours when left out.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO 8601.")] = None,
    limit: Limit = None,
    json: JsonFlag = False,
) -> None:
    """Why did it run, or not? Every decision on record."""
    run_async(_why(name, since, until, limit_of(limit), json))


async def _why(name: str, since: str | None, until: str | None, limit: int, json: bool) -> None:
    first = read_instant("--since", since) if since is not None else None
    last = read_instant("--until", until) if until is not None else None
    async with opened() as control:
        answer = await control.why(name, since=first, until=last, limit=limit)
    if json:
        emit({"trigger": answer["trigger"], "standing": answer["standing"]})
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
    tell_cut(len(answer["decisions"]), limit, "--limit or --since shows more")


def _span(decision: Row) -> str:
    first, last = instant(decision["at"]), instant(decision["until"])
    if first == last:
        return first
    return f"{first} – {last[11:] if last[:10] == first[:10] else last}"


def delete(
    name: Name,
    json: JsonFlag = False,
) -> None:
    """It fires no more; its history stays."""
    run_async(_delete(name, json))


async def _delete(name: str, json: bool) -> None:
    async with opened() as control:
        row = await control.delete_trigger(name)
    if json:
        emit(row)
    else:
        typer.echo(f"deleted trigger {name}; {counted(row['withdrawn'], 'queued run')} withdrawn")


def read_instant(option: str, text: str) -> datetime:
    """An instant; without an offset it is in UTC.

    Raises: BadInput.
    """
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"{option} {text!r}: must be ISO 8601, such as 2026-03-29T00:00:00Z") from None
