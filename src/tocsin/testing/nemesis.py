"""What goes wrong in a simulation, and when it ends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tocsin.testing.faults import When
from tocsin.testing.replica import LEASE, SimulatedReplica

_HOLDS: Final[tuple[tuple[str, str, When], ...]] = (
    ("planner", "materialise", "before"),
    ("planner", "materialise", "after"),
    ("runner", "claim", "before"),
    ("runner", "claim", "after"),
    ("settler", "settle", "before"),
    ("settler", "settle", "after"),
    ("sweeper", "sweep", "before"),
)

USUAL_CHANCE: Final = 0.005
"""Share of statements that are lost when nothing else goes wrong."""


@dataclass(slots=True)
class Affliction:
    """One replica's trouble, until an elapsed second; then it is over."""

    replica: SimulatedReplica
    until: float
    end: Callable[[], Awaitable[None]]


class Nemesis:
    """Troubles one replica at a time in one way at a time. counts: how often each trouble was made."""

    def __init__(self, random: Random) -> None:
        self.counts: dict[str, int] = {}
        self._random = random
        self._afflictions: list[Affliction] = []

    def troubled(self, replica: SimulatedReplica) -> bool:
        return any(one.replica is replica for one in self._afflictions)

    @property
    def planner_held(self) -> bool:
        """Whether some planner stands in its transaction, so that its triggers' rows are locked."""
        holds = [one.replica.hold for one in self._afflictions if one.replica.busy is not None]
        return any(hold is not None and hold.statement == "materialise" for hold in holds)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def afflict(self, replica: SimulatedReplica, elapsed: float) -> None:
        """The replica is in some trouble for a while; one that is in trouble already is left alone."""
        if self.troubled(replica):
            return
        until = elapsed + self._random.choice([0.3, 0.8, 1.2, 2.5]) * LEASE.total_seconds()
        kinds = [self._freeze, self._hang_keeper, self._cut_off, self._lose_much, self._hold, self._freeze_in_step]
        end = await self._random.choice(kinds)(replica)
        if end is not None:
            self._afflictions.append(Affliction(replica, until, end))

    async def end_due(self, elapsed: float) -> None:
        """Troubles whose time has come are over."""
        for one in [one for one in self._afflictions if one.until <= elapsed]:
            self._afflictions.remove(one)
            await one.end()

    def forget(self, replica: SimulatedReplica) -> None:
        """The process is gone, and its trouble with it."""
        self._afflictions = [one for one in self._afflictions if one.replica is not replica]

    async def _freeze(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]]:
        self.count("freeze")
        replica.freeze()
        return _later(replica.thaw)

    async def _hang_keeper(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]]:
        self.count("hang keeper")
        replica.keeper_clock.frozen = True
        return _later(replica.thaw)

    async def _cut_off(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]]:
        self.count("cut off")
        replica.faults.cut_off = True

        def mend() -> None:
            replica.faults.cut_off = False

        return _later(mend)

    async def _lose_much(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]]:
        self.count("lose much")
        replica.faults.chance = 0.3

        def mend() -> None:
            replica.faults.chance = USUAL_CHANCE

        return _later(mend)

    async def _hold(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]] | None:
        """A step stands at a statement, while its keeper and its agents go on."""
        service, statement, when = self._random.choice(_HOLDS)
        await replica.begin_held(getattr(replica, service), statement, when)
        if replica.busy is None:
            return None
        self.count(f"hold {when} {statement}")
        return replica.let_go

    async def _freeze_in_step(self, replica: SimulatedReplica) -> Callable[[], Awaitable[None]] | None:
        """The whole process stands, in the middle of a step."""
        end = await self._hold(replica)
        if end is None:
            return None
        self.count("freeze in a step")
        replica.freeze()

        async def thaw() -> None:
            replica.thaw()
            await replica.let_go()

        return thaw


def _later(end: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def ended() -> None:
        end()

    return ended
