"""How the free slots of one executor are shared out: between its agents, and between live and late work."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from tocsin.domain.run import Lane
from tocsin.store.attempts import Claimed, Quota

LATE_SHARE: Final = 0.2
"""Of the slots, for caught-up and backfilled work."""


class Shares:
    """Round robin between agents. One that had nothing last time costs the others nothing: shares are of those
    that had.
    """

    def __init__(self, agents: Sequence[str]) -> None:
        self._agents = list(agents)
        self._busy = 1
        self._turn = 0

    def quotas(self, free: int, *, slots: int, late: int) -> list[Quota]:
        """Shares of so many free slots; the late lane within its fifth of all, of which so many are taken."""
        self._turn = (self._turn + 1) % len(self._agents)
        order = self._agents[self._turn :] + self._agents[: self._turn]
        share = ceil(free / self._busy)
        left = max(1, int(slots * LATE_SHARE)) - late
        late_share = max(1, left // len(order))
        quotas = [Quota(agent, Lane.LATE.value, late_share) for agent in order[: max(0, left // late_share)]]
        return quotas + [Quota(agent, Lane.LIVE.value, share) for agent in order]

    def is_more(self, claimed: Claimed, quotas: Sequence[Quota], free: int, *, has_room: bool) -> bool:
        """Whether another claim could bring more: some quota was used up."""
        taken: dict[tuple[str, str], int] = {}
        for assignment in claimed.assignments:
            key = (assignment.agent, assignment.lane)
            taken[key] = taken.get(key, 0) + 1
        self._busy = max(1, len({agent for agent, _ in taken}))
        if claimed.skipped or claimed.passed_over:
            return True
        if sum(taken.values()) >= free:
            return has_room
        return any(taken.get((quota.agent, quota.lane), 0) >= quota.count for quota in quotas if quota.count)
