"""``/healthz`` while the process lives, ``/readyz`` while it takes work: two answers that need no framework."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

PATHS: Final = ("/healthz", "/readyz")

Readiness = Callable[[], str | None]
"""Why the process takes no work; None when it does."""


@dataclass(frozen=True, slots=True)
class Health:
    version: str
    readiness: Readiness

    def answer(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """(status, body) for one of ``PATHS``."""
        if method not in ("GET", "HEAD"):
            return 405, {"error": "method_not_allowed", "message": f"{path} is read with GET"}
        if path == "/healthz":
            return 200, {"status": "alive", "version": self.version}
        reason = self.readiness()
        return (200, {"status": "ready"}) if reason is None else (503, {"status": "unready", "reason": reason})
