"""Who is let in, and for which agents: by a key, which the hub knows only by its digest.

Keys are asked for once there is one of the scope ``agent``, and wherever the hub can be reached from another host.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.engine.keys import ANY, digest_of
from tocsin.store.keys import KeyRows


class Unauthenticated(Exception):
    """No key, or one that opens nothing."""


class Forbidden(Exception):
    """The key is for other agents."""


@dataclass(frozen=True, slots=True)
class Door:
    """is_open: without any key, processes of this host may come in."""

    rows: KeyRows
    is_open: bool

    async def let_in(self, authorization: str, agents: Sequence[str]) -> str | None:
        """The name of the key; None where none is asked for. authorization: the header's value, or "".

        Raises: Unauthenticated, Forbidden, StoreError.
        """
        scheme, _, key = authorization.partition(" ")
        is_given = scheme.lower() == "bearer" and bool(key.strip())
        wanted, name, allowed = await self.rows.of_agent(digest_of(key.strip()))
        if is_given and name is not None:
            others = [agent for agent in agents if agent not in allowed and ANY not in allowed]
            if others:
                raise Forbidden(f"key {name!r} is not for {', '.join(map(repr, sorted(others)))}")
            await self.rows.touch(name)
            return name
        if is_given:
            raise Unauthenticated("the key is not known here, or was revoked, or has expired: `tocsin key create`")
        if wanted or not self.is_open:
            raise Unauthenticated("a key is asked for: `tocsin key create`, then TOCSIN_AGENT_KEY for the process")
        return None
