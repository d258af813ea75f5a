"""Triggers that fire every second are edited by many at once over two replicas, and every promise holds."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.edits import CANARY, Storm, faults_of, run

MADE = {"actor": "key:c1", "action": "changed", "target": "t", "detail": {}}
EDIT = {"op": "edit", "trigger": "t", "actor": "c1", "ok": True, "status": 200, "if_match": 3, "version": 4}


async def test_every_promise_holds_while_triggers_are_edited_as_they_fire(quick_path: Path) -> None:
    outcome = await run(Storm(seed=1, triggers=300, seconds=10), quick_path)
    sys.stdout.write(f"{outcome}\n")
    assert outcome.clean, str(outcome)
    for met in ("edit 200", "edit 412", "edit 403", "edit 401", "x-resume 409", "pause 200", "delete 200", "add 201"):
        assert outcome.answers[met], f"nobody met {met}"


def test_a_clean_storm_has_no_faults() -> None:
    assert list(faults_of([EDIT], [MADE])) == []


@pytest.mark.parametrize(
    ("call", "records", "told"),
    [
        ({"status": 503, "ok": False, "error": "away"}, [], "was answered 503"),
        ({"status": 0, "ok": False, "error": "reset"}, [], "was answered 0"),
        ({"version": 5}, [MADE], "at version 3 was answered with version 5"),
        ({"actor": "reader"}, [MADE | {"actor": "key:reader"}], "by reader was answered 200"),
        ({}, [], "answered 1 times and recorded 0 times"),
        ({}, [MADE, MADE], "answered 1 times and recorded 2 times"),
        ({"status": 412, "ok": False, "error": "stale"}, [MADE], "answered 0 times and recorded 1 times"),
        ({"status": 412, "ok": False, "error": f"not {CANARY}"}, [], "refused with the input's secret"),
        ({}, [MADE | {"detail": {"before": CANARY}}], "holds an input's secret"),
    ],
)
def test_the_judge_notices(call: dict[str, Any], records: list[dict[str, Any]], told: str) -> None:
    (fault,) = faults_of([EDIT | call], records)
    assert told in fault
