"""Exit codes, and the one table from errors to them.

0 done · 1 refused or not found · 2 bad usage or bad input · 3 no database, or no hub · 4 drained with work released
5 and 6, of a run that was watched: cancelled, skipped
"""

import sys
from typing import Final

from tocsin.domain.errors import (
    BadInput,
    DatabaseUnavailable,
    EmbeddedFailed,
    HubUnavailable,
    InvalidApp,
    InvalidSetting,
    StatementRefused,
    TocsinError,
)

DONE: Final = 0
REFUSED: Final = 1
BAD_INPUT: Final = 2
NO_DATABASE: Final = 3
RELEASED: Final = 4
CANCELLED: Final = 5
SKIPPED: Final = 6
INTERRUPTED: Final = 130

#: The first that fits counts; whatever is not here was refused.
CODES: Final[tuple[tuple[type[TocsinError], int], ...]] = (
    (BadInput, BAD_INPUT),
    (DatabaseUnavailable, NO_DATABASE),
    (EmbeddedFailed, NO_DATABASE),
    (HubUnavailable, NO_DATABASE),
    (TocsinError, REFUSED),
)


def code_of(error: TocsinError) -> int:
    return next(code for kind, code in CODES if isinstance(error, kind))


def lines_of(error: TocsinError) -> list[str]:
    """One line for each fault; a text of several lines becomes one."""
    if isinstance(error, InvalidSetting | InvalidApp):
        return [_one_line(fault) for fault in error.faults]
    line = _one_line(str(error))
    if isinstance(error, DatabaseUnavailable) and "`tocsin" not in line and "TOCSIN_" not in line:
        line += "; check TOCSIN_DATABASE_URL, or ask `tocsin doctor`"
    if isinstance(error, StatementRefused) and "prepared statement" in line:
        line += "; behind a transaction pooler, set TOCSIN_DB_POOLER=transaction"
    if isinstance(error, StatementRefused) and "permission denied" in line:
        line += "; `tocsin doctor` says what is missing"
    return [line]


def say(line: str) -> None:
    """One line to the person, on stderr."""
    try:
        sys.stderr.write(f"tocsin: {line}\n")
    except (OSError, ValueError):
        return


def _one_line(text: str) -> str:
    return " ".join(text.split())
