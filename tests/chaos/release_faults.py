"""Another release beside this one: CHAOS_OTHER is a checkout of it, such as a ``git worktree`` of a tag."""

import os
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos.fault import Catalogue, DidNothing, Simple
from tests.chaos.faults.moving import moved
from tests.chaos.fleet import Fleet
from tests.chaos.member import ROOT, Member

NO_OTHER: Final = "CHAOS_OTHER names no checkout of another release: `git worktree add DIRECTORY REF` makes one"


def _source() -> Path | None:
    """Where the other release's package lies."""
    source = Path(os.environ.get("CHAOS_OTHER", "")).resolve() / "src"
    return source if "CHAOS_OTHER" in os.environ and (source / "tocsin").is_dir() else None


async def mix_releases(fleet: Fleet, rng: Random) -> int:
    """F36: half of the agent processes change to the other release under load, and back again.

    So does a replica, where the other release has the same schema: one that has not refuses to start.
    """
    source = _source()
    assert source is not None  # the fault is absent without one
    half = rng.choice(list(fleet.elsewhere.halves.values()))
    movers = [*half, *([rng.choice(fleet.members)] if _schema(source) == _schema(ROOT / "src") else [])]
    async with moved(fleet, movers, env={"PYTHONPATH": f"{source}:{ROOT}"}):
        strangers = [member for member in movers if not _is_of(member, source)]
        if strangers:
            raise DidNothing(f"{', '.join(member.name for member in strangers)} did not change")
        run_id, _ = await fleet.elsewhere.working(fleet, seconds=2, among=half)
        await fleet.until_ended(run_id, within=20)
        await fleet.for_a_while(rng.uniform(3, 8))
    ended = await fleet.fetch("SELECT state, fence FROM tocsin.runs WHERE id = $1::uuid", run_id)
    if ended != [{"state": "succeeded", "fence": 1}]:
        raise AssertionError(f"a run of the other release's process is {ended}")
    return len(movers)


def _schema(source: Path) -> list[str]:
    return [path.read_text() for path in sorted((source / "tocsin" / "store" / "migrations").glob("*.sql"))]


def _is_of(member: Member, source: Path) -> bool:
    """Whether its process was begun with the other release's package in front of ours."""
    return member.alive and str(source).encode() in Path(f"/proc/{member.pid}/environ").read_bytes()


FAULTS: Final[Catalogue] = {"F36": lambda: Simple("F36", mix_releases)} if _source() else {}
ABSENT: Final = {} if _source() else {"F36": NO_OTHER}
