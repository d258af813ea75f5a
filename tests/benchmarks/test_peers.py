"""The benchmark against peers measures what it says, on a small scale, and its page says what was measured."""

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.peers import page
from benchmarks.peers.charts import Bar, bar_chart
from benchmarks.peers.contestants import CONTESTANTS, named
from benchmarks.peers.ground import Scenario, ground
from benchmarks.peers.processes import marks
from benchmarks.peers.results import Result
from benchmarks.peers.scenarios import SCENARIOS
from benchmarks.peers.scenarios.measures import quantile
from benchmarks.peers.summary import Summary

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def measured(name: str, scenario: str, **case: Any) -> dict[str, float]:
    """One measurement of a contestant that needs nothing but what the tests have."""
    (contestant,) = named([name])
    async with ground(contestant, Path(sys.executable), SCENARIOS[scenario].settings or {}) as prepared:
        return await SCENARIOS[scenario].measure(prepared, case)


@pytest.mark.parametrize("name", ["reference", "tuned", "tocsin"])
async def test_every_run_of_a_full_queue_is_counted_once(name: str) -> None:
    figures = await measured(name, "throughput", runs=200, processes=1)
    assert figures["doubled"] == 0
    assert figures["runs_per_s"] > 0


@pytest.mark.parametrize("name", ["reference", "tuned", "tocsin"])
async def test_every_schedule_of_a_burst_begins_once_and_not_early(name: str) -> None:
    figures = await measured(name, "burst", schedules=20)
    assert (figures["doubled"], figures["missed"], figures["early"]) == (0, 0, 0)
    assert 0 < figures["all_begun_s"] < 30


async def test_a_fired_run_begins_after_its_call() -> None:
    figures = await measured("tocsin", "latency", fires=5)
    assert 0 < figures["p50_ms"] <= figures["max_ms"]


async def test_bulk_enqueueing_is_timed() -> None:
    assert (await measured("tocsin", "bulk", runs=500))["runs_per_s"] > 0


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (50.0, 99.0, 7.0)


def test_marks_come_in_the_order_of_time_whoever_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("B 2000000000 7 second run\nE 3000000000 7 second run\nB 1000000000 8 first\n")
    assert [(mark.at, mark.pid, mark.key) for mark in marks(tmp_path / "records", "B")] == [
        (1.0, 8, "first"),
        (2.0, 7, "second run"),
    ]


def test_a_chart_is_well_formed_and_has_a_bar_for_each_contestant() -> None:
    bars = [Bar("Tocsin", 10, 9, 11, "10 s"), Bar("a <peer> & co", 9_000, 8_000, 10_000, "9,000 s")]
    svg = ElementTree.fromstring(bar_chart("Burst", "s", bars))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <peer> & co" in texts
    assert texts[0] == "Burst, s, logarithmic"


def test_what_a_contestant_cannot_do_names_a_scenario_and_a_reason() -> None:
    for contestant in CONTESTANTS:
        assert set(contestant.cannot) <= set(SCENARIOS)
        assert all(contestant.cannot.values())


def test_the_page_tells_medians_ratios_and_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = {"bulk": document(SCENARIOS["bulk"])}
    monkeypatch.setattr(page, "load", documents.get)
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(page, "CHARTS", tmp_path / "benchmarks")
    page.write_page()
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| Tocsin | 3,000 (2,000 – 4,000) | 0.30× | 0.60× |" in text
    assert "| APScheduler 3 | has no queue |" in text
    assert "| bulk enqueueing to PgQueuer | ≥ 2× | 0.6× | **not reached** |" in text
    assert "- Bulk enqueueing, 10 runs, runs/s: PgQueuer 5,000; Tocsin 3,000 runs/s" in text
    assert (tmp_path / "benchmarks" / "bulk-runs-10.svg").exists()


def test_a_case_is_found_by_any_of_its_parts() -> None:
    summary = Summary({"bulk": document(SCENARIOS["bulk"])})
    assert summary.median("bulk", "runs=10", "tocsin", "runs_per_s") == 3_000
    assert summary.median("bulk", "runs=1", "tocsin", "runs_per_s") is None


def document(scenario: Scenario) -> dict[str, Any]:
    def row(name: str, run: int, value: float | None, cannot: str = "") -> dict[str, Any]:
        figures = {} if value is None else {"runs_per_s": value}
        result = Result(contestant=name, case={"runs": 10}, run=run, figures=figures, cannot=cannot)
        return {field: getattr(result, field) for field in ("contestant", "case", "run", "figures", "cannot", "failed")}

    return {
        "scenario": scenario.name,
        "measured_at": "2026-11-24T00:00:00+00:00",
        "machine": {"cores": 2, "system": "Linux x86_64"},
        "versions": {"tocsin": {"python": "3.12.1"}},
        "results": [
            row("reference", 1, 10_000),
            row("tocsin", 1, 2_000),
            row("tocsin", 2, 3_000),
            row("tocsin", 3, 4_000),
            row("pgqueuer", 1, 5_000),
            row("apscheduler3", 1, None, "has no queue"),
        ],
    }
