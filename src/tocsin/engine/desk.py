"""Where the planner asks the runners for slots, so that a due run can begin with its own insert."""

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from tocsin.domain.assignment import Assignment
from tocsin.engine.runner import Runner
from tocsin.store.leases import Incarnation


class Desk:
    """The runners by the agents they serve, and in whose name they claim."""

    def __init__(self, runners: Iterable[Runner], who: Incarnation) -> None:
        self.runners = {agent: runner for runner in runners for agent in runner.agents}
        self._who = who

    @property
    def holder(self) -> UUID:
        return self._who.holder


class Kept:
    """The slots that one batch has kept. Leaving gives back whatever was not begun."""

    def __init__(self, desk: Desk | None) -> None:
        self._runners = desk.runners if desk is not None else {}
        self._slots: Counter[Runner] = Counter()

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        for runner, slots in self._slots.items():
            runner.give_back(slots)

    def keep(self, agent: str) -> bool:
        """A slot is kept for one run of the agent; False when none is to be had here."""
        runner = self._runners.get(agent)
        if runner is None or not runner.keep():
            return False
        self._slots[runner] += 1
        return True

    def begin(self, assignments: Sequence[Assignment]) -> None:
        """Runs that were inserted as ours are executed."""
        shares: dict[Runner, list[Assignment]] = {}
        for assignment in assignments:
            shares.setdefault(self._runners[assignment.agent], []).append(assignment)
        for runner, share in shares.items():
            runner.begin(share)
