"""Faults between agent processes and the replicas: reset, half open, cut in mid word, slow, closed; hubs that leave."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from tests.chaos.elsewhere import DEAD_AFTER
from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.fleet import Fleet
from tests.chaos.instance_faults import FENCED
from tests.edges.network import Port

BLIP: Final = 1.2
"""Seconds that a road may be closed without anybody's being lost, should the next try be a late one."""

_HUB_OF: Final = """
SELECT p.name FROM tocsin.runs r
  JOIN tocsin.instances i ON i.id = r.holder
  JOIN tocsin.replicas p ON p.id = i.replica
 WHERE r.id = $1::uuid
"""


async def reset(fleet: Fleet, rng: Random) -> int:
    """F30: every stream of one half ends at once; what is in hand goes on."""
    async with _goes_on(fleet, rng) as (roads, _):
        for road in roads:
            await road.cut()
    return _met(roads)


async def half_open(fleet: Fleet, rng: Random) -> int:
    """F30a: nothing comes through for a while, and nobody is told; then it flows again, or all is cut."""
    async with _goes_on(fleet, rng) as (roads, _):
        for road in roads:
            road.freeze()
        await fleet.for_a_while(rng.uniform(0.5, 1) * BLIP)
        for road in roads:
            road.restore()
            if rng.random() < 0.5:
                await road.cut()
    return _met(roads)


async def cut_in_mid_word(fleet: Fleet, rng: Random) -> int:
    """F30b: connections end after some bytes, in the middle of a handshake, a Hello or an assignment."""
    async with _goes_on(fleet, rng) as (roads, _):
        for road in roads:
            road.cut_after(rng.choice([1, 30, 200, 700, 1_500]))
            await road.cut()
        await fleet.for_a_while(BLIP)
    return _met(roads)


async def slow(fleet: Fleet, rng: Random) -> int:
    """F30c: whatever is said comes 50 to 500 ms later."""
    async with _goes_on(fleet, rng, seconds=DEAD_AFTER + 1) as (roads, _):
        late = rng.uniform(0.05, 0.5)
        for road in roads:
            road.delay(late)
        await fleet.for_a_while(DEAD_AFTER)
    return _met(roads)


async def hub_leaves(fleet: Fleet, rng: Random) -> int:
    """F30d: a hub is restarted, or killed, under its processes: they go on elsewhere with what they have in hand."""
    async with _goes_on(fleet, rng, seconds=BLIP * 4) as (_, run_id):
        name = str(await fleet.value(_HUB_OF, run_id))
        (replica,) = [member for member in fleet.members if name.endswith(f":{member.pid}")]
        await fleet.restart(replica, kill=rng.random() < 0.5)
    return 1


async def part(fleet: Fleet, rng: Random) -> int:
    """F41a: one half of the processes cannot reach any replica until others have their runs; then it can again."""
    side, roads = _a_side(fleet, rng)
    run_id, _ = await fleet.elsewhere.working(fleet, seconds=DEAD_AFTER * 2, among=fleet.elsewhere.halves[side])
    async with _closed(roads, rng):
        await fleet.until_value(FENCED, run_id, within=DEAD_AFTER + 12)
        await fleet.for_a_while(rng.uniform(0, 2))
    await _reached(fleet)
    await fleet.until_ended(run_id, within=DEAD_AFTER * 2 + 20)
    return _met(roads)


async def part_from_all(fleet: Fleet, rng: Random) -> int:
    """F41b: no process reaches any replica for longer than one may be silent, and less than twice as long.

    It is rather the hubs that are deaf, so that nobody is lost. The processes stop what they do, as they cannot
    know that, and begin anew when they are back.
    """
    roads = [road for side in fleet.elsewhere.roads.values() for road in side]
    for road in roads:
        road.met = 0
    await fleet.elsewhere.working(fleet, seconds=DEAD_AFTER * 2)
    async with _closed(roads, rng):
        await fleet.for_a_while(DEAD_AFTER * rng.uniform(1.2, 1.4))
    await _reached(fleet)
    return _met(roads)


@asynccontextmanager
async def _goes_on(fleet: Fleet, rng: Random, *, seconds: float = BLIP * 2) -> AsyncIterator[tuple[list[Port], str]]:
    """(the roads of one half, a run in hand there); after the block that ends under its first fence."""
    side, roads = _a_side(fleet, rng)
    run_id, member = await fleet.elsewhere.working(fleet, seconds=seconds, among=fleet.elsewhere.halves[side])
    try:
        yield roads, run_id
    finally:
        for road in roads:
            road.restore()
    await fleet.until_ended(run_id, within=seconds + 20)
    ended = await fleet.fetch("SELECT state, fence FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if ended[0] != {"state": "succeeded", "fence": 1}:
        raise AssertionError(f"a run in hand of {member.name} did not outlast the network: {ended}")
    await _reached(fleet)


@asynccontextmanager
async def _closed(roads: Sequence[Port], rng: Random) -> AsyncIterator[None]:
    """Connections are refused, or stand and carry nothing."""
    refuses = rng.random() < 0.5
    for road in roads:
        if refuses:
            await road.refuse()
        else:
            road.freeze()
    try:
        yield
    finally:
        for road in roads:
            road.restore()
            await road.cut()


async def _reached(fleet: Fleet) -> None:
    """Every process has a hub again."""
    await fleet.until_value(
        "SELECT count(*) >= $1 FROM tocsin.instances i JOIN tocsin.leases l ON l.holder = i.id"
        " WHERE l.ended_at IS NULL AND i.replica IS NOT NULL AND l.renewed_at > now() - interval '2 s'",
        len(fleet.elsewhere.members),
        within=25,
    )


def _a_side(fleet: Fleet, rng: Random) -> tuple[str, list[Port]]:
    """One half's name, and its roads, which have met nothing yet."""
    side = rng.choice(list(fleet.elsewhere.roads))
    roads = fleet.elsewhere.roads[side]
    for road in roads:
        road.met = 0
    return side, roads


def _met(roads: Sequence[Port]) -> int:
    if not (met := sum(road.met for road in roads)):
        raise DidNothing("nothing came by")
    return met


FAULTS: Catalogue = {
    "F30": lambda: Simple("F30", reset),
    "F30a": lambda: Simple("F30a", half_open),
    "F30b": lambda: Simple("F30b", cut_in_mid_word),
    "F30c": lambda: Simple("F30c", slow),
    "F30d": lambda: Simple("F30d", hub_leaves, excuses=frozenset({Excuse.LATE})),
    "F41a": lambda: Simple("F41a", part),
    "F41b": lambda: Simple("F41b", part_from_all),
}
