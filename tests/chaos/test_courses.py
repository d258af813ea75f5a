"""A few seeds of a minute each: three real replicas, with agent processes in the last, a client, and many faults."""

import sys
from pathlib import Path
from random import Random

import pytest

from tests.chaos.course import Course, run
from tests.chaos.fault import Fault, Simple
from tests.chaos.fleet import Fleet

MIXES = {
    1: ("F1", "F5", "F8", "F23", "F44"),
    2: ("F2", "F7", "F9", "F34", "F39"),
    3: ("F1", "F3", "F4", "F5a", "F6", "F38"),
    4: ("F3a", "F30", "F30a", "F31", "F33"),
}


@pytest.mark.parametrize("seed", list(MIXES))
async def test_every_promise_holds_through_a_course_of_faults(seed: int, quick_path: Path) -> None:
    verdict = await run(Course(seed=seed, faults=MIXES[seed], seconds=30 if seed == 4 else 42), quick_path)
    sys.stdout.write(f"{verdict}\n")
    assert verdict.clean, str(verdict)


async def test_a_fault_that_met_nobody_fails_its_course_which_says_how_to_repeat_it(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(fleet: Fleet, rng: Random) -> int:
        return 0

    def made(names: list[str]) -> list[Fault]:
        return [Simple(name, nothing) for name in names]

    monkeypatch.setattr("tests.chaos.course.made", made)
    verdict = await run(Course(seed=9, faults=["F0"], seconds=1, calm=0.5, triggers=5), quick_path)
    assert not verdict.clean
    told = str(verdict).splitlines()
    assert told[0].startswith("seed 9: ")
    assert "not done: F0: it had no effect" in told
    assert told[-1] == "again: make chaos SEED=9 FAULTS=F0 SECONDS=1"
