"""Carries out a plan: every case, every run, every contestant in turn, a line and a row each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from benchmarks.peers.contestants import Contestant
from benchmarks.peers.environments import Unavailable, environment, versions
from benchmarks.peers.ground import Cannot, Case, Figures, Scenario, ground
from benchmarks.peers.processes import AdapterFailed
from benchmarks.peers.results import Result, keep, matches
from benchmarks.peers.scenarios.measures import busy_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    scenarios: Sequence[Scenario]
    contestants: Sequence[Contestant]
    runs: int
    quick: bool = False
    only: str = ""
    renew: bool = False
    save: bool = False


async def carry_out(plan: Plan) -> None:
    """Everything is measured and printed; kept, if the plan says so."""
    pythons: dict[str, Path | str] = {}
    for contestant in plan.contestants:
        try:
            pythons[contestant.name] = environment(contestant, renew=plan.renew)
        except Unavailable as reason:
            pythons[contestant.name] = str(reason)
    shown = {
        contestant.name: versions(python, contestant.shown)
        for contestant in plan.contestants
        if isinstance(python := pythons[contestant.name], Path)
    }
    for scenario in plan.scenarios:
        results: list[Result] = []
        # Cases are interleaved like contestants, since some aims compare one case with another.
        for number in range(1, plan.runs + 1):
            for case in scenario.quick if plan.quick else scenario.cases:
                if matches(plan.only, case):
                    results += await _one_run(plan, scenario, case, number=number, pythons=pythons, before=results)
            # Run by run, so that what was measured is not lost with what was not.
            if plan.save and results:
                keep(scenario.name, results, shown)


async def _one_run(
    plan: Plan,
    scenario: Scenario,
    case: Case,
    *,
    number: int,
    pythons: dict[str, Path | str],
    before: Sequence[Result],
) -> list[Result]:
    """Every contestant once, but for those who could not do it before: what cannot be done is said once."""
    refused = {result.contestant for result in before if result.cannot and result.case == case}
    results: list[Result] = []
    for contestant in plan.contestants:
        if (not scenario.only or contestant.name in scenario.only) and contestant.name not in refused:
            result = await _measured(scenario, contestant, pythons[contestant.name], case, number)
            print(result.line(scenario), flush=True)
            results.append(result)
    return results


async def _measured(scenario: Scenario, contestant: Contestant, python: Path | str, case: Case, number: int) -> Result:
    figures: Figures = {}
    cannot = contestant.cannot.get(scenario.name, "")
    failed = ""
    others = await busy_cores(0.5) if not cannot else None
    started = time.monotonic()
    if isinstance(python, str):
        cannot = python
    elif not cannot:
        try:
            async with ground(contestant, python, scenario.settings or {}) as prepared:
                figures = await scenario.measure(prepared, case)
        except (Cannot, Unavailable) as reason:
            cannot = str(reason)
        except (AdapterFailed, asyncpg.PostgresError, OSError) as reason:
            failed = str(reason) or type(reason).__name__
    return Result(
        contestant=contestant.name,
        case=dict(case),
        run=number,
        figures=figures,
        cannot=cannot,
        failed=failed,
        took=round(time.monotonic() - started, 1),
        others=others,
        day=datetime.now(UTC).date().isoformat(),
    )
