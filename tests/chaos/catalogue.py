"""Every fault there is, by its id."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.chaos import (
    database_faults,
    instance_faults,
    played_faults,
    process_faults,
    release_faults,
    road_faults,
    row_faults,
)
from tests.chaos.fault import Catalogue, Fault

OWN: Final = {**process_faults.FAULTS, **database_faults.FAULTS, **row_faults.FAULTS}
OF_INSTANCES: Final = {
    **instance_faults.FAULTS,
    **road_faults.FAULTS,
    **played_faults.FAULTS,
    **release_faults.FAULTS,
}
"""Faults of agent processes, and of what is between them and the replicas."""

TESTED: Final[Mapping[str, Sequence[str]]] = {
    "F18": ["tests/chaos/test_primitives_database.py::test_steps_of_the_servers_clock_double_and_lose_nothing"],
    "F19": ["tests/chaos/test_primitives_database.py::test_changes_of_daylight_saving_are_lived_through_as_declared"],
    "F20": [
        "tests/chaos/test_primitives_replica.py::test_replicas_with_zones_of_two_releases_decide_each_instant_once"
    ],
    "F21": ["tests/chaos/test_primitives_database.py::test_a_full_disk_loses_nothing_that_was_acknowledged"],
    "F22": [
        "tests/chaos/test_primitives_replica.py::test_a_log_without_room_stops_nothing_and_goes_on_when_there_is",
        "tests/chaos/test_primitives_replica.py::test_a_hub_whose_output_goes_nowhere_ends_well",
    ],
    "F37": [
        "tests/store/test_migrate.py::test_of_many_migrators_at_once_one_migrates",
        "tests/store/test_migrate.py::test_a_migrator_that_is_killed_leaves_nothing",
        "tests/store/test_migrate.py::test_a_lock_that_is_not_had_in_time_is_named",
    ],
    "F41": [
        "tests/chaos/test_primitives_replica.py::test_a_replica_cut_off_by_dropped_packets_stops_and_comes_back",
        "tests/chaos/test_primitives_replica.py::"
        "test_a_database_whose_machine_is_gone_without_a_word_is_left_for_the_next_host",
    ],
    "F48": [
        "tests/chaos/test_primitives_database.py::"
        "test_a_backup_that_is_restored_counts_what_was_missed_and_refuses_old_tokens"
    ],
}
"""Faults that need a server, a clock or a network of their own: each has tests instead of a course."""


def catalogue() -> dict[str, Catalogue]:
    """All faults: those of this folder, and those of each module of ``faults/`` that has ``FAULTS``."""
    found: dict[str, Catalogue] = {"own": OWN, "instances": OF_INSTANCES}
    for path in _modules():
        further = getattr(importlib.import_module(f"tests.chaos.faults.{path.stem}"), "FAULTS", None)
        if further is not None:
            found[path.stem] = further
    return found


def absent() -> dict[str, str]:
    """Faults that this machine cannot do, and what it lacks."""
    modules = [importlib.import_module(f"tests.chaos.faults.{path.stem}") for path in _modules()]
    lacking = {name: why for module in modules for name, why in getattr(module, "ABSENT", {}).items()}
    return lacking | instance_faults.ABSENT | release_faults.ABSENT


def is_of_instances(name: str) -> bool:
    """Whether a course with this fault needs agent processes."""
    return name in OF_INSTANCES


def made(names: list[str]) -> list[Fault]:
    """One of each of these faults.

    Raises: KeyError, for a name that is in no catalogue.
    """
    known = {name: make for faults in catalogue().values() for name, make in faults.items()}
    return [known[name]() for name in names]


def _modules() -> list[Path]:
    return sorted(Path(__file__).with_name("faults").glob("*.py"))
