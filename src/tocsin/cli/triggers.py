"""``tocsin trigger``: what is called, and when. What comes of it is in ``trigger_runs``."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from tocsin.cli import completion
from tocsin.cli import trigger_options as given
from tocsin.cli.connection import opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, gathered, limit_of, tell_cut
from tocsin.cli.operations import Operations, Row
from tocsin.cli.output import compact, counted, emit, instant, length, print_fields, print_table
from tocsin.cli.trigger_options import Name
from tocsin.cli.trigger_runs import backfill, fire, why

IN_WORDS: Final = {"schedule_text": "schedule", "event_text": "event", "hook_text": "hook"}
"""What a person is shown of fields that have a form besides."""

LENGTHS: Final = ("grace", "catch_up_window", "expires_after")
"""Of a policy, in seconds."""


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

        rows = await gathered(fetch, key="name", limit=limit, everything=everything, json=json)
    if rows is None:
        return
    print_table(
        ["trigger", "status", "next", "agent", "schedule"],
        [
            (
                row["name"],
                row["status"],
                instant(row["next_at"], now) if row["status"] not in ("broken", "paused") else "–",
                row["agent"],
                row["broken_reason"] or row["schedule_text"] or _event_of(row) or "by hand",
            )
            for row in rows
        ],
        empty="no triggers; declare some with `tocsin sync APP`, or add one with `tocsin trigger add`",
    )
    if not everything:
        tell_cut(len(rows), limit)


def _event_of(row: Row) -> str | None:
    """What calls it: with a hook, calls of that alone."""
    text: str | None = row["event_text"]
    return f"/hooks/{row['name']}: {text}" if row["hook"] is not None else text


def show(name: Name, json: JsonFlag = False) -> None:
    """One trigger with its rules and its policy."""
    run_async(_answer(lambda control: control.trigger(name), json))


async def _answer(
    ask: Callable[[Operations], Awaitable[Row]], json: bool, tell: Callable[[Row, datetime], None] | None = None
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
    _warn_of_hook(row)


def _tell_edited(row: Row, now: datetime) -> None:
    typer.echo(f"{row['name']} is changed, now version {row['version']}: {_rhythm(row, now)}")
    _warn_of_hook(row)
    if row["source"] != "by hand":
        typer.echo(
            f"tocsin: {row['name']} is declared in {row['source']}: the next `tocsin sync` or `up` takes this back",
            err=True,
        )


def _warn_of_hook(row: Row) -> None:
    if row["hook"] is not None and row["hook"]["scheme"] == "none":
        typer.echo(
            f"tocsin: /hooks/{row['name']} verifies nothing: whoever reaches the port may call {row['name']}", err=True
        )


def _tell_paused(row: Row, now: datetime) -> None:
    typer.echo(
        f"{row['name']} is paused since {instant(row['paused_at'], now)} "
        f"for: {', '.join(_until(reason, row, now) for reason in row['paused'])}; "
        "runs in hand go on"
    )


def _until(reason: str, row: Row, now: datetime) -> str:
    end = row["paused_until"].get(reason)
    return reason if end is None else f"{reason} until {instant(end, now)}"


def _tell_resumed(row: Row, now: datetime) -> None:
    if row["paused"]:
        typer.echo(f"{row['name']} is still paused for: {', '.join(row['paused'])}")
    else:
        typer.echo(f"{row['name']} is resumed: {_rhythm(row, now)}")


def _rhythm(row: Row, now: datetime) -> str:
    """Its schedule, and what comes next."""
    if row["status"] == "broken":
        return f"broken, {row['broken_reason']}"
    if row["event_text"] is not None:
        called = f"/hooks/{row['name']}, {row['hook_text']}: " if row["hook_text"] is not None else ""
        return f"{called}{row['event_text']}{', paused' if row['paused'] else ''}"
    if row["schedule_text"] is None:
        return f"fired by hand, `tocsin trigger fire {row['name']}`"
    if row["paused"]:
        return f"{row['schedule_text']}, paused"
    return f"{row['schedule_text']}, {row['status']}" + (
        f", next at {instant(row['next_at'], now)}" if row["next_at"] else ""
    )


def _given(policy: Row) -> list[tuple[str, Any]]:
    return [(name, setting) for name, setting in policy.items() if setting is not None]


def print_trigger(row: Row, now: datetime) -> None:
    fields: list[tuple[str, Any]] = []
    for key, value in row.items():
        if isinstance(value, datetime):
            fields.append((key, instant(value, now)))
        elif key == "policy":
            fields += [(name, length(setting) if name in LENGTHS else setting) for name, setting in _given(value)]
        elif key == "input":
            fields.append((key, None if value is None else compact(value, 2_000)))
        elif key == "paused":
            fields.append((key, ", ".join(_until(reason, row, now) for reason in value)))
        elif key in IN_WORDS:
            fields.append((IN_WORDS[key], value))
        elif key not in (*IN_WORDS.values(), "paused_until"):
            fields.append((key, value))
    print_fields(fields)


def add(
    name: given.NewName,
    *,
    agent: Annotated[
        str, typer.Option(metavar="NAME", help="The agent that is called.", autocompletion=completion.agents)
    ],
    cron: given.Cron = None,
    tz: given.Tz = None,
    every: given.Every = None,
    at: given.At = None,
    jitter: given.Jitter = None,
    on_event: given.OnEvent = None,
    hook: given.Hook = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    overlap: given.Overlap = None,
    catch_up: given.CatchUp = None,
    priority: given.Priority = None,
    expires_after: given.ExpiresAfter = None,
    json: JsonFlag = False,
) -> None:
    """A new trigger of a declared agent.

    Without a schedule, --on-event and --hook it is fired by hand.
    """
    changes = given.Changes(
        agent=agent,
        cron=cron,
        tz=tz,
        every=every,
        at=at,
        jitter=jitter,
        on_event=on_event,
        hook=hook,
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
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent that is called.", autocompletion=completion.agents)
    ] = None,
    cron: given.Cron = None,
    tz: given.Tz = None,
    every: given.Every = None,
    at: given.At = None,
    jitter: given.Jitter = None,
    on_event: given.OnEvent = None,
    hook: given.Hook = None,
    input: given.Input = None,  # noqa: A002 — the word that every face of Tocsin uses
    overlap: given.Overlap = None,
    catch_up: given.CatchUp = None,
    priority: given.Priority = None,
    expires_after: given.ExpiresAfter = None,
    if_version: Annotated[int | None, typer.Option(metavar="N", help="Only while it has this version.")] = None,
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
        on_event=on_event,
        hook=hook,
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
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; each reason is cleared by itself.")] = "user",
    until: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="When the reason ends by itself, ISO 8601.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Let nothing become a run until it is resumed."""
    end = given.read_instant("--until", until) if until is not None else None
    run_async(_answer(lambda control: control.pause(name, reason=reason, until=end), json, _tell_paused))


def resume(
    name: Name,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Clear only this reason.")] = None,
    catch_up: Annotated[
        str | None, typer.Option(metavar="POLICY", help="latest: also run the last occurrence of the pause.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Go on from now."""
    wanted = given.catch_up_of(catch_up)
    run_async(_answer(lambda control: control.resume(name, catch_up=wanted, reason=reason), json, _tell_resumed))


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
