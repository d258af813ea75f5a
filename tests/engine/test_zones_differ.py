"""Two replicas with two releases of the zones: the one that comes second says so."""

import pytest

from tests.engine.building import Heard, World, a_replica


async def no_agent() -> None:
    return None


async def test_a_replica_with_another_release_of_the_zones_is_warned_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Heard()
    async with a_replica(world.dsn, {"agent": no_agent}) as first:
        async with a_replica(world.dsn, {"agent": no_agent}, log=log):
            assert log.count("zones.differ") == 0
        monkeypatch.setattr("tocsin.engine.keeper.release", lambda: "1999.1")
        async with a_replica(world.dsn, {"agent": no_agent}, log=log):
            told = [fields for event, fields in log.events if event == "zones.differ"]
            assert [(fields["replica"], fields["ours"]) for fields in told] == [(first.who.name, "1999.1")]
            assert await world.value("SELECT count(DISTINCT tzdata) FROM tocsin.replicas") == 2
