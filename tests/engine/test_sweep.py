"""A sweep and a renewal at the same moment: whoever commits first is right."""

import asyncpg

from tests.engine.building import LEASE, SECOND, World, a_trigger, an_end, drive, eventually


async def test_a_renewal_that_comes_between_a_sweeps_look_and_its_verdict_counts(world: World) -> None:
    """The sweep has seen a lease that ran out, and waits for its row, which a late renewal holds."""
    await world.declare(a_trigger())
    holder, sweeper = await world.peer(), await world.peer()
    run_id = await world.queue()
    assignment = await holder.claim_one()
    world.clock.turn(LEASE + SECOND)
    await sweeper.leases.renew([], lease=LEASE)
    other = await asyncpg.connect(world.dsn)
    try:
        renewal = other.transaction()
        await renewal.start()
        await other.execute(
            "UPDATE tocsin.leases SET expires_at = $1 WHERE holder = $2", world.clock.now() + LEASE, holder.who.holder
        )
        sweeping = drive(sweeper.sweep())

        async def waits() -> bool:
            return bool(await world.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

        await eventually(waits)
        await renewal.commit()
        assert await sweeping == []
    finally:
        await other.close()
    assert (await holder.leases.renew([(run_id, assignment.fence)], lease=LEASE)).fenced == frozenset()
    assert await holder.settle(an_end(assignment)) == {run_id}
