"""One frame of the live view: a snapshot drawn into so many columns and lines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tocsin.cli.output import STATE_COLOURS, between, compact, harmless, length

Row = Mapping[str, Any]

DIM: Final = "bright_black"
BAR: Final = 16
_NEXT_ROWS: Final = 6
_RUNNING_ROWS: Final = 6
_LEAST_ENDED: Final = 3
_INSTANCE_ROWS: Final = 4
_INSTANCE_COLOURS: Final = {"alive": "green", "suspect": "yellow", "stalled": "yellow", "lost": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is shown. now: the database's instant; notes: the last warnings; in_hand: attempts of this process."""

    version: str
    source: str
    database: str
    url: str
    since: datetime
    now: datetime
    left: float | None = None
    state: str = "starting"
    in_hand: int = 0
    upcoming: Sequence[Row] = ()
    running: Sequence[Row] = ()
    ended: Sequence[Row] = ()
    instances: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[tuple[str, str]] = ()
    trouble: str | None = None

    def at(self, now: datetime) -> "Snapshot":
        return replace(self, now=now)


def frame(shot: Snapshot, *, width: int, height: int) -> RenderableType:
    """Exactly ``height`` lines, or fewer where there is nothing to say."""
    notes = list(shot.notes)[-3:]
    instances = min(len(shot.instances), _INSTANCE_ROWS)
    fixed = 2 + 3 + 2 + (len(notes) + 1 if notes else 0) + (1 if shot.trouble else 0) + (instances and instances + 1)
    rows = max(0, height - fixed - 1)
    upcoming = min(len(shot.upcoming), _NEXT_ROWS, max(1, rows // 3))
    running = min(len(shot.running), max(1, min(_RUNNING_ROWS, rows - upcoming - _LEAST_ENDED)))
    ended = max(0, rows - max(1, upcoming) - max(1, running))
    parts: list[RenderableType] = [*_head(shot), _rule("next"), _upcoming(shot, upcoming, width)]
    parts += [_rule(_counted("running", len(shot.running), running)), _running(shot, running, width)]
    if instances:
        parts += [_rule(_counted("elsewhere", len(shot.instances), instances)), _instances(shot, instances, width)]
    parts += [_rule("ended"), _ended(shot, ended, width), *_foot(shot)]
    if notes:
        parts += [
            _rule("log"),
            *(_line(text, style="yellow" if level == "warning" else "red") for level, text in notes),
        ]
    return Group(*parts)


def _rule(title: str) -> Rule:
    return Rule(Text(title, style="bold"), style=DIM, align="left", characters="─")


def _counted(title: str, count: int, shown: int) -> str:
    return f"{title} ({shown} of {count})" if count > shown else f"{title} ({count})" if count else title


def _flat(text: object) -> str:
    """One line, whatever an agent said."""
    return harmless(" ".join(str(text).split()))


def _line(text: str, style: str = "") -> Text:
    return Text(_flat(text), style=style, no_wrap=True, overflow="ellipsis")


def _head(shot: Snapshot) -> Iterator[RenderableType]:
    colour = {"ready": "bold green", "draining": "bold yellow", "stopped": "bold"}.get(shot.state, "bold red")
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    left = Text.assemble(("tocsin ", "bold"), (shot.version, DIM), "  ", ("● ", colour), (shot.state, colour), "  ")
    if shot.state == "draining":
        left.append(f"{shot.in_hand} in hand; Ctrl-C hurries", style="yellow")
    else:
        left.append(shot.source)
    right = f"up {length(max(1, int(between(shot.since, shot.now) or 0)))}"
    if shot.left is not None and shot.state == "ready":
        right += f", {length(int(shot.left))} left"
    grid.add_row(left, Text(right))
    grid.add_row(Text(shot.database, style=DIM), Text(f"{shot.url}/readyz", style=DIM))
    yield grid
    if shot.trouble:
        yield _line(shot.trouble, style="bold red")


def _table(*columns: tuple[str, Any]) -> Table:
    """A grid whose rows are one line each; (justify, width or ratio)."""
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for justify, size in columns:
        fixed = isinstance(size, int)
        table.add_column(
            justify="right" if justify == "right" else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=size if fixed else None,
            ratio=None if fixed else int(size),
        )
    return table


def _name_width(shot: Snapshot, width: int) -> int:
    """As wide as the longest name needs, so that names stand below each other, but no more than its share."""
    names = [row["name"] for row in shot.upcoming] + [row["trigger"] for row in (*shot.running, *shot.ended)]
    return max(12, min(width * 3 // 10, 40, max(map(len, names), default=0)))


def _upcoming(shot: Snapshot, rows: int, width: int) -> RenderableType:
    if not shot.upcoming:
        return _line("nothing is due; what has no schedule is called by events, or fired by hand", style=DIM)
    table = _table(("right", 10), ("left", _name_width(shot, width)), ("left", "1"), ("left", 12))
    for row in list(shot.upcoming)[:rows]:
        away = between(shot.now, row["wake_at"]) or 0
        style = "bold cyan" if away < 10 else ""
        told = "paused" if row["paused"] else _countdown(away)
        table.add_row(
            Text(told, style=DIM if row["paused"] else style),
            Text(row["name"]),
            Text(row["agent"], style=DIM),
            Text(_when(row["wake_at"], shot.now), style=DIM),
        )
    return table


def _instances(shot: Snapshot, rows: int, width: int) -> RenderableType:
    """Processes that run agents elsewhere: state, name, what they have in hand, and what is the matter."""
    table = _table(("right", 10), ("left", _name_width(shot, width)), ("left", "1"), ("left", 12))
    for row in list(shot.instances)[:rows]:
        hand = len(row["running"])
        told = row["why"] or ", ".join(row["agents"])
        table.add_row(
            Text(row["state"], style=_INSTANCE_COLOURS.get(row["state"], DIM)),
            Text(row["name"]),
            Text(told, style="" if row["why"] else DIM),
            Text(f"{hand} in hand" if hand else "", style=DIM),
        )
    return table


def _when(at: datetime, now: datetime) -> str:
    if at.date() == now.date():
        return f"{at:%H:%M:%S}Z"
    return f"{at:%m-%d %H:%M}Z" if at.year == now.year else f"{at:%Y-%m-%d}"


def _countdown(away: float) -> str:
    if away <= 0:
        return "now"
    return f"{away:.1f} s" if away < 10 else length(int(away))


def _running(shot: Snapshot, rows: int, width: int) -> RenderableType:
    if not shot.running:
        return _line("nothing", style=DIM)
    table = _table(("right", 10), ("left", _name_width(shot, width)), ("left", BAR + 5), ("left", "1"))
    for row in list(shot.running)[:rows]:
        told = _flat(row["progress"] or "")
        if row["attempt"] > 1:
            told = f"attempt {row['attempt']}  {told}"
        if row["cancel_requested_at"] is not None:
            told = f"stopping  {told}"
        elapsed = max(0.0, between(row["started_at"], shot.now) or 0)
        table.add_row(
            Text(f"{elapsed:.1f} s" if elapsed < 100 else length(elapsed)),
            Text(row["trigger"]),
            _bar(row["fraction"]),
            Text(told, style=DIM),
        )
    return table


def _bar(fraction: float | None) -> Text:
    if fraction is None:
        return Text("")
    full = round(fraction * BAR)
    return Text.assemble(("━" * full, "cyan"), ("━" * (BAR - full), DIM), f" {fraction:4.0%}")


def _ended(shot: Snapshot, rows: int, width: int) -> RenderableType:
    if not shot.ended:
        return _line("nothing yet", style=DIM)
    table = _table(
        ("right", 10), ("left", _name_width(shot, width)), ("left", 10), ("right", 8), ("right", 8), ("left", "1")
    )
    for row in list(shot.ended)[:rows]:
        late = between(row["effective_at"], row["started_at"]) if row["fence"] == 1 else None
        state = row["state"]
        table.add_row(
            Text(f"{row['finished_at']:%H:%M:%S}Z", style=DIM),
            Text(row["trigger"]),
            Text(state, style=STATE_COLOURS.get(state, "")),
            Text(f"+{length(max(0.0, late))}" if late is not None else "", style=DIM),
            Text(length(between(row["started_at"], row["finished_at"])) if row["started_at"] else ""),
            Text(_told(row), style="red" if row["error"] else DIM),
        )
    return table


def _told(row: Row) -> str:
    if row["error"]:
        return _flat(f"attempt {row['attempt']}: {row['error']}" if row["attempt"] > 1 else row["error"])
    if row["reason"]:
        return str(row["reason"])
    return compact(row["output"], 80) if row["output"] is not None else ""


def _foot(shot: Snapshot) -> Iterator[RenderableType]:
    summary = shot.summary
    yield _rule("since the start")
    totals = Text(no_wrap=True, overflow="ellipsis")
    totals.append(f"{summary.get('occurrences', 0):,} occurrences", style="bold")
    for name in ("succeeded", "failed", "cancelled", "running", "queued"):
        count = summary.get(name, 0)
        if count or name == "succeeded":
            totals.append("  ")
            totals.append(f"{count:,} {name}", style=STATE_COLOURS.get(name, ""))
    for reason, count in summary.get("skipped", {}).items():
        totals.append(f"  {count:,} skipped: {reason}", style=DIM)
    yield totals
    lateness = summary.get("lateness", {})
    if lateness.get("p50") is not None:
        yield _line(
            "lateness " + " · ".join(f"{name} {length(lateness[name])}" for name in ("p50", "p99", "max")), style=DIM
        )
    else:
        yield _line("lateness  nothing that was due has begun yet", style=DIM)
