"""An hour of three replicas with faults, for each seed: every invariant holds.

TOCSIN_SIM_SEED=n    repeats one seed
TOCSIN_SIM_SEEDS=n   runs the seeds 0 to n - 1
"""

import os
import sys

import pytest

from tocsin.testing.simulation import simulated


def seeds() -> list[int]:
    one = os.environ.get("TOCSIN_SIM_SEED")
    return [int(one)] if one else list(range(int(os.environ.get("TOCSIN_SIM_SEEDS", "20"))))


@pytest.mark.parametrize("seed", seeds())
async def test_every_invariant_holds_through_an_hour_of_faults(seed: int, dsn: str) -> None:
    async with simulated(seed, dsn) as simulation:
        violations = await simulation.violations()
    done = {**simulation.nemesis.counts, **simulation.author.counts}
    sys.stdout.write(f"seed {seed}: {simulation.steps} turns, {done}\n")
    shown = "\n".join(str(violation) for violation in violations[:5])
    assert not violations, (
        f"seed {seed} broke {len(violations)} promises; repeat it with\n"
        f"    TOCSIN_SIM_SEED={seed} pytest tests/simulation/test_seeds.py\n{shown}"
    )
