"""Admin processes: ``sync``, ``migrate``, ``doctor``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.cli.connection import by_database, need_database, reached, run_async, url_of
from tocsin.cli.exits import say
from tocsin.cli.listing import JsonFlag
from tocsin.cli.output import counted, emit
from tocsin.cli.process import AppRef, loaded_app

if TYPE_CHECKING:
    from tocsin.cli.findings import Finding


def add_to(app: typer.Typer) -> None:
    app.command("sync")(sync)
    app.command("migrate")(migrate)
    app.command("doctor")(doctor)


def sync(
    app: AppRef,
    prune: Annotated[bool, typer.Option("--prune", help="Delete triggers the app no longer declares.")] = False,
    json: JsonFlag = False,
) -> None:
    """Declare the app's agents and triggers: all, or none."""
    need_database("sync")
    loaded = loaded_app(app)
    if not loaded.agents and not loaded.triggers:
        say(f"{app} declares no agents and no triggers")
    declared = run_async(_sync(loaded, prune))
    if json:
        emit({"app": app, **declared})
        return
    for kind, lists in declared.items():
        for what, names in lists.items():
            if names:
                shown = f": {', '.join(names[:20])}{' …' if len(names) > 20 else ''}" if what != "unchanged" else ""
                typer.echo(f"{counted(len(names), kind.removesuffix('s'))} {what.replace('_', ' ')}{shown}")
    for trigger in loaded.triggers:
        if trigger.hook is not None and not trigger.hook.is_verified:
            say(f"/hooks/{trigger.name} verifies nothing: whoever reaches the port may call {trigger.name}")


async def _sync(app: Any, prune: bool) -> dict[str, Any]:
    from tocsin.settings import load_settings  # noqa: PLC0415

    async with by_database(load_settings()) as control:
        return await control.declare(app, prune=prune)


def migrate(json: JsonFlag = False) -> None:
    """Bring the database to this release's schema.

    Safe to repeat, and to run from several places at once.
    """
    need_database("migrate")
    run_async(_migrate(json))


async def _migrate(json: bool) -> None:
    from tocsin.settings import load_settings  # noqa: PLC0415
    from tocsin.store.migrate import migrate as bring_forward  # noqa: PLC0415

    settings = load_settings()
    async with reached(settings) as dsn:
        state = await bring_forward(dsn, pooler=settings.pooled)
    if json:
        emit({"schema": state.code, "was": state.database, "applied": state.applied})
    elif state.applied:
        typer.echo(f"schema {state.database} → {state.code}: {', '.join(state.applied)}")
    else:
        typer.echo(f"schema {state.code}: nothing to do")


def doctor(json: JsonFlag = False) -> None:
    """Say what is wrong, and what to do about it."""
    from tocsin.cli.findings import print_findings  # noqa: PLC0415

    code = print_findings(run_async(_examine()), json=json)
    if code:
        raise typer.Exit(code)


async def _examine() -> "list[Finding]":
    from tocsin.domain.errors import InvalidSetting  # noqa: PLC0415
    from tocsin.settings import load_settings  # noqa: PLC0415

    try:
        url = url_of(load_settings())
    except InvalidSetting:
        url = None  # which the examination says, too
    if url is not None:
        from tocsin.cli.doctor_elsewhere import examine_elsewhere  # noqa: PLC0415

        return await examine_elsewhere(url)
    from tocsin.cli.doctor import examine  # noqa: PLC0415

    return await examine()
