"""Every fault there is, by its id."""

import importlib
from pathlib import Path
from typing import Final

from tests.chaos import database_faults, process_faults, row_faults
from tests.chaos.fault import Catalogue, Fault

OWN: Final = {**process_faults.FAULTS, **database_faults.FAULTS, **row_faults.FAULTS}


def catalogue() -> dict[str, Catalogue]:
    """All faults: those of this folder, and those of each module of ``faults/`` that has ``FAULTS``."""
    found: dict[str, Catalogue] = {"own": OWN}
    for path in _modules():
        further = getattr(importlib.import_module(f"tests.chaos.faults.{path.stem}"), "FAULTS", None)
        if further is not None:
            found[path.stem] = further
    return found


def absent() -> dict[str, str]:
    """Faults that this machine cannot do, and what it lacks."""
    modules = [importlib.import_module(f"tests.chaos.faults.{path.stem}") for path in _modules()]
    return {name: why for module in modules for name, why in getattr(module, "ABSENT", {}).items()}


def made(names: list[str]) -> list[Fault]:
    """One of each of these faults.

    Raises: KeyError, for a name that is in no catalogue.
    """
    known = {name: make for faults in catalogue().values() for name, make in faults.items()}
    return [known[name]() for name in names]


def _modules() -> list[Path]:
    return sorted(Path(__file__).with_name("faults").glob("*.py"))
