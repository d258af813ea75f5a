"""What agents, and the tap on the answers to them, have noted in all ledgers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos.journal import read_journal


def entries(ledgers: Path, what: str) -> list[dict[str, Any]]:
    """What agents and answers have noted, in the order of the clock."""
    found = [entry for ledger in ledgers.iterdir() for entry in read_whole(ledger) if entry["what"] == what]
    return sorted(found, key=lambda entry: float(entry["mono"]))


def read_whole(ledger: Path) -> Iterable[dict[str, Any]]:
    try:
        return read_journal(ledger)
    except json.JSONDecodeError:  # somebody is writing
        return []
