"""``tocsin run``: what was called, and how it ended."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from tocsin.cli import completion
from tocsin.cli.connection import one_run, opened, run_async
from tocsin.cli.listing import All, JsonFlag, Limit, gathered, limit_of, tell_cut
from tocsin.cli.operations import Row
from tocsin.cli.output import between, compact, emit, harmless, instant, length, print_fields, print_table
from tocsin.cli.watching import follow
from tocsin.domain.errors import BadInput

RunId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A run's id, or its beginning: 8 characters or more.", autocompletion=completion.runs
    ),
]


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.command("list")(list_runs)
    app.command("show")(show)
    app.command("cancel")(cancel)
    app.command("retry")(retry)
    app.command("watch")(watch)
    return app


def list_runs(
    *,
    trigger: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this trigger.", autocompletion=completion.triggers)
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this agent.", autocompletion=completion.agents)
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE",
            help="Only runs in this state; may be given again.",
            autocompletion=completion.words("queued", "running", "succeeded", "failed", "cancelled", "skipped"),
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Queued since: ISO 8601, or a length such as 2h.")
    ] = None,
    limit: Limit = None,
    everything: All = False,
    json: JsonFlag = False,
) -> None:
    """Runs, newest first."""
    run_async(
        _list(
            trigger=trigger,
            agent=agent,
            state=state,
            since=since,
            limit=limit_of(limit, everything=everything),
            everything=everything,
            json=json,
        )
    )


async def _list(
    *,
    trigger: str | None,
    agent: str | None,
    state: Sequence[str] | None,
    since: str | None,
    limit: int,
    everything: bool,
    json: bool,
) -> None:
    states = read_states(state)
    async with opened() as control:
        now = await control.now()
        start = read_since(since, now)

        async def fetch(size: int, before: Any) -> list[Row]:
            return await control.runs(
                limit=size, trigger=trigger, agent=agent, states=states, before=before, since=start
            )

        rows = await gathered(fetch, key="id", limit=limit, everything=everything, json=json)
    if rows is None:
        return
    print_runs(rows, now)
    if not everything:
        tell_cut(len(rows), limit)


def print_runs(rows: Sequence[Row], now: datetime) -> None:
    print_table(
        ["id", "trigger", "state", "due", "late", "took", "try", "what"],
        [
            (
                row["id"],
                row["trigger"],
                row["state"],
                instant(row["effective_at"], now),
                _late(row),
                length(between(row["started_at"], row["finished_at"])),
                row["attempt"],
                what_of(row),
            )
            for row in rows
        ],
        empty="no runs",
    )


def _late(row: Row) -> str:
    return length(max(0.0, between(row["effective_at"], row["started_at"]) or 0)) if row["fence"] == 1 else "–"


def what_of(row: Row) -> str:
    """The most telling thing about a run, on one line: its error, reason, progress, or output."""
    if row.get("error"):
        return " ".join(str(row["error"]).split())[:120]
    if row["state"] == "running":
        fraction = row.get("fraction")
        told = f"{row.get('progress') or ''}{f' {fraction:.0%}' if fraction is not None else ''}"
        return " ".join(told.split())
    if row.get("reason"):
        return str(row["reason"])
    return compact(row["output"], 40) if row.get("output") is not None else ""


def read_states(names: Sequence[str] | None) -> list[Any] | None:
    """Raises: BadInput."""
    from tocsin.domain.run import RunState  # noqa: PLC0415

    if not names:
        return None
    known = list(RunState)
    for name in names:
        if name not in known:
            raise BadInput(f"--state {name!r}: must be one of {', '.join(known)}")
    return [RunState(name) for name in names]


def read_since(text: str | None, now: datetime) -> datetime | None:
    """An instant, or a length of time before now.

    Raises: BadInput.
    """
    from datetime import UTC  # noqa: PLC0415

    from tocsin.domain.duration import parse_duration  # noqa: PLC0415

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        try:
            return now - parse_duration(text)
        except (BadInput, OverflowError):
            raise BadInput(f"{text!r}: must be ISO 8601, or a length of time such as 2h") from None


def show(run: RunId, json: JsonFlag = False) -> None:
    """One run with its trail and what its attempts told."""
    run_async(_show(run, json))


async def _show(run: str, json: bool) -> None:
    async with opened() as control:
        row = await control.run(await one_run(control, run))
        now = await control.now()
    if json:
        emit(row)
    else:
        print_run(row, now)


def print_run(row: Row, now: datetime) -> None:
    from tocsin.cli.output import console  # noqa: PLC0415

    histories = ("transitions", "attempts", "late_results")
    fields = [(name, value) for name, value in row.items() if name not in histories]
    print_fields([(name, _shown(name, value, now)) for name, value in fields])
    console().print()
    print_table(
        ["at", "from", "to", "attempt", "fence", "reason", "actor"],
        [
            (instant(t["at"]), t["from_state"], t["to_state"], t["attempt"], t["fence"], t["reason"], t["actor"])
            for t in row["transitions"]
        ],
        empty="no transitions",
    )
    for attempt in row["attempts"]:
        told = [(name, _shown(name, attempt[name], now)) for name in attempt if name not in ("fence", "log")]
        if attempt["error_kind"] or attempt["log"] or attempt["usage"]:
            console().print(f"\nattempt with fence {attempt['fence']}")
            print_fields(told)
            if attempt["log"]:
                console().print(harmless(attempt["log"].rstrip()))
    for late in row["late_results"]:
        console().print(f"\nlate result with fence {late['fence']}, not applied")
        print_fields([(name, _shown(name, value, now)) for name, value in late.items()])


def _shown(name: str, value: Any, now: datetime) -> Any:
    if isinstance(value, datetime):
        return instant(value, now)
    if name in ("input", "output", "usage"):
        return None if value is None else compact(value, 2_000)
    return value


def cancel(run: RunId, json: JsonFlag = False) -> None:
    """Cancel a queued run; ask a running one to stop."""
    run_async(_cancel(run, json))


async def _cancel(run: str, json: bool) -> None:
    async with opened() as control:
        row = await control.cancel_run(await one_run(control, run))
    if json:
        emit(row)
    elif row["state"] == "running":
        typer.echo(f"run {row['id']} was asked to stop; `tocsin run watch {row['id']}` waits for its end")
    else:
        typer.echo(f"run {row['id']} is {row['state']}")


def retry(run: RunId, json: JsonFlag = False) -> None:
    """Run again with the input of one that has ended."""
    run_async(_retry(run, json))


async def _retry(run: str, json: bool) -> None:
    async with opened() as control:
        row = await control.retry_run(await one_run(control, run))
    if json:
        emit(row)
    else:
        typer.echo(f"queued run {row['id']}")


def watch(
    run: RunId,
    every: Annotated[str, typer.Option(metavar="LENGTH", help="How long between two looks, at most.")] = "1s",
    json: JsonFlag = False,
) -> None:
    """Follow a run to its end, a line for each change.

    Exits with 0 when it succeeded, 1 when it failed, 5 when it was cancelled, 6 when it was skipped. Ctrl-C lets it go
    on.
    """
    code = run_async(_watch(run, every, json))
    if code:
        raise typer.Exit(code)


async def _watch(run: str, every: str, json: bool) -> int:
    from tocsin.domain.duration import parse_duration  # noqa: PLC0415

    longest = max(parse_duration(every), timedelta(milliseconds=100)).total_seconds()
    async with opened() as control:
        return await follow(control, await one_run(control, run), longest=longest, json=json)
