"""A run that is followed until it is over. Reads only: whoever leaves changes nothing."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeVar

from tocsin.domain.run import TERMINAL

T = TypeVar("T", bound=Any)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0


async def watched(
    look: Callable[[], Awaitable[T]], wait: Callable[[float], Awaitable[object]], *, longest: float = LONGEST_PAUSE
) -> AsyncGenerator[T, None]:
    """The run as it is, then each time that anything of it has changed; the last one has ended.

    wait: returns after so many seconds, or sooner when something may have happened. The pauses grow from a tenth of a
    second to ``longest`` while nothing changes.
    """
    seen: T | None = None
    pause = FIRST_PAUSE
    while True:
        run = await look()
        if run != seen:
            yield run
            seen, pause = run, FIRST_PAUSE
        if run["state"] in TERMINAL:
            return
        await wait(min(pause, longest))
        pause *= 2
