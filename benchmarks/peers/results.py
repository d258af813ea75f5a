"""Results as JSON, one file a scenario: what was measured, of which versions, on which machine."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.environments import ROOT
from benchmarks.peers.ground import Case, Figures, Scenario

PLACE: Final = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measurement, or why there is none. took: seconds with everything around it.

    others: cores that were busy with other things just before; day: when, as a date.
    """

    contestant: str
    case: dict[str, Any]
    run: int
    figures: Figures
    cannot: str = ""
    failed: str = ""
    took: float = 0.0
    others: float | None = None
    day: str = ""

    def line(self, scenario: Scenario) -> str:
        what = f"{scenario.name:>14}  {case_name(self.case):<24} {self.contestant:<14}"
        if self.cannot or self.failed:
            return f"{what} {'cannot' if self.cannot else 'failed'}: {self.cannot or self.failed}"
        figures = "  ".join(
            f"{name} {self.figures[name]:,.4g}" if self.figures[name] < 1000 else f"{name} {self.figures[name]:,.0f}"
            for name in self.figures
        )
        return f"{what} {figures}  [{self.took:.0f} s]"


def case_name(case: Case) -> str:
    return ", ".join(f"{name}={value}" for name, value in case.items())


def matches(wanted: str, case: Case) -> bool:
    """Whether the case is so named, or has such a part; "" is true of every case."""
    wanted = wanted.strip(", ")
    return not wanted or wanted == case_name(case) or wanted in case_name(case).split(", ")


def keep(scenario: str, results: Sequence[Result], versions: Mapping[str, Mapping[str, str]]) -> Path:
    """The scenario's file holds these results; those of contestants that were not measured now stay."""
    path = PLACE / f"{scenario}.json"
    old = json.loads(path.read_text()) if path.exists() else {"results": [], "versions": {}}
    measured = {(result.contestant, case_name(result.case)) for result in results}
    kept = [row for row in old["results"] if (row["contestant"], case_name(row["case"])) not in measured]
    PLACE.mkdir(parents=True, exist_ok=True)
    document = {
        "scenario": scenario,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {**old["versions"], **{name: dict(shown) for name, shown in versions.items()}},
        "results": [*kept, *(asdict(result) for result in results)],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def load(scenario: str) -> dict[str, Any] | None:
    path = PLACE / f"{scenario}.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
