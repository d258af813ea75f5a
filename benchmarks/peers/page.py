"""docs/benchmarks.md and its charts, made from benchmarks/results alone."""

import shutil
import statistics
from typing import Final

from benchmarks.peers.aims import AIMS
from benchmarks.peers.charts import Bar, bar_chart
from benchmarks.peers.contestants import CONTESTANTS, LOOPS, REFERENCE, TOCSIN, TUNED
from benchmarks.peers.environments import ROOT
from benchmarks.peers.ground import Scenario
from benchmarks.peers.results import load
from benchmarks.peers.scenarios import SCENARIOS
from benchmarks.peers.summary import Summary

PAGE: Final = ROOT / "docs" / "benchmarks.md"
CHARTS: Final = ROOT / "docs" / "benchmarks"
TITLES: Final = {contestant.name: contestant.title for contestant in CONTESTANTS}
CEILINGS: Final = (
    ("throughput", "throughput", "processes=1", "runs_per_s"),
    ("burst of 10,000", "burst", "schedules=10000", "all_begun_s"),
    ("latency p50", "latency", "", "p50_ms"),
    ("latency p99", "latency", "", "p99_ms"),
)
WORDS: Final = {
    "runs_per_s": "runs/s",
    "all_begun_s": "all begun",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "max_ms": "max",
    "statements_per_min": "statements/min",
    "cpu_s_per_min": "CPU s/min",
    "register_s": "registered in",
    "memory_mb": "memory",
    "half_begun_s": "half begun",
    "after_limit_s": "after the limit",
}


def write_page() -> None:
    """The page and its charts say what the kept results say, and nothing older is left."""
    documents = {name: document for name in SCENARIOS if (document := load(name)) is not None}
    summary = Summary(documents)
    shutil.rmtree(CHARTS, ignore_errors=True)
    CHARTS.mkdir(parents=True)
    sections = [_head(summary), _contestants(summary), _aims(summary), _where_a_peer_is_better(summary)]
    sections += [_section(summary, SCENARIOS[name]) for name in documents]
    PAGE.write_text("\n\n".join(sections) + "\n")


def _head(summary: Summary) -> str:
    documents = summary.documents.values()
    machines = {f"{document['machine']['cores']} cores, {document['machine']['system']}" for document in documents}
    days = sorted({document["measured_at"][:10] for document in documents})
    runs = sorted({row["run"] for document in documents for row in document["results"]})
    others = [row["others"] for document in documents for row in document["results"] if row.get("others") is not None]
    return f"""# Benchmarks

<!-- Made by `python -m benchmarks.peers page` from benchmarks/results; do not edit. -->

Tocsin beside its peers, on one machine ({"; ".join(sorted(machines))}),
measured {" to ".join(days[:1] + days[1:][-1:])}.
`make bench` measures everything again and makes this page anew; `make bench-quick` takes under five minutes, with
fewer peers and sizes, and prints its figures without keeping them.

Each measurement has a PostgreSQL cluster (or a Redis) that was made for it, with `fsync` on and the server's own
defaults. Contestants run in environments of their own on the same Python. Runs are interleaved over the contestants,
so that what drifts on the machine drifts for all. Figures are medians of up to {max(runs)} runs, with their range in
parentheses; one without a range was measured once, or came out the same. Peers that are too slow for a size are given
a smaller one, which the column or the reason says. Beginnings are noted by the runs themselves, on the monotonic clock
that all processes share. The *reference* is no product but a bare loop on asyncpg as one writes it by hand, without
retries, history, leases or logging. The *tuned reference* is the same loop with what is known to make it faster: the
ceiling.

{_quiet(others)}{_older(summary)}"""


def _older(summary: Summary) -> str:
    """Whose figures are not of the same run as the others, and so stand beside them only roughly."""
    rows = [(name, row) for name, document in summary.documents.items() for row in document["results"]]
    newest = max((row.get("day", "") for _, row in rows), default="")
    older = sorted({f"{TITLES[row['contestant']]} ({name})" for name, row in rows if row.get("day", "") < newest})
    if not older:
        return ""
    return (
        "\n\nNot measured again on the last day, so that their ratios are rough: "
        f"{', '.join(older)}. `make bench` measures all in one go."
    )


def _quiet(others: list[float]) -> str:
    """How far the machine was ours alone."""
    if not others:
        return "How busy the machine was with other things is not known."
    middle, most = statistics.median(others), max(others)
    told = f"Just before each measurement other things kept {middle:.1f} cores busy in the median, {most:.1f} at most"
    return f"{told}: the figures are disturbed by as much." if middle >= 0.2 else f"{told}."


def _contestants(summary: Summary) -> str:
    versions: dict[str, dict[str, str]] = {}
    for document in summary.documents.values():
        versions |= document["versions"]
    lines = ["## Contestants and their settings", "", "| | versions | setting |", "|---|---|---|"]
    for contestant in CONTESTANTS:
        shown = ", ".join(f"{name} {version}" for name, version in versions.get(contestant.name, {}).items())
        lines.append(f"| {contestant.title} | {shown or 'not measured'} | {contestant.setting} |")
    return "\n".join(lines)


def _aims(summary: Summary) -> str:
    lines = ["## What Tocsin is to reach", "", "| aim | | measured | |", "|---|---|---|---|"]
    for aim in AIMS:
        value = aim.value(summary)
        limit = f"{'≥' if aim.at_least else '≤'} {aim.limit:g}{aim.unit}"
        if value is None:
            lines.append(f"| {aim.words} | {limit} | no figure | |")
        else:
            verdict = "reached" if aim.reached(value) else "**not reached**"
            lines.append(f"| {aim.words} | {limit} | {_number(value)}{aim.unit} | {verdict} |")
    return "\n".join([*lines, *_to_ceiling(summary)])


def _to_ceiling(summary: Summary) -> list[str]:
    """How far the ceiling is, which no aim speaks of."""
    told = [
        f"{words} {_number(mine / theirs)}×"
        for words, scenario, case, figure in CEILINGS
        if (mine := summary.median(scenario, case, TOCSIN, figure)) is not None
        and (theirs := summary.median(scenario, case, TUNED, figure))
    ]
    return ["", f"To the tuned reference: {', '.join(told)}."] if told else []


def _where_a_peer_is_better(summary: Summary) -> str:
    lines = ["## Where a peer is better", ""]
    for name in summary.documents:
        scenario = SCENARIOS[name]
        for figure, unit in scenario.units.items():
            if figure in ("doubled", "missed", "early", "ended", "short_ended", "long_begun_elsewhere", "runs"):
                continue
            for case in summary.cases(name):
                lines += _better(summary, scenario, case, figure, unit)
    return "\n".join(lines if len(lines) > 2 else [*lines, "In none of the figures below."])


def _better(summary: Summary, scenario: Scenario, case: str, figure: str, unit: str) -> list[str]:
    mine = summary.median(scenario.name, case, TOCSIN, figure)
    if mine is None or figure == "long_ended_in_place":
        return []
    found = []
    for contestant in CONTESTANTS:
        theirs = summary.median(scenario.name, case, contestant.name, figure)
        if contestant.name in (TOCSIN, *LOOPS) or theirs is None:
            continue
        wrong = summary.median(scenario.name, case, contestant.name, "missed") or 0
        if (theirs < mine) == scenario.lower and theirs != mine and not wrong:
            found.append(f"{contestant.title} {_number(theirs)}")
    words = WORDS.get(figure, figure)
    return [f"- {scenario.title}, {_case(case)}, {words}: {', '.join(found)}; Tocsin {_number(mine)} {unit}"] * bool(
        found
    )


def _section(summary: Summary, scenario: Scenario) -> str:
    parts = [f"## {scenario.title}", "", scenario.explained, ""]
    for case in summary.cases(scenario.name):
        chart = _chart(summary, scenario, case)
        parts += [f"**{_case(case)}**", ""]
        if chart:
            parts += [f"![{scenario.title}, {_case(case)}](benchmarks/{chart})", ""]
        parts += [*_table(summary, scenario, case), ""]
    return "\n".join(parts).rstrip()


def _table(summary: Summary, scenario: Scenario, case: str) -> list[str]:
    figures = list(scenario.units)
    best = _best_peer(summary, scenario, case, figures[0])
    reference = summary.median(scenario.name, case, REFERENCE, figures[0])
    heads = [_heading(figure, scenario.units[figure]) for figure in figures]
    lines = [f"| | {' | '.join(heads)} | to the reference | to the best peer |"]
    lines.append("|---" * (len(figures) + 3) + "|")
    for contestant in CONTESTANTS:
        if not summary.rows(scenario.name, case, contestant.name):
            continue
        reason = summary.why_not(scenario.name, case, contestant.name)
        if reason:
            lines.append(f"| {contestant.title} | {reason.replace('|', '/')}" + " | " * (len(figures) + 1) + " |")
            continue
        cells = [_cell(summary.values(scenario.name, case, contestant.name, figure)) for figure in figures]
        mine = summary.median(scenario.name, case, contestant.name, figures[0])
        ratios = [f"{mine / other:.2f}×" if mine is not None and other else "–" for other in (reference, best)]
        lines.append(f"| {contestant.title} | {' | '.join(cells)} | {' | '.join(ratios)} |")
    return lines


def _heading(figure: str, unit: str) -> str:
    words = WORDS.get(figure, figure.replace("_", " "))
    return words if words.endswith(unit) else f"{words}, {unit}"


def _best_peer(summary: Summary, scenario: Scenario, case: str, figure: str) -> float | None:
    values = [
        value
        for contestant in CONTESTANTS
        if contestant.name not in (TOCSIN, *LOOPS)
        and not summary.median(scenario.name, case, contestant.name, "missed")
        and (value := summary.median(scenario.name, case, contestant.name, figure)) is not None
    ]
    if not values:
        return None
    return min(values) if scenario.lower else max(values)


def _chart(summary: Summary, scenario: Scenario, case: str) -> str:
    """The file's name; "" where there is nothing to show."""
    figure, unit = next(iter(scenario.units.items()))
    bars = []
    for contestant in CONTESTANTS:
        values = summary.values(scenario.name, case, contestant.name, figure)
        middle = summary.median(scenario.name, case, contestant.name, figure)
        if middle is not None:
            bars.append(Bar(contestant.title, middle, min(values), max(values), f"{_number(middle)} {unit}"))
    if len(bars) < 2:
        return ""
    name = f"{scenario.name}-{case.replace('=', '-').replace(', ', '-')}.svg"
    title = f"{scenario.title}, {_case(case)}"
    (CHARTS / name).write_text(bar_chart(title, f"{WORDS.get(figure, figure)} in {unit}", bars))
    return name


def _case(case: str) -> str:
    """As prose: ``runs=20000, processes=2`` becomes ``20,000 runs, 2 processes``."""
    words = []
    for part in case.split(", "):
        name, _, value = part.partition("=")
        if name in ("seconds", "patience"):
            continue
        name = name.replace("_", " ").removesuffix("es" if name == "processes" and value == "1" else "")
        words.append(f"{int(value):,} {name}" if value.isdigit() else f"{value} {name}")
    return ", ".join(words)


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    middle = (
        sorted(values)[len(values) // 2] if len(values) % 2 else sum(sorted(values)[len(values) // 2 - 1 :][:2]) / 2
    )
    if len(set(values)) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(min(values))} – {_number(max(values))})"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
