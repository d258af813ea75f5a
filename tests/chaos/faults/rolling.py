"""F35: every replica is restarted, one after the other, while the others work."""

from random import Random

from tests.chaos.fault import Catalogue, Excuse, Simple
from tests.chaos.fleet import Fleet


async def roll(fleet: Fleet, rng: Random) -> int:
    """Each member has drained and another process has taken its place; how many."""
    for member in fleet.members:
        await fleet.restart(member)
    return len(fleet.members)


FAULTS: Catalogue = {"F35": lambda: Simple("F35", roll, excuses=frozenset({Excuse.LATE}))}
