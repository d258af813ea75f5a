"""``tocsin import crontab``: a crontab becomes an app."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.output import counted
from tocsin.domain.errors import BadInput, InvalidApp, Refused


def commands() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_group)
    app.command("crontab")(import_crontab)
    return app


def _group() -> None:
    """Bring schedules along from elsewhere."""


def import_crontab(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A user's or the system's crontab; - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The app; stdout when left out.")
    ] = None,
    system: Annotated[
        bool | None, typer.Option("--system/--user", help="With a user column or without; found out by itself.")
    ] = None,
    tz: Annotated[
        str | None, typer.Option("--tz", metavar="ZONE", help="The zone of its times; this host's when left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Write a TOML app with an agent and a trigger for each line of a crontab."""
    from tocsin.domain.crontab import read_crontab, write_app  # noqa: PLC0415
    from tocsin.domain.zone import zone  # noqa: PLC0415

    if tz is not None:
        zone(tz)
    if system is None and file.absolute().is_relative_to("/etc"):
        system = True
    crontab = read_crontab(_content(file), source=str(file), system=system, tz=tz or host_zone())
    if crontab.faults:
        raise InvalidApp([f"{file}:{fault}" for fault in crontab.faults])
    text = write_app(crontab)
    if output is None:
        typer.echo(text, nl=False)
    else:
        _write(output, text, force=force)
        typer.echo(
            f"{output}: {counted(len(crontab.entries), 'trigger')}; start them with `tocsin up {output}`", err=True
        )
    for note in crontab.notes:
        typer.echo(f"tocsin: {file}:{note}", err=True)


def host_zone() -> str:
    """The zone by which this host's cron goes: TZ, else what /etc/localtime leads to, else UTC."""
    import os  # noqa: PLC0415
    from zoneinfo import available_timezones  # noqa: PLC0415

    linked = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    known = available_timezones()
    for name in (os.environ.get("TZ", "").lstrip(":"), linked):
        if name in known and "/" in name and not name.startswith("Etc/"):
            return name
    return "UTC"


def _content(file: Path) -> str:
    import sys  # noqa: PLC0415

    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from None


def _write(output: Path, text: str, *, force: bool) -> None:
    try:
        with output.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise Refused(f"{output} exists already; --force overwrites it") from None
    except OSError as error:
        raise BadInput(f"{output}: {error.strerror or error}") from None
