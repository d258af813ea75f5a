"""A program's stderr, cut into lines and bounded: as much as it likes to write, it is never blocked."""

from collections.abc import Callable
from typing import Final

from tocsin.domain.payload import plain

MAX_LINE: Final = 4 * 1024
MAX_TOTAL: Final = 64 * 1024


class LogLines:
    """Hands each line on, cut to MAX_LINE bytes, until MAX_TOTAL; then says once that it stops.

    last: the last line that was not blank, also past the bound.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._partial = bytearray()
        self._left = MAX_TOTAL
        self.last = ""

    def feed(self, data: bytes) -> None:
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._append(part)
            self._end()
        self._append(rest)

    def close(self) -> None:
        """What was written without a line's end is a line too."""
        if self._partial:
            self._end()

    def _append(self, part: bytes) -> None:
        self._partial += part[: MAX_LINE + 1 - len(self._partial)]

    def _end(self) -> None:
        cut = len(self._partial) > MAX_LINE
        line = plain(self._partial[:MAX_LINE].decode(errors="replace").rstrip("\r"), MAX_LINE) + ("…" if cut else "")
        size = len(self._partial) + 1
        self._partial.clear()
        if line.strip():
            self.last = line
        if self._left <= 0:
            return
        self._left -= size
        if self._left > 0:
            self._log(line)
        else:
            self._left = 0
            self._log(f"… truncated: only the first {MAX_TOTAL // 1024} KiB of stderr are kept")
