"""Guards of agent processes, and of the hub's verdicts on them."""

from collections.abc import Mapping, Sequence
from typing import Final

from tests.chaos.hole import Hole, put, statements
from tocsin.edges.grpc.door import Door
from tocsin.engine.keys import digest_of
from tocsin.sdk.link import Link
from tocsin.testing import holes


def _every_door_open() -> None:
    """Whoever has some key may serve any agent."""

    async def let_in(self: Door, authorization: str, agents: Sequence[str]) -> str | None:
        _, name, _ = await self.rows.of_agent(digest_of(authorization.partition(" ")[2].strip()))
        return name

    put(Door, "let_in", let_in)


HOLES_ELSEWHERE: Final[Mapping[str, Hole]] = {
    "stop": Hole(
        says="an agent process that is cut off stops its work by itself",
        caught_by="I6",
        elsewhere=lambda: put(Link, "_expired", lambda self: None),
        faults=["F41a"],
    ),
    "verdict": Hole(
        says="a verdict on an agent process compares its lease",
        caught_by="I7",
        install=statements(holes.judged_anew),
        faults=["F3a"],
    ),
    "heard": Hole(
        says="an agent process's beats renew its lease",
        caught_by="I7",
        install=statements(holes.unheard),
        faults=["F33"],
        seconds=25,
    ),
    "crowd": Hole(
        says="many agent processes that fall silent at once have as long again",
        caught_by="I7",
        install=statements(holes.merciless),
        faults=["F41b"],
    ),
    "agents": Hole(
        says="an agent process's key is for its own agents",
        caught_by="I12",
        install=_every_door_open,
        faults=["F33"],
    ),
}
