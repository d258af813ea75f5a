"""A small disk of the test's own, filled and freed."""

import contextlib
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MISSING: Final = "only root may mount a disk of its own, and not in every container"
_BLOCK: Final = b"\0" * 65_536


class Disk:
    """A directory with so many bytes and no more."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._ballast = directory / "ballast"

    @property
    def free(self) -> int:
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def fill(self) -> int:
        """Not a block is left; how many bytes it took."""
        taken = 0
        with self._ballast.open("ab", buffering=0) as ballast:
            while True:
                try:
                    taken += ballast.write(_BLOCK)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return taken

    def empty(self) -> None:
        """What ``fill`` took is free again."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Disk]:
    """Raises: OSError, where no disk may be mounted."""
    directory = Path(tempfile.mkdtemp(prefix="tocsin-disk-"))
    try:
        _command("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(directory))
        try:
            yield Disk(directory)
        finally:
            # Whoever still writes there keeps it; nobody sees it any more.
            _command("umount", "--lazy", str(directory))
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()


def can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        with small_disk(1):
            return True
    except OSError:
        return False


def _command(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
