"""Repeats a course, or runs many: ``python -m tests.chaos``.

one SEED [FAULTS] [SECONDS]         one course, with its report; FAULTS are ids with commas between them
long [MINUTES]                      every fault alone, then mixes, until each crash point was hit often enough
edits [SEED] [TRIGGERS] [SECONDS]   a storm of edits over HTTP on triggers of one second
sabotage [--write | NAME …]         which invariant notices which guard's absence; the table of docs/protocol.md
"""

import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos import edits as storm
from tests.chaos.catalogue import OF_INSTANCES, OWN, absent, catalogue
from tests.chaos.course import Course, Verdict, run
from tests.chaos.points import POINTS
from tests.chaos.sabotage import HOLES, table, written
from tocsin.testing.history.checker import DECIDED
from tocsin.testing.invariants import caught

# A pool that loses its sessions is what is asked for here.
logging.getLogger("asyncpg").setLevel(logging.CRITICAL)

MIX: Final = ("F1", "F2", "F3", "F4", "F5", "F5a", "F7", "F8", "F9", "F23", "F34", "F39", "F44")
PAGE: Final = Path("docs/protocol.md")
TRIES: Final = 4
"""Seeds that a hole is given to come to light."""

ALONE: Final = {"F5b", "F40"}
"""Faults that are of no use beside others: one holds rows for its whole length, one takes the fleet for a minute."""

POINT_HITS: Final = 20


async def in_memory(course: Course) -> Verdict:
    """The course has been run, in a directory that is gone afterwards."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="tocsin-chaos-", dir=memory if memory.is_dir() else None) as place:
        return await run(course, Path(place))


def one(seed: int, faults: str, seconds: float) -> int:
    """1 when a promise was broken, or a fault could not be done or did nothing."""
    lacking = {name: why for name, why in absent().items() if name in faults.split(",")}
    if lacking:
        say("\n".join(f"{name} cannot be done here: {why}" for name, why in lacking.items()))
        return 2
    verdict = asyncio.run(in_memory(Course(seed=seed, faults=faults.split(",") if faults else MIX, seconds=seconds)))
    say(str(verdict))
    return int(not verdict.clean)


def edits(seed: int, triggers: int, seconds: float) -> int:
    """1 when a promise was broken, or an answer was one that may not be."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="tocsin-chaos-", dir=memory if memory.is_dir() else None) as place:
        outcome = asyncio.run(storm.run(storm.Storm(seed=seed, triggers=triggers, seconds=seconds), Path(place)))
    say(str(outcome))
    return int(not outcome.clean)


def long(minutes: float) -> int:
    """Every fault alone and then mixes, each with a seed of its own, until the time is over; 1 if any failed, or if
    a crash point was hit too seldom though half as much time again was given to them."""
    for name, why in absent().items():
        say(f"{name} is not tried: {why}")
    began_at = time.monotonic()
    alone = [(name,) for faults in catalogue().values() for name in faults]
    failed: list[Course] = []
    points: Counter[str] = Counter(dict.fromkeys(POINTS, 0))
    seed = 0
    while (passed := (time.monotonic() - began_at) / 60) < minutes or (rare(points) and passed < minutes * 1.5):
        seed += 1
        course = _of_the_long_run(seed, alone, only_points=passed >= minutes)
        verdict = asyncio.run(in_memory(course))
        points.update(verdict.points)
        say(str(verdict))
        if not verdict.clean:
            failed.append(course)
    say(f"{seed} courses, {len(failed)} failed")
    say("\n".join(course.again for course in failed))
    say(f"crash points hit: {dict(points)}; fewer than {POINT_HITS} times: {rare(points) or 'none'}")
    return int(bool(failed or rare(points)))


def _of_the_long_run(seed: int, alone: Sequence[tuple[str, ...]], *, only_points: bool) -> Course:
    """The first seeds try each fault alone; of the others three in four are for the crash points, which are many."""
    if seed <= len(alone):
        return Course(seed=seed, faults=alone[seed - 1], seconds=60)
    if seed % 4 or only_points:
        return Course(seed=seed, faults=("F1",), seconds=150)
    known = sorted((OWN.keys() | OF_INSTANCES.keys()) - ALONE)
    return Course(seed=seed, faults=Random(seed).sample(known, 6), seconds=60)


def rare(points: Mapping[str, int]) -> dict[str, int]:
    """The points that were hit fewer than twenty times."""
    return {point: count for point, count in points.items() if count < POINT_HITS}


def sabotage(names: list[str], *, write: bool) -> int:
    """1 when a hole was not noticed by the invariant that is meant for it."""
    found = {name: asyncio.run(noticed(name)) for name in names or HOLES}
    unseen = [name for name, counts in found.items() if not counts[HOLES[name].caught_by]]
    if not names:
        say(table(found, DECIDED))
    if write:
        PAGE.write_text(written(PAGE.read_text(), found, DECIDED))
    say(f"not noticed: {', '.join(unseen) or 'none'}")
    return int(bool(unseen))


async def noticed(name: str) -> Counter[str]:
    """How many violations each invariant found, in the first seed in which the one that is meant for it did."""
    hole = HOLES[name]
    counts: Counter[str] = Counter()
    for seed in range(1, TRIES + 1):
        course = Course(
            seed=seed,
            faults=hole.faults,
            seconds=hole.seconds,
            calm=hole.calm,
            triggers=150,
            sabotage=name,
            settings=dict(hole.settings),
        )
        counts = caught((await in_memory(course)).violations)
        say(f"{name}, seed {seed}: {dict(counts)}")
        if counts[hole.caught_by]:
            break
    return counts


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["one", seed, *rest]:
            return one(int(seed), rest[0] if rest else "", float(rest[1]) if len(rest) > 1 else 45)
        case ["long", *minutes]:
            return long(float(minutes[0]) if minutes else 60)
        case ["edits", *rest]:
            seed, triggers, seconds = [*rest, *("1", "1000", "20")[len(rest) :]][:3]
            return edits(int(seed), int(triggers), float(seconds))
        case ["sabotage", "--write"]:
            return sabotage([], write=True)
        case ["sabotage", *names]:
            return sabotage(names, write=False)
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
