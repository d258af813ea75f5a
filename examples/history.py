"""What has changed in a directory: its git commits, or, where there is no git, its files by their time."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

LEFT_OUT: Final = {".git", ".venv", ".tocsin", "__pycache__", "node_modules"}
FIELDS: Final = "%H%x1f%an%x1f%at%x1f%s"
GIT: Final = ("git", "-c", "safe.directory=*", "--no-pager", "-C")


@dataclass(frozen=True, slots=True)
class Change:
    """One commit, or one file. area: the part of the tree that it touched most."""

    key: str
    author: str
    at: datetime
    title: str
    area: str


@dataclass(frozen=True, slots=True)
class Reading:
    """head: how far was read, for the next time; left: what the limit left over; note: what a reader should know."""

    place: Path
    source: str
    head: str | None
    changes: list[Change]
    left: int
    note: str | None = None


class NoHistory(Exception):
    """Git is not there, or the place is no repository."""


async def changes_of(
    place: Path, *, after: str | None, limit: int, report: Callable[[str, float | None], None]
) -> Reading:
    """The oldest changes after a cursor, at most ``limit``."""
    try:
        return await _commits(place, after, limit, report)
    except NoHistory as reason:
        return await asyncio.to_thread(_files, place, after, limit, f"{reason}: files by their time instead of commits")


async def _commits(place: Path, after: str | None, limit: int, report: Callable[[str, float | None], None]) -> Reading:
    note = None
    if after is not None and after.startswith("file:"):
        after = None
    if after is not None and not await _is_in_history(place, after):
        after, note = None, "The history was rewritten since the last digest, so it is read from its beginning."
    span = f"{after}..HEAD" if after else "HEAD"
    hashes = (await _git(place, "rev-list", "--reverse", span)).split()
    changes = []
    for number, commit in enumerate(hashes[:limit], start=1):
        changes.append(await _change(place, commit))
        report(f"read {changes[-1].title[:60]}", number / min(limit, len(hashes)))
    head = changes[-1].key if changes else after
    return Reading(place, "git", head, changes, len(hashes) - len(changes), note)


async def _is_in_history(place: Path, commit: str) -> bool:
    try:
        await _git(place, "merge-base", "--is-ancestor", commit, "HEAD")
    except NoHistory:
        return False
    return True


async def _change(place: Path, commit: str) -> Change:
    head, _, files = (await _git(place, "show", "--name-only", f"--format={FIELDS}", commit)).partition("\n")
    key, author, seconds, title = head.split("\x1f")
    return Change(key, author, datetime.fromtimestamp(int(seconds), UTC), title, _area(files.split("\n")))


def _area(files: list[str]) -> str:
    counts = Counter(str(Path(file).parent) for file in files if file)
    area = counts.most_common(1)[0][0] if counts else "."
    return "top" if area == "." else area


async def _git(place: Path, *words: str) -> str:
    """What git says. Raises: NoHistory."""
    if shutil.which("git") is None:
        raise NoHistory("git is not installed")
    process = await asyncio.create_subprocess_exec(
        *GIT, str(place), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode:
        raise NoHistory(f"{place.name} has no git history")
    return out.decode(errors="replace")


def _files(place: Path, after: str | None, limit: int, note: str) -> Reading:
    """Files in the order in which they were last written. The cursor is the last one's time and name."""
    found = []
    for directory, names, files in os.walk(place):
        names[:] = sorted(set(names) - LEFT_OUT)
        found += [Path(directory, name) for name in files]
    stamped = sorted((f"file:{file.stat().st_mtime_ns:020d}:{file}", file) for file in found if file.exists())
    new = [(key, file) for key, file in stamped if after is None or not after.startswith("file:") or key > after]
    changes = [
        Change(
            key,
            "somebody",
            datetime.fromtimestamp(file.stat().st_mtime, UTC),
            str(file.relative_to(place)),
            _area([str(file.relative_to(place))]),
        )
        for key, file in new[:limit]
    ]
    return Reading(place, "files", changes[-1].key if changes else after, changes, len(new) - len(changes), note)
