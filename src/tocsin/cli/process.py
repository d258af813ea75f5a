"""``up`` and ``serve``: the commands that stay."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tocsin.cli.exits import DONE, RELEASED
from tocsin.domain.errors import BadInput, InvalidApp

if TYPE_CHECKING:
    from tocsin.declared import App
    from tocsin.serve import Ended, Order, View
    from tocsin.telemetry import Log

AppRef = Annotated[str, typer.Argument(metavar="APP", help="path/app.py[:hub], pkg.mod[:hub] or file.toml.")]
OptionalApp = Annotated[str | None, typer.Argument(metavar="APP", help="The app whose agents it runs.")]
For = Annotated[str | None, typer.Option("--for", metavar="SECONDS", help="Drain after this time, and sum up.")]
Json = Annotated[bool, typer.Option("--json", help="Log lines as JSON, no live view.")]


def add_to(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("serve")(serve)


def up(  # noqa: PLR0917 — typer hands its options over by name
    app: AppRef,
    lasts: For = None,
    plain: Annotated[bool, typer.Option("--plain", help="Log lines instead of the live view.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Write the live view's last frame as a picture.")
    ] = None,
    work: Annotated[
        list[str] | None,
        typer.Option("--work", metavar="APP", help="Run this app's agents in a process beside the hub; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Run everything: database, hub, and the app's agents.

    The embedded PostgreSQL is started unless TOCSIN_DATABASE_URL is set, its schema made, the app declared.
    """
    if record is not None and record.suffix != ".svg":
        raise BadInput(f"--record {record}: the picture is an SVG; name it …/view.svg")
    live = record is not None or (not plain and not json and sys.stdout.isatty())
    _run(app, whole=True, lasts=_length(lasts), live=live, record=record, json=json, work=work or ())


def serve(app: OptionalApp = None, lasts: For = None, json: Json = False) -> None:
    """Run one replica on TOCSIN_DATABASE_URL.

    `tocsin migrate` makes the schema, `tocsin sync` declares apps.
    """
    _run(app, whole=False, lasts=_length(lasts), live=False, record=None, json=json)


def loaded_app(ref: str) -> "App":
    """Raises: InvalidApp, one line for each fault."""
    from tocsin.app import load_app  # noqa: PLC0415

    place = ref.partition(":")[0]
    if not place.endswith((".py", ".toml")) and "/" not in place and not all(map(str.isidentifier, place.split("."))):
        what = "is a directory; name a .py or .toml file" if Path(place).is_dir() else "is no app"
        raise InvalidApp([f"{ref}: {what}, as in path/app.py, pkg.mod, either with :name, or file.toml"])
    return load_app(ref)


def _length(text: str | None) -> timedelta | None:
    """Raises: BadInput."""
    from tocsin.domain.duration import parse_duration  # noqa: PLC0415

    if text is None:
        return None
    try:
        return timedelta(seconds=float(text)) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except (BadInput, OverflowError):
        raise BadInput(f"--for {text!r}: must be a number of seconds, or a length of time such as 5m") from None


def _run(
    ref: str | None,
    *,
    whole: bool,
    lasts: timedelta | None,
    live: bool,
    record: Path | None,
    json: bool,
    work: Sequence[str] = (),
) -> None:
    from tocsin.otel.wanted import is_on  # noqa: PLC0415
    from tocsin.settings import load_settings  # noqa: PLC0415
    from tocsin.telemetry import logger  # noqa: PLC0415

    settings = load_settings()
    app = None
    if ref is not None:
        app = loaded_app(ref)
    beside = tuple((one, loaded_app(one)) for one in work)
    from tocsin.serve import Order  # noqa: PLC0415

    order = Order(settings=settings, app=app, whole=whole, lasts=lasts, summed=live, beside=beside)
    form = "json" if json else settings.log_format
    if live:
        from tocsin.cli.live import LiveView  # noqa: PLC0415

        view = LiveView(source=ref or "", record=record, level=settings.log_level, form=form)
        ended = _processed(order, view.log, view.show)
    else:
        log = logger(form=form, level=settings.log_level, traced=is_on())
        ended = _processed(order, log, None)
    if ended.summary is not None:
        if sys.stdout.isatty() and not json:
            from tocsin.cli.summary import print_summary  # noqa: PLC0415

            with suppress(OSError):  # the terminal may be gone by now
                print_summary(ended.summary)
        else:
            logger(form=form, level="info").info("hub.summary", **_flat(ended.summary))
    code = RELEASED if ended.released else DONE
    if ended.stuck:
        leave_at_once(code)
    if code:
        raise typer.Exit(code)


def _processed(order: "Order", log: "Log", view: "View | None") -> "Ended":
    """The process has run to its end. An event loop with a task that ignores being cancelled is left open."""
    from asyncio import Runner  # noqa: PLC0415

    from tocsin.cli.exits import say  # noqa: PLC0415
    from tocsin.serve import Process  # noqa: PLC0415

    runner = Runner()
    stuck = 0
    try:
        ended = runner.run(Process(order, log=log, view=view, tell=say).run())
        stuck = ended.stuck
        return ended
    finally:
        if not stuck:
            runner.close()


def leave_at_once(code: int) -> NoReturn:
    """The process is gone, whatever an agent still does in it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """For a line: lateness as three numbers, rounded to the microsecond."""
    lateness = {
        f"lateness_{name}": round(value, 6) for name, value in summary.get("lateness", {}).items() if value is not None
    }
    return {name: value for name, value in summary.items() if name != "lateness"} | lateness
