"""Three seeds of a minute each: three real replicas, a client, and between them nearly every fault there is."""

import sys
from pathlib import Path

import pytest

from tests.chaos.course import Course, run

MIXES = {
    1: ("F1", "F5", "F8", "F23", "F44"),
    2: ("F2", "F7", "F9", "F34", "F39"),
    3: ("F1", "F3", "F4", "F5a", "F6", "F38"),
}


@pytest.mark.parametrize("seed", list(MIXES))
async def test_every_promise_holds_through_a_course_of_faults(seed: int, quick_path: Path) -> None:
    verdict = await run(Course(seed=seed, faults=MIXES[seed], seconds=42), quick_path)
    sys.stdout.write(f"{verdict}\n")
    assert verdict.clean, str(verdict)
    # A fault that did nothing proves nothing.
    assert all(verdict.did.values()), verdict.did
