"""Delays, resets, half-open connections, and cuts within each message: a run has one end, and begins once."""

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from tests.edges.agents import Agents, some_agents
from tests.edges.processes import a_world, connected, ended, fire
from tests.edges.wire import Wire
from tests.edges.wiring import Hub, a_hub
from tests.engine.building import PATIENCE, eventually
from tocsin.engine.control import Control
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio

INTRODUCING = ("hello", "welcome", "credit")
BEGINNING = ("assign", "begun")
GOING_ON = ("beat", "beat_taken", "finished", "settled")
NEVER_BEGUN = {("assign", 0.0), ("assign", 0.5)}


async def one_end(control: Control, agents: Agents, run_id: UUID) -> dict[str, Any]:
    """The run has succeeded, and its body was begun once."""
    shown = await ended(control, run_id)
    assert (shown["state"], shown["attempt"]) == ("succeeded", 1)
    assert [run for run, _ in agents.began if run == str(run_id)] == [str(run_id)]
    assert shown["output"] == {"fence": shown["fence"]}
    return shown


@pytest.mark.parametrize("kind", [*INTRODUCING, *BEGINNING, *GOING_ON])
async def test_a_cut_within_a_message_costs_nothing(dsn: str, kind: str) -> None:
    async with a_world(dsn) as control, a_hub(dsn) as hub, Wire(hub.address) as wire:
        for cuts, share in enumerate((0.0, 0.5, 1.0), start=1):

            def is_cut(cuts: int = cuts) -> bool:
                return wire.cuts == cuts

            if kind in INTRODUCING:
                wire.cut_within(kind, share)
            async with some_agents(wire.address) as agents:
                await eventually(is_cut if kind in INTRODUCING else partial(agents.log.count, "agent.connected"))
                if kind in BEGINNING:
                    wire.cut_within(kind, share)
                run_id = await fire(control, 1)
                if kind in GOING_ON:
                    # The Assign has arrived: nothing else is lost with what is cut.
                    await eventually(partial(len, agents.began))
                    wire.cut_within(kind, share)
                shown = await one_end(control, agents, run_id)
                assert shown["fence"] == (2 if (kind, share) in NEVER_BEGUN else 1)
                await eventually(is_cut, what=f"a cut after {share:.0%} of {kind}")
        assert hub.log.count("instance.lost") == 0


async def test_a_slow_network_costs_time_and_nothing_else(dsn: str) -> None:
    async with a_world(dsn) as control, a_hub(dsn, suspect_after=6, dead_after=20) as hub, Wire(hub.address) as wire:
        wire.hold_up(0.05, 0.5)
        async with some_agents(wire.address, slots=10) as agents:
            runs = [await fire(control, 0.2) for _ in range(10)]
            for run_id in runs:
                assert (await one_end(control, agents, run_id))["fence"] == 1
        assert hub.log.count("instance.connected") == 1
        assert hub.log.count("instance.suspect") == 0


async def test_resets_again_and_again_cost_nothing(dsn: str) -> None:
    async with a_world(dsn) as control, a_hub(dsn, dead_after=20) as hub, Wire(hub.address) as wire:
        async with some_agents(wire.address, slots=40) as agents:
            runs = [await fire(control, 0.1 * number) for number in range(30)]
            for number in range(8):
                await eventually(connected(hub, number + 1))
                await wire.reset()
            for run_id in runs:
                await one_end(control, agents, run_id)
        assert wire.cuts >= 8
        assert hub.log.count("instance.lost") == 0


@pytest.mark.parametrize(
    "ways", [(pb.FromAgent,), (pb.FromHub,), (pb.FromAgent, pb.FromHub)], ids=["to the hub", "from the hub", "both"]
)
async def test_a_half_open_connection_is_given_up_before_any_run_is(dsn: str, ways: tuple[Any, ...]) -> None:
    """Another one would be sound: it is looked for after suspect_after, and not only when the lease has run out."""
    async with a_world(dsn) as control, a_hub(dsn, suspect_after=4, dead_after=12) as hub, Wire(hub.address) as wire:
        async with some_agents(wire.address) as agents:
            await eventually(connected(hub, 1))
            run_id = await fire(control, 8)
            await eventually(lambda: agents.began)
            wire.half_open(*ways)
            await eventually(connected(hub, 2), within=4 + 4 * PATIENCE)
            assert (await one_end(control, agents, run_id))["fence"] == 1
        _never_let_go(hub, agents)


def _never_let_go(hub: Hub, agents: Agents) -> None:
    assert hub.log.count("instance.lost") == 0
    assert agents.log.count("lease.expired") == 0
