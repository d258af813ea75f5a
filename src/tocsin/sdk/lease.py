"""How long what is in hand is ours, on this process's own clock.

The hub remembers us for ``dead_after`` from when it took a beat. Here the same time runs from when that
beat was *sent*, and ends a little earlier: from that instant on somebody else may have our runs.
"""

from typing import Final

SHARE: Final = 0.95
"""Of ``dead_after``: what is left is for stopping."""


class Lease:
    """Lives in the link's thread; instants are seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.seq = 0
        self._dead_after = 0.0
        self._since: float | None = None
        self._sent: dict[int, float] = {}

    @property
    def ends_at(self) -> float | None:
        """None where nothing was ever held, or nothing is any more."""
        return None if self._since is None else self._since + self._dead_after * SHARE

    @property
    def given_up_at(self) -> float | None:
        """From then on a hub may begin elsewhere what we had, whatever we say."""
        return None if self._since is None else self._since + self._dead_after

    def welcomed(self, hello_at: float, dead_after: float) -> None:
        """A hub goes on with us. hello_at: when the Hello was sent, which counts where no lease runs."""
        self._dead_after = dead_after
        if self._since is None:
            self._since = hello_at
        # An answer comes on the stream of its beat, or not at all.
        self._sent.clear()

    def sending(self, at: float) -> int:
        """The number of the beat that is about to be sent."""
        self.seq += 1
        self._sent[self.seq] = at
        return self.seq

    def taken(self, seq: int) -> bool:
        """The hub has taken this beat, and with it those before; False when it had answered it already."""
        sent_at = self._sent.get(seq)
        if sent_at is None:
            return False
        self._sent = {later: at for later, at in self._sent.items() if later > seq}
        if self._since is not None:
            self._since = max(self._since, sent_at)
        return True

    def end(self) -> None:
        """Nothing is held; the next Hello begins anew."""
        self._since = None
        self._sent.clear()
