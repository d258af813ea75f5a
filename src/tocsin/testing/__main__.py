"""Repeats one simulated hour: ``python -m tocsin.testing SEED``, on a PostgreSQL of its own.

With ``python -m tocsin.testing SEED DSN`` it runs in that database, which must be empty, and stays for a look.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from tocsin.store.embedded import EmbeddedPostgres
from tocsin.store.migrate import migrate
from tocsin.testing.simulation import simulated


async def repeat(seed: int, dsn: str) -> int:
    """The course has been run, and what it broke is on stdout; how many promises that were."""
    await migrate(dsn)
    async with simulated(seed, dsn) as simulation:
        violations = await simulation.violations()
    lines = [str(violation) for violation in violations] or ["every invariant held"]
    sys.stdout.write("\n".join([f"seed {seed}: {simulation.steps} turns, {simulation.nemesis.counts}", *lines, ""]))
    return len(violations)


async def repeat_alone(seed: int) -> int:
    """As ``repeat``, on a server that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tocsin-simulation-") as home:
        async with await EmbeddedPostgres.ensure(Path(home)) as postgres:
            return await repeat(seed, postgres.dsn)


def main(arguments: list[str]) -> int:
    match arguments:
        case [seed] if seed.isdigit():
            return min(1, asyncio.run(repeat_alone(int(seed))))
        case [seed, dsn] if seed.isdigit():
            return min(1, asyncio.run(repeat(int(seed), dsn)))
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
