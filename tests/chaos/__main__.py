"""Repeats a course, or runs many: ``python -m tests.chaos``.

one SEED [FAULTS] [SECONDS]     one course, with its report; FAULTS are ids with commas between them
long [MINUTES]                  every fault alone and mixes of all, seed after seed, for so long
sabotage [--write]              which invariant notices which guard's absence; the table of docs/protocol.md
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.course import Course, Verdict, run

MIX = ("F1", "F5", "F8", "F9", "F34", "F4", "F23", "F44", "F7", "F3", "F39", "F2")


def one(seed: int, faults: str, seconds: float) -> int:
    course = Course(seed=seed, faults=faults.split(",") if faults else MIX, seconds=seconds)
    verdict = asyncio.run(in_memory(course))
    sys.stdout.write(f"{verdict}\n")
    return int(bool(verdict.violations or verdict.broken))


async def in_memory(course: Course) -> Verdict:
    """The course, in a directory that is gone afterwards."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="tocsin-chaos-", dir=memory if memory.is_dir() else None) as place:
        return await run(course, Path(place))


def main(arguments: list[str]) -> int:
    match arguments:
        case ["one", seed, *rest]:
            return one(int(seed), rest[0] if rest else "", float(rest[1]) if len(rest) > 1 else 45)
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
