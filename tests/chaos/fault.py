"""What a fault is: a name of the catalogue, one injection, and proof that it did something.

A fault never judges. It does its harm to a fleet, undoes it, and counts what it did; the checker decides
from the logs whether the promises held. ``Nemesis`` notes in log (n) when each injection began and ended.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from random import Random
from typing import Final, Protocol

from tests.chaos.fleet import Fleet


class Excuse(StrEnum):
    """What a checker must not hold against the hub while a fault is on, and for a recovery's length after."""

    LATE = "late"
    """Runs may start late: replicas, or the database, are away or slow."""
    SILENT = "silent"
    """Some living replica's renewals may not arrive: its lease may run out."""
    BLIND = "blind"
    """Every replica may be cut off from the database: verdicts by lease must wait one lease from the end on."""


class Fault(Protocol):
    """name: its id in the catalogue, such as "F11"; excuses: see Excuse; did: injections that had an effect.

    ``inject`` does it once and undoes it, also when it is cancelled. It raises ``DidNothing`` (or any other
    error) when it could not do what it is for. It waits on conditions with deadlines, through ``fleet.until``.
    """

    @property
    def name(self) -> str: ...
    @property
    def excuses(self) -> frozenset[Excuse]: ...
    @property
    def did(self) -> int: ...
    async def inject(self, fleet: Fleet, rng: Random) -> None: ...


class DidNothing(AssertionError):
    """A fault found nothing to harm: the test that relies on it proves nothing."""


class Simple:
    """A fault that is one function, which returns how often it had an effect."""

    def __init__(
        self, name: str, harm: Callable[[Fleet, Random], Awaitable[int]], *, excuses: frozenset[Excuse] = frozenset()
    ) -> None:
        self.name: Final = name
        self.excuses: Final = excuses
        self.did = 0
        self._harm = harm

    async def inject(self, fleet: Fleet, rng: Random) -> None:
        self.did += await self._harm(fleet, rng)


Catalogue = Mapping[str, Callable[[], Fault]]
"""Faults by their ids; each call makes a new one, with its own count.

``tests/chaos/catalogue.py`` merges the ``FAULTS: Catalogue`` of every module that has one.
"""
