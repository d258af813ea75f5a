"""What a scenario stands on: one contestant, a store made just now, its schema, and its processes."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import servers
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.environments import cache
from benchmarks.peers.processes import Crew, crew

Case = Mapping[str, Any]
Figures = dict[str, float]


class Cannot(Exception):
    """The contestant has no means for what the scenario asks; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    contestant: Contestant
    crew: Crew
    dsn: str
    redis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """cases: the sizes of a full and of a quick measurement. lower: whether less of the first figure is better.

    units: figure to its unit, the first one being what the page ranks by. only: who takes part at all.
    settings: of the PostgreSQL that it runs on.
    """

    name: str
    title: str
    explained: str
    cases: tuple[Case, ...]
    quick: tuple[Case, ...]
    units: Mapping[str, str]
    lower: bool
    measure: Callable[[Ground, Case], Awaitable[Figures]]
    only: tuple[str, ...] = ()
    settings: Mapping[str, str] | None = None


@asynccontextmanager
async def ground(contestant: Contestant, python: Path, settings: Mapping[str, str]) -> AsyncIterator[Ground]:
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=cache())))
        dsn = url = ""
        if contestant.store == "postgresql":
            dsn = await stack.enter_async_context(servers.postgresql(**settings))
        elif contestant.store == "redis":
            url = await stack.enter_async_context(servers.redis())
        hands = await stack.enter_async_context(crew(python, contestant.name, place, dsn=dsn, redis=url))
        await hands.do("install")
        yield Ground(contestant=contestant, crew=hands, dsn=dsn, redis=url)
