"""A run followed to its end: what has changed between two looks, and how that is told."""

from collections.abc import Iterator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import typer

from tocsin.cli.exits import CANCELLED, DONE, REFUSED, SKIPPED, say
from tocsin.cli.operations import Operations, Row
from tocsin.cli.output import compact, emit, harmless, instant
from tocsin.domain.errors import TocsinError

LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks."""

UNEXPLAINED: Final = 5.0
"""Seconds that a person waits before being told why."""

ENDS: Final = {"succeeded": DONE, "failed": REFUSED, "cancelled": CANCELLED, "skipped": SKIPPED}
"""How a run ended, as an exit code."""


async def follow(control: Operations, run: UUID, *, longest: float, json: bool) -> int:
    """Each change of the run is on stdout until it has ended; the exit code. Whoever leaves lets the run go on."""
    from asyncio import CancelledError, create_task  # noqa: PLC0415

    row: Row | None = None
    waiting = create_task(_tell_why_it_waits(control, run), name="waiting")
    try:
        async with aclosing(control.watch(run, longest=longest)) as rows:
            async for now in rows:
                for change in changes(row, now):
                    emit(change) if json else typer.echo(told(change))
                row = now
    except CancelledError:
        say(f"run {run} goes on: `tocsin run watch {run}` follows it again, `tocsin run cancel {run}` ends it")
        raise
    finally:
        waiting.cancel()
    return ENDS[row["state"]] if row is not None else REFUSED


async def _tell_why_it_waits(control: Operations, run: UUID) -> None:
    """Whoever watches a run that nobody can begin is told so, once."""
    from tocsin.clock import SystemClock  # noqa: PLC0415

    with suppress(TocsinError):
        await SystemClock().sleep(UNEXPLAINED)
        row = await control.run(run)
        if row["state"] != "queued":
            return
        agent = await control.agent(row["agent"])
        if not agent["replicas"] and not agent["instances"]:
            say(f"nobody serves agent {row['agent']!r}: the run waits until somebody does; see `tocsin agent list`")
        else:
            say(f"the run is queued still: `tocsin trigger why {row['trigger']}` tells more")


def changes(before: Row | None, now: Row) -> Iterator[Row]:
    """What the run has come to since: its states, and what its attempts told, with an end last.

    before: the run as it was; None at the beginning.
    """
    seen = before["transitions"][-1]["seq"] if before and before["transitions"] else -1
    states = [_state(now, transition) for transition in now["transitions"] if transition["seq"] > seen]
    if before is None and not states:
        states = [_change(now, "state", at=now["queued_at"], state=now["state"], reason=now["reason"])]
    end = states.pop() if states and states[-1]["state"] in ENDS else None
    yield from states
    if now["cancel_requested_at"] and not (before and before["cancel_requested_at"]):
        yield _change(now, "cancel_requested", at=now["cancel_requested_at"])
    attempts = {attempt["fence"]: attempt for attempt in before["attempts"]} if before else {}
    for attempt in now["attempts"]:
        yield from _attempt(now, attempts.get(attempt["fence"], {}), attempt)
    if end is not None:
        yield end | {"error": now["error"], "output": now["output"]}


def _attempt(run: Row, before: Row, now: Row) -> Iterator[Row]:
    """What an attempt has told since."""
    mark = {"attempt": now["attempt"], "fence": now["fence"]}
    said = [(attempt.get("progress"), attempt.get("fraction")) for attempt in (before, now)]
    if said[0] != said[1]:
        yield _change(run, "progress", at=now["progress_at"], **mark, progress=said[1][0], fraction=said[1][1])
    for line in _new_lines(before.get("log"), now["log"] or ""):
        yield _change(run, "log", at=None, **mark, line=line)
    if now["usage"] and now["usage"] != before.get("usage"):
        yield _change(run, "usage", at=None, **mark, usage=now["usage"])


def _new_lines(before: str | None, now: str) -> list[str]:
    """A log only grows, by whole lines with a line feed between them."""
    more = now[len(before or "") :]
    return (more if before is None else more.removeprefix("\n")).splitlines()


def _state(run: Row, transition: Row) -> Row:
    kept = {name: transition[name] for name in ("attempt", "fence", "reason", "actor")}
    return _change(run, "state", at=transition["at"], state=transition["to_state"], **kept)


def _change(run: Row, what: str, *, at: datetime | None, **fields: Any) -> Row:
    return {"run": run["id"], "change": what, "at": at, **fields}


def told(change: Row) -> str:
    """A change as a line for a person."""
    what = change.get("state") or change["change"].replace("_", " ")
    at = instant(change["at"]) if change["at"] is not None else ""
    return harmless(f"{at:<20}  {what:<10}  {' '.join(_words(change).split())}".rstrip())


def _words(change: Row) -> str:
    match change["change"]:
        case "progress":
            fraction = change["fraction"]
            return f"{change['progress'] or ''}{f' {fraction:.0%}' if fraction is not None else ''}"
        case "log":
            return str(change["line"])
        case "usage":
            return compact(change["usage"], 200)
        case "state":
            return _of_state(change)
        case _:
            return ""


def _of_state(change: Row) -> str:
    """The most telling thing about a state: its error, its output, its reason; of a retry, which attempt it is."""
    if change.get("error"):
        return str(change["error"])
    if change.get("output") is not None:
        return compact(change["output"], 200)
    tried = f"attempt {change['attempt']}" if change["state"] == "running" and change.get("attempt", 0) > 1 else ""
    return f"{tried} {change['reason'] or ''}"
