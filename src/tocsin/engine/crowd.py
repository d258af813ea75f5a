"""Many runners that serve the same agents: one of them is woken for work, and it passes on what it cannot take.

A hint that work is queued must not make a thousand runners ask for it. Runners of the same agents are a
group; of each group one with room is woken, in turn. One whose claim was filled wakes the next.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime

from tocsin.engine.runner import Runner


class Crowd:
    """Runners that come and go. wake: steps the loop of the runner."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], deque[tuple[Runner, Callable[[], None]]]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def join(self, runner: Runner, wake: Callable[[], None]) -> None:
        self._groups.setdefault(_group(runner), deque()).append((runner, wake))

    def leave(self, runner: Runner) -> None:
        group = self._groups.get(_group(runner), deque())
        for member in [one for one in group if one[0] is runner]:
            group.remove(member)
        if not group:
            self._groups.pop(_group(runner), None)

    def runners(self) -> list[Runner]:
        return [runner for group in self._groups.values() for runner, _ in group]

    def wake(self) -> None:
        """Of each group, the next that has room looks for work."""
        for group in self._groups.values():
            _wake_next(group)

    def wake_beside(self, runner: Runner) -> None:
        """This one has all it can take, and there may be more for its like."""
        _wake_next(self._groups.get(_group(runner), deque()), but=runner)

    def expect(self, ready_at: datetime) -> None:
        """Queued work becomes available at this instant: of each group, one with room comes then."""
        for group in self._groups.values():
            for runner, wake in group:
                if runner.has_room:
                    if runner.expect(ready_at):
                        wake()
                    break

    def held_back(self) -> bool:
        return any(runner.held_back for group in self._groups.values() for runner, _ in group)


def _group(runner: Runner) -> tuple[str, ...]:
    return tuple(sorted(runner.agents))


def _wake_next(group: deque[tuple[Runner, Callable[[], None]]], *, but: Runner | None = None) -> None:
    """The first with room goes to the end of the line."""
    for _ in range(len(group)):
        runner, wake = group[0]
        group.rotate(-1)
        if runner is not but and runner.has_room:
            wake()
            return
