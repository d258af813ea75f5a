"""What waits for a stream leaves it in messages that whoever is at its other end can take."""

import asyncio
from uuid import UUID

import pytest

from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import DEADLINE, a_trigger, eventually
from tests.executors.conftest import an_assignment
from tocsin.domain.agent import MAX_PAYLOAD, AgentSpec
from tocsin.edges.grpc.outgoing import Outgoing
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio

TRIGGERS = 10
LARGE = b'"' + b"x" * (MAX_PAYLOAD - 1_000) + b'"'


async def test_large_last_outputs_do_not_end_the_stream(dsn: str) -> None:
    """Each run brings its trigger's last output along."""
    triggers = [a_trigger(f"t{number}") for number in range(TRIGGERS)]
    async with a_control(dsn, *triggers) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        for trigger in triggers:
            await process.credit(1)
            await control.fire(trigger.name)
            assert not (await process.finish(*await process.assigned(), output=LARGE))[0].fenced
        fired = [UUID(str((await control.fire(trigger.name))["id"])) for trigger in triggers]
        await process.credit(TRIGGERS)
        runs = await process.assigned(TRIGGERS)
        assert {UUID(run.run_id) for run in runs} == set(fired)
        assert all(run.last.output == LARGE for run in runs)


GROWN = b"[" + b"1e300," * 60_000 + b"0]"
"""As it is stored, every number has 301 digits: 18 MB."""


async def test_a_last_output_that_has_grown_too_large_is_left_out(dsn: str) -> None:
    async with a_control(dsn, a_trigger("t")) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        for _ in range(2):
            await process.credit(1)
            await control.fire("t")
            (run,) = await process.assigned()
            assert not run.HasField("last")
            assert not (await process.finish(run, output=GROWN))[0].fenced


async def test_an_input_that_has_grown_too_large_fails_its_run_and_nothing_else(dsn: str) -> None:
    triggers = (a_trigger("t"), a_trigger("other"))
    async with a_control(dsn, *triggers) as control, a_hub(dsn) as hub, Process(hub.address) as process:
        await process.hello()
        await process.credit(2)
        fired = await control.fire("t", input=[1e300] * 60_000)

        async def has_failed() -> bool:
            return bool((await control.run(UUID(str(fired["id"]))))["state"] == "failed")

        await eventually(has_failed)
        await control.fire("other")
        await process.assigned()


async def test_who_drains_hears_of_all_that_was_assigned_before_its_next_beat_is_answered() -> None:
    outgoing = Outgoing(now=lambda: None, lost=lambda: None, revoked=lambda _: None)
    outgoing.assign(an_assignment(), AgentSpec(name="agent"))
    outgoing.drain()
    outgoing.beat_taken(7)
    written: list[pb.FromHub] = []

    async def write(message: pb.FromHub) -> None:
        written.append(message)

    writing = asyncio.create_task(outgoing.write_all(write, within=DEADLINE))
    await eventually(lambda: outgoing.waiting == 0)
    writing.cancel()
    assert [message.WhichOneof("message") for message in written] == ["assign", "beat_taken"]
