"""Log (n) and what else the harness itself notes: one JSON line per event, stamped on the monotonic clock."""

import json
import os
import time
from pathlib import Path
from typing import Any, Final


class Journal:
    """Appends to one file; a line is whole or absent, whoever dies. Any process may open the same one."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, what: str, **fields: Any) -> None:
        """The event stands in the file, with ``mono`` in seconds of CLOCK_MONOTONIC."""
        line = json.dumps({"mono": time.monotonic(), "what": what, **fields}, default=str, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every event of a file, in its order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
