"""What commands print: one JSON object a line, or tables for people that fit a terminal."""

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tocsin.domain.jsonable import jsonable

#: The zones of a listing's instants are always UTC, so the hour is enough beside how long ago it was.
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
STATE_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "bright_black",
    "running": "cyan",
    "queued": "blue",
    "armed": "green",
    "waiting": "cyan",
    "paused": "yellow",
    "broken": "red",
    "ended": "bright_black",
    "manual": "blue",
    "listening": "cyan",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "info": "blue",
}


def emit(value: Mapping[str, Any]) -> None:
    """One line of JSON; instants in UTC with Z, lengths of time in seconds."""
    import msgspec  # noqa: PLC0415

    sys.stdout.write(msgspec.json.encode(jsonable(value)).decode() + "\n")
    # Whoever reads through a pipe reads as it happens: a watch would be silent until its buffer is full.
    sys.stdout.flush()


def console(width: int | None = None) -> Any:
    """A rich console on stdout; a pipe has room for wide rows, unless COLUMNS says otherwise."""
    from rich.console import Console  # noqa: PLC0415

    if width is None and not sys.stdout.isatty():
        width = _columns() or 120
    return Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """A table, or a line that says there is nothing. Each row is one line: cut at the edge of a terminal, or
    at COLUMNS, and whole in a pipe."""
    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    from rich.cells import cell_len  # noqa: PLC0415

    lines = [list(columns), *([_one_line(value) for value in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    if sys.stdout.isatty():
        _print_styled(padded)
        return
    most = _columns()
    for cells in padded:
        text = "  ".join(cells).rstrip()
        sys.stdout.write((text if most is None or cell_len(text) <= most else text[: most - 1] + "…") + "\n")


def _print_styled(lines: Sequence[Sequence[str]]) -> None:
    from rich.text import Text  # noqa: PLC0415

    out = console()
    for number, cells in enumerate(lines):
        text = Text("  ").join(
            Text(cell, style="bold" if not number else STATE_COLOURS.get(cell.strip(), "")) for cell in cells
        )
        text.rstrip()
        text.truncate(out.width, overflow="ellipsis")
        out.print(text, no_wrap=True)


def _columns() -> int | None:
    """COLUMNS, where it says something."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isdecimal() and int(text) > 1 else None


def _one_line(value: Any) -> str:
    text = "" if value is None else str(value)
    return harmless(" ".join(text.split()) if "\n" in text or "\r" in text or "\t" in text else text)


def harmless(text: str) -> str:
    """Control characters but line feeds and tabs are written out: what an agent says does not speak to the terminal."""
    return text.translate(_CONTROLS)


def counted(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one pair a line, without those that have nothing to say."""
    if not sys.stdout.isatty():
        told = [(name, _one_line(value)) for name, value in fields if value is not None and value not in ("", [], {})]
        width = max((len(name) for name, _ in told), default=0)
        for name, text in told:
            sys.stdout.write(f"{name:<{width}}  {text}\n")
        return
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None and value not in ("", [], {}):
            table.add_row(name, _cell(value))
    console().print(table)


def _cell(value: Any) -> Any:
    from rich.text import Text  # noqa: PLC0415

    text = "" if value is None else harmless(str(value))
    return Text(text, style=STATE_COLOURS.get(text, ""))


def instant(at: datetime | None, now: datetime | None = None) -> str:
    """``12:00:03Z in 4 s``: the date stands only where it is another day."""
    if at is None:
        return "–"
    at = at.astimezone(UTC)
    if now is None:
        return at.strftime("%Y-%m-%d %H:%M:%SZ")
    form = "%H:%M:%SZ" if at.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%M:%SZ"
    away = (at - now).total_seconds()
    return f"{at.strftime(form)} {f'in {length(away)}' if away > 0 else f'{length(-away)} ago'}"


def length(seconds: float | None) -> str:
    """``340 ms``, ``4 s``, ``3 m 20 s``, ``2 d 4 h``: two units at most."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest = int(seconds)
    words = []
    for size, unit in _STEPS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2]) or "0 s"


def between(first: datetime | None, last: datetime | None) -> float | None:
    """Seconds from one instant to another, where both are known."""
    return (last - first).total_seconds() if first is not None and last is not None else None


def compact(value: Any, limit: int = 60) -> str:
    """JSON on one line, cut where it is long."""
    import msgspec  # noqa: PLC0415

    text = harmless(msgspec.json.encode(jsonable(value)).decode())
    return text if len(text) <= limit else text[: limit - 1] + "…"
