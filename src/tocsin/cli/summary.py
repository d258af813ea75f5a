"""The table at a session's end."""

from typing import Any

from tocsin.cli.output import console, length


def print_summary(summary: dict[str, Any]) -> None:
    """Occurrences by outcome, skips by reason, lateness."""
    from rich.table import Table  # noqa: PLC0415

    lateness = summary.get("lateness", {})
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    skipped = summary.get("skipped", {})
    rows: list[tuple[str, str]] = [("occurrences", f"{summary['occurrences']:,}")]
    rows += [(name, f"{summary[name]:,}") for name in ("succeeded", "failed", "cancelled") if name in summary]
    rows += [(f"skipped: {reason}", f"{count:,}") for reason, count in skipped.items()]
    rows += [(f"still {name}", f"{summary[name]:,}") for name in ("queued", "running") if summary.get(name)]
    if summary.get("released"):
        rows.append(("released by the drain", f"{summary['released']:,}"))
    rows += [(f"lateness {name}", length(lateness[name])) for name in ("p50", "p99", "max") if _known(lateness, name)]
    for row in rows:
        table.add_row(*row)
    out = console()
    out.print(f"\nin {length(summary['seconds'])}", style="bright_black")
    out.print(table)


def _known(lateness: dict[str, Any], name: str) -> bool:
    return lateness.get(name) is not None
