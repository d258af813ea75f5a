"""What one attempt has reported so far: its progress, its usage, its log and the runs that it asked for."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import copysign, isfinite
from sys import float_info
from threading import Lock
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

import msgspec

from tocsin.domain.errors import BadInput
from tocsin.domain.payload import encode
from tocsin.domain.run import FollowUp

MAX_LOG: Final = 64 * 1024
"""Characters of a log, as Python and PostgreSQL count them: code points."""

DROPPED: Final = "… further lines were dropped"
MAX_MESSAGE: Final = 1_000
MAX_MODELS: Final = 32
MAX_FOLLOW_UPS: Final = 100


class Told(NamedTuple):
    """How much of an attempt's reports has been told. moves: of its progress; pieces, characters: of its log.

    stream: over which, where it was told over one.
    """

    moves: int = 0
    pieces: int = 0
    characters: int = 0
    stream: int = 0


class News(NamedTuple):
    """What there is to tell beyond that; None: nothing. told: what has been told once this has.

    log: the text that follows the log's first ``log_from`` characters.
    """

    progress: str | None
    fraction: float | None
    usage: str | None
    log_from: int
    log: str | None
    told: Told


class RunReports:
    """One attempt's reports. Any thread may call; each call returns at once."""

    # Held for a few lines only, so one is enough for all attempts.
    _lock: ClassVar = Lock()

    # Most attempts report nothing: what they would report in is made when they do.
    message: str | None = None
    fraction: float | None = None
    used: dict[str, dict[str, Any]] | None = None
    follow_ups: Sequence[FollowUp] = ()
    dirty: bool = False
    advances: int = 0
    told: Told = Told()
    _moves: int = 0
    # Joined they are the log: each line but the first brings the line feed before it.
    _log: list[str] | None = None
    _log_size: int = 0
    _log_is_full: bool = False

    def __init__(self, run_id: UUID, fence: int, changed: Callable[["RunReports"], None]) -> None:
        self.run_id = run_id
        self.fence = fence
        self._changed = changed

    def progress(self, message: str, fraction: float | None) -> None:
        self.message = _storable(str(message))[:MAX_MESSAGE]
        if fraction is not None and isfinite(fraction):
            self.fraction = min(1.0, max(0.0, float(fraction)))
        self._moves += 1
        self._touch()

    def usage(self, figures: dict[str, Any]) -> None:
        """Numbers are added up per model; everything else replaces what was there."""
        figures = {key: value for key, value in figures.items() if value is not None}
        model = _storable(str(figures.pop("model", "")))[:200]
        # A copy: what the agent does to its lists later is its own affair.
        figures = msgspec.json.decode(encode(figures, what="usage"))
        with self._lock:
            used = self.used = {} if self.used is None else self.used
            if model not in used and len(used) >= MAX_MODELS:
                raise BadInput(f"usage for more than {MAX_MODELS} models in one attempt: add them up first")
            sums = used.setdefault(model, {})
            for key, value in figures.items():
                adds = isinstance(value, int | float) and isinstance(sums.get(key, 0), int | float)
                sums[key] = _sum(sums.get(key, 0), value) if adds else value
        self._touch()

    def take_usage(self, rows: str) -> None:
        """The sums as another process has them, as ``usage_json`` gives them; what is no such list changes nothing."""
        try:
            found = msgspec.json.decode(rows, type=list[dict[str, Any]])
        except msgspec.DecodeError:
            return
        if len(rows) <= MAX_LOG and len(found) <= MAX_MODELS:
            self.used = {_storable(str(row.pop("model", "")))[:200]: row for row in found}
            self._touch()

    def log(self, line: str) -> None:
        with self._lock:
            if self._log_is_full:
                return
            feed = "" if self._log is None else "\n"
            piece = feed + _storable(str(line))
            self._log_is_full = self._log_size + len(piece) >= MAX_LOG
            self._append(feed + DROPPED if self._log_is_full else piece)
        self._touch()

    def take_log(self, log_from: int, text: str) -> None:
        """The log as another process has it: the text that follows so many of its characters. It only ever grows:
        what is known already, and what leaves a gap, changes nothing.
        """
        with self._lock:
            more = text[self._log_size - log_from :] if log_from <= self._log_size else ""
            if self._log_is_full or not more:
                return
            room = MAX_LOG - self._log_size
            self._log_is_full = len(more) > room
            self._append(more.removesuffix(f"\n{DROPPED}")[:room] + f"\n{DROPPED}" if self._log_is_full else more)
        self._touch()

    def _append(self, piece: str) -> None:
        self._log = [] if self._log is None else self._log
        self._log.append(piece)
        self._log_size += len(piece)

    def follow_up(self, at: datetime | None, after: timedelta | None, payload: Any) -> None:
        encoded = encode(payload, what="input of a scheduled run").decode()
        with self._lock:
            if len(self.follow_ups) >= MAX_FOLLOW_UPS:
                raise BadInput(f"more than {MAX_FOLLOW_UPS} follow-ups from one run: schedule a trigger instead")
            self.follow_ups = (*self.follow_ups, FollowUp(at, after, encoded))

    def usage_json(self) -> str | None:
        """The sums as a JSON list of objects, one a model; None when nothing was reported. Never raises."""
        if self.used is None:
            return None
        with self._lock:
            rows = [({"model": model} if model else {}) | sums for model, sums in self.used.items()]
        try:
            return msgspec.json.encode(rows).decode()
        except Exception:
            # Whatever got past usage(): an attempt's end counts for more than its figures.
            return None

    def log_text(self) -> str | None:
        """The lines as one text; None without any. Never raises."""
        if self._log is None:
            return None
        with self._lock:
            return "".join(self._log)

    @property
    def has_log(self) -> bool:
        return self._log is not None

    @property
    def has_moved(self) -> bool:
        """Whether there is progress that has not been told."""
        return self._moves > self.told.moves

    def news(self, since: Told) -> News:
        """What there is to tell beyond what has been told."""
        # Before its text is read: what is said meanwhile is told once more.
        moves = self._moves
        has_moved = moves > since.moves
        with self._lock:
            pieces = self._log or []
            told = Told(moves, len(pieces), self._log_size, since.stream)
            more = "".join(pieces[since.pieces :]) if told.pieces > since.pieces else None
        return News(
            self.message if has_moved else None,
            self.fraction if has_moved else None,
            self.usage_json(),
            since.characters,
            more,
            told,
        )

    def advance(self) -> None:
        """The run has come further, whatever it says of it."""
        self.advances += 1

    def _touch(self) -> None:
        self.advances += 1
        if not self.dirty:
            self._changed(self)


def _sum(so_far: float, more: float) -> float:
    """Both together, as a number that JSON's readers take: past 64 bits a float, past those the largest."""
    total = so_far + more
    if isinstance(total, int) and -(2**63) <= total < 2**64:
        return total
    return float(total) if isfinite(total) else copysign(float_info.max, total)


def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot keep: NUL and lone surrogates."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode("utf-8")
