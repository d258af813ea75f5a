"""When things are due: ``next`` for one expression, ``forecast`` for all triggers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from tocsin.cli.connection import opened, run_async
from tocsin.cli.operations import Row
from tocsin.cli.output import console, emit, instant, print_table
from tocsin.domain.errors import BadInput

MOST_INSTANTS = 100_000
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object a line, nothing else.")]


def add_to(app: typer.Typer) -> None:
    app.command("next")(next_instants)
    app.command("forecast")(forecast)


def next_instants(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="A cron expression, five or six fields.")],
    *,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="IANA zone in which it is read.")] = "UTC",
    after: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="ISO 8601 instant to look from; now when left out.")
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=MOST_INSTANTS, metavar="N", help="How many instants.")] = 5,
    gap: Annotated[str, typer.Option(metavar="RULE", help="In a daylight-saving gap: shift or skip.")] = "shift",
    fold: Annotated[str, typer.Option(metavar="RULE", help="In a fold: first, last or both.")] = "first",
    json: JsonFlag = False,
) -> None:
    """When would it fire? Asks no database."""
    from tocsin.domain.schedule import cron  # noqa: PLC0415

    schedule = cron(expression, tz, gap=_one_of("gap", gap), fold=_one_of("fold", fold))
    now = _now()
    start = _read_instant("--after", after, tz) if after is not None else now
    at: datetime | None = start
    for found in range(count):
        at = schedule.next_after(at) if at is not None else None
        if at is None:
            if not found and not json:
                console().print("never again")
            return
        local = _local(at, tz)
        if json:
            emit({"expr": expression, "tz": tz, "at": at, "local": local.isoformat()})
        else:
            shown = instant(at, now) if at > now and after is None else instant(at)
            typer.echo(f"{local:%a %Y-%m-%d %H:%M:%S %Z}".ljust(32) + f"  {shown}")


def forecast(
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 366, metavar="N", help="How far to look ahead.")] = 24,
    json: JsonFlag = False,
) -> None:
    """The load ahead: fires by minute, what falls together, herds."""
    run_async(_forecast(hours, json))


async def _forecast(hours: float, json: bool) -> None:
    async with opened() as control:
        found = await control.insight.forecast(hours)
    if json:
        _emit_forecast(found)
    else:
        _print_forecast(found)


def _emit_forecast(found: Row) -> None:
    total = ("since", "until", "triggers", "fires", "collision_instants", "cut")
    emit({"kind": "total", **{name: found[name] for name in total}})
    for kind, part in (("minute", "minutes"), ("collision", "collisions"), ("herd", "herds")):
        for row in found[part]:
            emit({"kind": kind, **row})


def _print_forecast(found: Row) -> None:
    out = console()
    out.print(
        f"{found['fires']:,} fires of {found['triggers']:,} triggers until {instant(found['until'])}, "
        f"{len(found['minutes']):,} minutes have any"
    )
    cut = found["cut"]
    if cut:
        out.print(
            f"at least: {len(cut):,} triggers fire too often to be followed to the end "
            f"({', '.join(cut[:3])}{' …' if len(cut) > 3 else ''})"
        )
    if not found["fires"]:
        return
    peak = max(hour["fires"] for hour in found["hours"])
    shown = [(hour["at"], hour["fires"]) for hour in found["hours"] if hour["fires"]]
    out.print()
    print_table(
        ["hour (UTC)", "fires", ""],
        [(f"{hour:%m-%d %H:00}", f"{count:,}", "█" * max(1, round(count / peak * 40))) for hour, count in shown[:48]],
        empty="",
    )
    out.print()
    print_table(
        ["busiest minutes", "fires"],
        [(instant(minute["at"], found["since"]), f"{minute['fires']:,}") for minute in found["busiest"]],
        empty="",
    )
    _print_crowds("falls together", found["collisions"][:5], found["collision_instants"])
    _print_crowds("herds, within a second", found["herds"][:5], len(found["herds"]))
    if found["herds"]:
        out.print('jitter = "30s" on some of these triggers spreads them')


def _print_crowds(title: str, crowds: Sequence[Row], count: int) -> None:
    if crowds:
        console().print()
        rows = [(instant(crowd["at"]), crowd["fires"], _names(crowd)) for crowd in crowds]
        print_table([f"{title} ({count:,})", "fires", "triggers"], rows, empty="")


def _names(crowd: Row) -> str:
    more = crowd["fires"] - len(crowd["triggers"])
    return ", ".join(crowd["triggers"]) + (f" and {more} more" if more > 0 else "")


def _one_of(field: str, value: str) -> Any:
    from tocsin.domain.errors import InvalidSchedule  # noqa: PLC0415

    choices = {"gap": ("shift", "skip"), "fold": ("first", "last", "both")}[field]
    if value not in choices:
        raise InvalidSchedule(f"--{field}", value, f"must be {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def _now() -> datetime:
    from tocsin.clock import host_now  # noqa: PLC0415

    return host_now()


def _local(at: datetime, tz: str) -> datetime:
    """The instant on the wall's clock; in UTC where that clock has passed the calendar's end."""
    from tocsin.domain.zone import zone  # noqa: PLC0415

    try:
        return at.astimezone(zone(tz).info)
    except OverflowError:
        return at


def _read_instant(option: str, text: str, tz: str) -> datetime:
    """An instant; without an offset it is read in the zone of the expression.

    Raises: BadInput.
    """
    from datetime import UTC  # noqa: PLC0415

    from tocsin.domain.zone import zone  # noqa: PLC0415

    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=zone(tz).info)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"{option} {text!r}: must be ISO 8601, such as 2026-03-29T00:00:00Z") from None
