"""Wall clocks that are wrong, and that step while a process runs (libfaketime)."""

import importlib.util
import os
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos.fault import Catalogue, DidNothing, Excuse, Simple
from tests.chaos.faults.moving import moved
from tests.chaos.fleet import Fleet

MISSING: Final = "libfaketime is not installed: apt install faketime"
HOUR: Final = 3600


def library() -> Path | None:
    """Debian's, or the wheel's."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    spec = importlib.util.find_spec("libfaketime")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        found += sorted(Path(location).rglob("libfaketime*.so*"))
    return found[0] if found else None


class WallClock:
    """A wall clock for processes that are started with ``env``; the monotonic one stays true.

    Under it ``time.sleep`` of Python raises EINVAL, because it sleeps until a monotonic instant: agents that
    sleep so fail. What waits by select, as an event loop does, works.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.step(0)

    def step(self, seconds: float) -> None:
        """From now on the clock is so far ahead of the true one, or behind it."""
        self._set(f"{seconds:+.3f}")

    def _set(self, words: str) -> None:
        beside = self.path.with_name(f"{self.path.name}.new")
        beside.write_text(words)
        beside.chmod(0o644)
        os.replace(beside, self.path)

    @property
    def env(self) -> dict[str, str]:
        found = library()
        assert found is not None, MISSING
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }


async def skew(fleet: Fleet, rng: Random) -> int:
    """F16: the clock of one replica is wrong by an hour or five minutes, and steps while it runs."""
    member = rng.choice(fleet.members)
    clock = WallClock(fleet.place / f"clock-{member.name}")
    clock.step(rng.choice([HOUR, -HOUR, 300]))
    async with moved(fleet, [member], env=clock.env):
        await fleet.for_a_while(3)
        # Both hours are among the steps: in the log the hour changes, whatever it is now.
        for seconds in rng.sample([HOUR, -HOUR, rng.choice([300, 0, -5])], 3):
            clock.step(seconds)
            await fleet.for_a_while(2)
        began = member.logged("run.started")
        if not began:
            raise DidNothing(f"{member.name} began nothing under a wrong clock")
        stamps = {str(line["at"])[:13] for line in began}
        if len(stamps) < 2:
            raise DidNothing("the clock of its log never stepped")
    return 1


FAULTS: Catalogue = {"F16": lambda: Simple("F16", skew, excuses=frozenset({Excuse.LATE}))} if library() else {}
ABSENT: Final = {} if library() else {"F16": MISSING}
