"""What waits for a stream leaves it in messages that whoever is at its other end can take."""

from uuid import UUID

import pytest

from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import a_trigger
from tocsin.domain.agent import MAX_PAYLOAD

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
