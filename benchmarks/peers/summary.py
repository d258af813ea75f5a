"""Results of every scenario, asked for by scenario, case, contestant and figure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.results import case_name, matches


class Summary:
    """documents: the kept results by scenario."""

    def __init__(self, documents: Mapping[str, dict[str, Any]]) -> None:
        self.documents = documents
        self.contestants: Sequence[str] = [contestant.name for contestant in CONTESTANTS]

    def cases(self, scenario: str) -> list[str]:
        """In the order they were measured in."""
        rows = self.documents[scenario]["results"]
        return list(dict.fromkeys(case_name(row["case"]) for row in rows))

    def rows(self, scenario: str, case: str, contestant: str) -> list[dict[str, Any]]:
        """case: its name or a part of it, as in ``processes=2``; "" for every case."""
        found: list[dict[str, Any]] = self.documents.get(scenario, {"results": []})["results"]
        return [row for row in found if row["contestant"] == contestant and matches(case, row["case"])]

    def values(self, scenario: str, case: str, contestant: str, figure: str) -> list[float]:
        rows = self.rows(scenario, case, contestant)
        return [row["figures"][figure] for row in rows if figure in row["figures"]]

    def all_values(self, scenario: str, contestant: str, figure: str) -> list[float]:
        return self.values(scenario, "", contestant, figure)

    def median(self, scenario: str, case: str, contestant: str, figure: str) -> float | None:
        values = self.values(scenario, case, contestant, figure)
        return statistics.median(values) if values else None

    def why_not(self, scenario: str, case: str, contestant: str) -> str:
        """Why there is no figure, "" where there is one or nothing was measured."""
        rows = self.rows(scenario, case, contestant)
        if any(row["figures"] for row in rows):
            return ""
        return next((row["cannot"] or f"failed: {row['failed']}" for row in rows), "")
