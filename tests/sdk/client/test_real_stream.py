"""The client's stream and watch against the stream of real replicas."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from uuid import UUID

import pytest

from tests.cli.conftest import Hub, app, environment, hub, place
from tocsin.domain.errors import NotFound
from tocsin.sdk.client import Change, Client

__all__ = ["app", "environment", "hub", "place"]
Start = Callable[..., Hub]


async def heard(client: Client, after: str | None, count: int) -> list[Change]:
    """So many transitions of one trigger's runs."""
    found: list[Change] = []
    async with asyncio.timeout(20), aclosing(client.stream(trigger="by-hand", after=after)) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == count:
                break
    return found


def test_transitions_are_told_and_go_on_at_another_replica(hub: Start, app: Path, dsn: str) -> None:
    one = hub("up", str(app), TOCSIN_DATABASE_URL=dsn).url
    two = hub("serve", TOCSIN_DATABASE_URL=dsn).url

    async def follow() -> tuple[list[Change], UUID]:
        async with Client(one) as here, Client(two) as there:
            listening = asyncio.ensure_future(heard(here, None, 1))
            while not listening.done():  # fired again until somebody listens
                await here.fire("by-hand")
                await asyncio.wait((listening,), timeout=0.5)
            (first,) = listening.result()
            run = (await here.fire("by-hand"))["id"]
            found: list[Change] = []
            while not found or found[-1].data["run_id"] != run or found[-1].data["to_state"] != "succeeded":
                found += await heard(there, found[-1].id if found else first.id, 1)
            with pytest.raises(NotFound):
                await anext(here.stream(run=UUID(int=7)))
            return [first, *found], run

    changes, run = asyncio.run(follow())
    assert {change.kind for change in changes} == {"transition"}
    assert len({(change.data["run_id"], change.data["seq"]) for change in changes}) == len(changes)
    states = [change.data["to_state"] for change in changes if change.data["run_id"] == run]
    assert states == ["queued", "running", "succeeded"]


def test_a_watch_hears_of_the_end_at_once(hub: Start, app: Path, dsn: str) -> None:
    """Left alone, it would look again about six seconds later."""
    url = hub("up", str(app), TOCSIN_DATABASE_URL=dsn).url

    async def follow() -> float:
        loop = asyncio.get_running_loop()
        cancelled_at: list[float] = []

        async def cancel(client: Client, run: UUID) -> None:
            await client.cancel_run(run)
            cancelled_at.append(loop.time())

        async with Client(url) as client, asyncio.timeout(60):
            run = (await client.fire("long"))["id"]
            async with aclosing(client.watch(run, longest=300)) as rows:
                async for row in rows:
                    if row["progress"] == "waiting" and row["cancel_requested_at"] is None:
                        # Its looks are 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 and 12.7 s after this one.
                        loop.call_later(7, asyncio.ensure_future, cancel(client, run))
            assert row["state"] == "cancelled"
            return loop.time() - cancelled_at[0]

    assert asyncio.run(follow()) < 3
