"""Repeats one simulated hour: ``python -m tocsin.testing SEED [DSN of an empty, migrated database]``."""

import asyncio
import os
import sys

from tocsin.testing.simulation import simulated


async def repeat(seed: int, dsn: str) -> int:
    """What the seed breaks is on stdout; the number of violations is the answer."""
    async with simulated(seed, dsn) as simulation:
        violations = await simulation.violations()
    lines = [str(violation) for violation in violations] or ["every invariant held"]
    sys.stdout.write("\n".join([f"seed {seed}: {simulation.steps} turns, {simulation.nemesis.counts}", *lines, ""]))
    return len(violations)


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.stderr.write((__doc__ or "") + "\n")
        return 2
    dsn = sys.argv[2] if len(sys.argv) == 3 else os.environ.get("TOCSIN_DATABASE_URL", "")
    return min(1, asyncio.run(repeat(int(sys.argv[1]), dsn)))


if __name__ == "__main__":
    sys.exit(main())
