"""Follows the feed for all readers of one replica: a look every few hundredths of a second, and none without readers.

Reads: what was committed since the last look. Writes: that the feed is wanted, every few seconds; the first reader
anywhere switches it on. If the process dies, its readers go to another replica with the position that they were told
last; the feed stays on for its retention, so that nothing is missing there.

A look that fails is made again from where the last one stood. When the feed turns out to be another one than before (it
was off in between, or the server is another), or what comes next was dropped already, there is a new history, and every
reader finds that out.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, Protocol

from tocsin.clock import Clock
from tocsin.domain.errors import DatabaseUnavailable
from tocsin.domain.feed import Position, Snapshot
from tocsin.engine.history import MOST_EVENTS, Batch, History
from tocsin.store.feed import MARK_EVERY, Feed, Page, Standing
from tocsin.telemetry import Log

EVERY: Final = 0.025
"""Seconds from look to look. One that took longer, its telling included, is followed by a rest as long as this."""

PAGE: Final = 2_000
PRELOADED: Final = 5_000
"""Transitions that a replica looks back for its first reader, so that those who come with it need not each ask."""

LOOKS_WITHIN: Final = 10.0
PAGES_AT_ONCE: Final = 2

Gap = Literal["expired", "renewed"]
"""Why transitions may be missing: they are older than what is kept; or the feed is another one than it was."""


class Follower(Protocol):
    def wake(self) -> None:
        """There is something new."""
        ...


class Tail:
    """wake: of its loop."""

    name = "stream"

    def __init__(
        self,
        *,
        feed: Feed,
        clock: Clock,
        log: Log,
        wake: Callable[[], None],
        every: float = EVERY,
        page: int = PAGE,
        most_events: int = MOST_EVENTS,
    ) -> None:
        self.feed = feed
        self.history: History | None = None
        self.paging = asyncio.Semaphore(PAGES_AT_ONCE)
        self._clock = clock
        self._log = log
        self._wake = wake
        self._every = every
        self._page = page
        self._most_events = most_events
        self._took = 0.0
        self._marked_at: float | None = None
        self._standing: Standing | None = None
        self._followers: set[Follower] = set()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_followed(self) -> bool:
        return bool(self._followers)

    def rest(self) -> float | None:
        if not self._followers:
            return None
        return max(self._every - self._took, min(self._every, self._took))

    def join(self, follower: Follower) -> None:
        self._followers.add(follower)
        self._wake()

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)

    async def looked(self) -> tuple[History, Standing]:
        """What is remembered, and how the feed stands, after a look that begins later than this call.

        Raises: StoreError.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wake()
        try:
            async with asyncio.timeout(LOOKS_WITHIN):
                await future
        except TimeoutError:
            raise DatabaseUnavailable("the feed of transitions was not read in time") from None
        assert self.history is not None  # a look leaves both
        assert self._standing is not None
        return self.history, self._standing

    async def run_once(self) -> bool:
        waiting, self._waiting = self._waiting, []
        if not self._followers:
            self.history = self._marked_at = None
            return False
        began = self._clock.monotonic()
        try:
            await self._look()
        except BaseException as error:
            for future in waiting:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else DatabaseUnavailable("it ends"))
            raise
        self._took = self._clock.monotonic() - began
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return False

    async def _look(self) -> None:
        await self._want()
        history = self.history or await self._begin()
        base = history.end.base
        page = await self.feed.read(base, limit=self._page)
        if why_missed(history.end, page.standing) is not None:
            await self._begin_anew()
            return
        await self._take(history, base, page.standing.snapshot, page)
        while history.end.target is not None:
            await self._read_on(history, base, history.end.target)

    async def _read_on(self, history: History, base: Snapshot, target: Snapshot) -> None:
        """One more part of what the look has seen."""
        await self._clock.sleep(self._every)
        page = await self.feed.page(base, target, after=history.end.last, limit=self._page)
        await self._take(history, base, target, page)

    async def _take(self, history: History, base: Snapshot, target: Snapshot, page: Page) -> None:
        self._standing = page.standing
        is_whole = len(page.rows) < self._page
        history.add(Batch(page.rows, life=history.life, base=base, target=target, is_whole=is_whole))
        if page.rows:
            self._wake_followers()
            # All who were woken have their turn before us, so that what it takes to tell them counts as ours.
            await asyncio.sleep(0)

    async def _want(self) -> None:
        now = self._clock.monotonic()
        if self._marked_at is not None and now - self._marked_at < MARK_EVERY.total_seconds() / 2:
            return
        life, is_new = await self.feed.want()
        self._marked_at = now
        if is_new:
            self._log.info("feed.on", life=life)

    async def _begin(self) -> History:
        """A history that reaches back a little. Raises: DatabaseUnavailable, when the feed is off again."""
        standing = (await self.feed.read(Snapshot(1, 1), limit=0)).standing
        if standing.life is None:
            self._marked_at = None
            raise DatabaseUnavailable("the feed of transitions was switched off just now")
        start = await self.feed.recent(standing, keep=min(PRELOADED, self._most_events))
        self.history = History(life=standing.life, start=start, most_events=self._most_events)
        return self.history

    async def _begin_anew(self) -> None:
        """What comes next is not to be had: all followers go on with what there is."""
        self.history = self._marked_at = None
        await self._look()
        self._wake_followers()

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.wake()


def why_missed(position: Position, standing: Standing) -> Gap | None:
    """Why somebody who goes on from there may miss transitions; None, when nobody does."""
    if position.life != standing.life or position.newest.xmax > standing.snapshot.xmax:
        return "renewed"
    return None if standing.floor is not None and standing.floor.is_within(position.base) else "expired"
