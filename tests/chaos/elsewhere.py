"""Agent processes beside a fleet's replicas: ``tocsin work`` by the half-dozen, the roads to the hubs, and the keys.

Every replica's gRPC port has two roads in front of it: the near half of the processes takes the ones, the far half
the others. Nobody reaches a hub but by a road, and each half has a key of its own.
"""

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

from tests.chaos.agents import elsewhere, scripted
from tests.chaos.faults.ledgers import entries
from tests.chaos.journal import Journal
from tests.chaos.member import INSTANCE, Member
from tests.edges.network import Port
from tocsin.engine.control import Control

FAR_OFF: Final = "by-hand-envoy"
PLAYED: Final = "by-hand-puppet"
"""Triggers without a schedule, of an agent of the processes and of one whose process a fault plays."""

DEAD_AFTER: Final = 8.0
SETTINGS: Final = {"TOCSIN_SUSPECT_AFTER": "2s", "TOCSIN_DEAD_AFTER": f"{DEAD_AFTER:g}s"}
"""Of the hubs, so that a silent process is lost in seconds."""

SIDES: Final = ("near", "far")


class Fires(Protocol):
    """What of a fleet a fault of agent processes asks for; see Fleet."""

    async def fire(self, trigger: str, payload: dict[str, Any]) -> str: ...
    async def begun(self, run_id: str) -> dict[str, Any]: ...
    async def until(self, holds: Callable[[], Awaitable[object]], what: str, *, within: float) -> float: ...


class Elsewhere:
    """Enter it for roads and keys. members: the processes, of which the first half is the near one.

    keys: by side, and of the agent that is played.
    """

    def __init__(
        self, replicas: Sequence[Member], *, count: int, env: Mapping[str, str], journal: Journal, ledgers: Path
    ) -> None:
        self.keys: Final[dict[str, str]] = {}
        self.roads: Final[dict[str, list[Port]]] = {side: [] for side in SIDES}
        self.addresses: Final = [f"127.0.0.1:{_a_port()}" for _ in replicas] if count else []
        self._ledgers = ledgers
        self._stack = AsyncExitStack()
        for replica, address in zip(replicas, self.addresses, strict=False):
            replica.env.update(SETTINGS, TOCSIN_GRPC_BIND=address)
        self.members: Final = [
            Member(index, dsn=lambda: "", env=dict(env), journal=journal, role=INSTANCE) for index in range(count)
        ]

    @property
    def halves(self) -> dict[str, list[Member]]:
        middle = len(self.members) // 2
        return {"near": self.members[:middle], "far": self.members[middle:]}

    async def open(self, control: Control) -> None:
        """The roads are open, and the processes know them and have their keys."""
        agents = {side: list(elsewhere.build("chaos").functions) for side in SIDES}
        agents["played"] = list(scripted.build("chaos").functions)
        for name, served in agents.items():
            self.keys[name] = (await control.keys.create(name, agents=served))["key"]
        for side, members in self.halves.items():
            for address in self.addresses:
                self.roads[side].append(await self._stack.enter_async_context(Port(address)))
            hubs = ",".join(road.address for road in self.roads[side])
            for member in members:
                member.env.update(TOCSIN_HUB=hubs, TOCSIN_AGENT_KEY=self.keys[side])

    async def close(self) -> None:
        await self._stack.aclose()

    def side_of(self, member: Member) -> str:
        return next(side for side, members in self.halves.items() if member in members)

    async def working(self, fleet: Fires, *, seconds: float, among: Sequence[Member] = ()) -> tuple[str, Member]:
        """(a run that lasts so long and has just begun in one of these processes, that process)."""
        wanted = {member.pid: member for member in among or self.members if member.alive}
        found: list[tuple[str, Member]] = []

        async def is_there() -> bool:
            run_id = await fleet.fire(FAR_OFF, {"seconds": [seconds]})
            pid = int((await fleet.begun(run_id))["pid"])
            found.extend([(run_id, wanted[pid])] if pid in wanted else [])
            return bool(found)

        await fleet.until(is_there, "a run begins in an agent process", within=30)
        return found[0]

    def told(self, what: str, run_id: str) -> list[dict[str, Any]]:
        """What the ledgers have of a run."""
        return [entry for entry in entries(self._ledgers, what) if entry["run"] == run_id]


def _a_port() -> int:
    """A free one, below those that outgoing connections take: it is bound again and again."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
