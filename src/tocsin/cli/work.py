"""``work``: a process that runs an app's agents for hubs elsewhere, and has no database."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tocsin.cli.exits import DONE, RELEASED
from tocsin.cli.process import AppRef, Json, leave_at_once, loaded_app
from tocsin.domain.errors import BadInput, InvalidSetting, Refused

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from tocsin.otel.pipeline import Pipeline
    from tocsin.sdk.agent import AgentProcess
    from tocsin.sdk.dial import Access
    from tocsin.settings import Settings

GIVE_UP_AT: Final = 5
"""So many signals end the process whatever is still in hand; its lease sees to the rest."""


def add_to(app: typer.Typer) -> None:
    app.command("work")(work)


def work(  # noqa: PLR0917 — typer hands its options over by name
    app: AppRef,
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="HOST:PORT,…", help="The hubs; else TOCSIN_HUB.", show_default=False)
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, max=10_000, metavar="N", help="Runs at once; else TOCSIN_SLOTS.")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="For people; else host:pid.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="For people; repeatable.")] = None,
    json: Json = False,
    leave_with_stdin: Annotated[bool, typer.Option("--leave-with-stdin", hidden=True)] = False,
) -> None:
    """Run an app's agents for hubs elsewhere.

    It needs no database. TOCSIN_AGENT_KEY is the key that it shows to them.
    """
    from tocsin.otel.wanted import is_on, open_pipeline  # noqa: PLC0415
    from tocsin.settings import load_settings, unknown_variables  # noqa: PLC0415
    from tocsin.telemetry import logger  # noqa: PLC0415

    settings = load_settings()
    _need_grpc()
    from tocsin.executors.inprocess import nothing  # noqa: PLC0415
    from tocsin.sdk.agent import AgentProcess, Order  # noqa: PLC0415
    from tocsin.sdk.dial import hubs_of  # noqa: PLC0415

    access = _access(settings)
    hubs = hubs_of(settings.hub if hub is None else hub, access)
    labels = _labels(label or [])
    log = logger(form="json" if json else settings.log_format, level=settings.log_level, traced=is_on())
    loaded = loaded_app(app)
    pipeline = open_pipeline(instance=name or f"{socket.gethostname()}:{os.getpid()}", log=log)
    order = Order(
        app=loaded,
        hubs=hubs,
        slots=slots or settings.slots,
        access=access,
        name=name,
        labels=labels,
        drain=settings.drain_timeout,
        within=nothing if pipeline is None else pipeline.within,
    )
    for variable in unknown_variables():
        log.warning("setting.unknown", name=variable)
    process = AgentProcess(order, log=log)
    code = _processed(process, leave_with_stdin=leave_with_stdin, pipeline=pipeline)
    if code:
        raise typer.Exit(code)


def _need_grpc() -> None:
    """Raises: Refused, where the extra is missing."""
    try:
        import google.protobuf  # noqa: F401, PLC0415
        import grpc.aio  # noqa: F401, PLC0415
    except ModuleNotFoundError:
        raise Refused("`tocsin work` needs gRPC: pip install 'tocsin[agent]'") from None


def _access(settings: "Settings") -> "Access":
    from tocsin.sdk.dial import Access  # noqa: PLC0415

    return Access(
        key=settings.agent_key,
        ca=_read("GRPC_CA", settings.grpc_ca),
        certificate=_read("GRPC_CERT", settings.grpc_cert),
        private_key=_read("GRPC_KEY", settings.grpc_key),
        insecure=settings.grpc_insecure,
    )


def _read(setting: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InvalidSetting([f"TOCSIN_{setting}={path}: {error.strerror}"]) from None


def _labels(words: list[str]) -> dict[str, str]:
    labels = dict(word.partition("=")[::2] for word in words)
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise BadInput(f"--label {word!r}: must be KEY=VALUE, such as zone=eu-1")
    return labels


def _processed(process: "AgentProcess", *, leave_with_stdin: bool, pipeline: "Pipeline | None") -> int:
    """The process has run to its end; its exit code. An agent that ignores being cancelled is left where it is."""
    import asyncio  # noqa: PLC0415

    runner = asyncio.Runner()
    stuck = False
    try:
        code, stuck = runner.run(_until_left(process, leave_with_stdin=leave_with_stdin, pipeline=pipeline))
    finally:
        if not stuck:
            runner.close()
    if stuck:
        leave_at_once(code)
    return code


async def _until_left(
    process: "AgentProcess", *, leave_with_stdin: bool, pipeline: "Pipeline | None"
) -> tuple[int, bool]:
    """(exit code, whether tasks live on that ignore being cancelled)."""
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    signals = 0

    def asked() -> None:
        nonlocal signals
        signals += 1
        if signals >= GIVE_UP_AT:
            os._exit(RELEASED)
        process.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    if leave_with_stdin:
        threading.Thread(target=_tell_at_end_of_stdin, args=(loop, process.leave), daemon=True).start()
    code = RELEASED if await process.run() else DONE
    if pipeline is not None:
        await pipeline.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    living = (await asyncio.wait(others, timeout=1))[1] if others else set()
    return code, bool(living)


def _tell_at_end_of_stdin(loop: "AbstractEventLoop", leave: Callable[[], None]) -> None:
    """Whoever started us holds the other end of our stdin for as long as it lives."""
    while os.read(0, 4096):
        pass
    with suppress(RuntimeError):  # we have left already
        loop.call_soon_threadsafe(leave)
