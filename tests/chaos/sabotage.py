"""Guards of the hub, each taken out by name in a replica's process, to see who notices."""

from tests.chaos.fleet import Fleet


def install(name: str) -> None:
    """The guard of that name is gone from this process; "" takes out nothing."""
    assert not name


async def prepare(name: str, fleet: Fleet) -> None:
    """The guard of that name is gone from the database."""
