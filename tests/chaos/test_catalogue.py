"""Every fault of the list has somebody who does it, and every crash point is on the way of a statement that is."""

import ast
from pathlib import Path

import pytest

from tests.chaos.__main__ import main
from tests.chaos.catalogue import TESTED, absent, catalogue, made
from tests.chaos.points import POINTS
from tocsin.store.statements import load

LISTED = {f"F{number}" for number in (*range(1, 24), *range(29, 45), 48)}
ROOT = Path(__file__).parents[2]


def test_every_fault_of_the_list_is_injected_by_a_course_or_by_a_test() -> None:
    injected = {name for faults in catalogue().values() for name in faults}
    assert injected.isdisjoint(absent())
    assert injected.isdisjoint(TESTED)
    assert injected | absent().keys() | TESTED.keys() >= LISTED


def test_every_test_that_injects_a_fault_is_there() -> None:
    for tests in TESTED.values():
        for one in tests:
            path, _, name = one.partition("::")
            functions = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")]
            assert name in {function.name for function in functions}, one


def test_every_fault_goes_by_its_id() -> None:
    names = [name for faults in catalogue().values() for name in faults]
    assert len(names) == len(set(names))
    assert [fault.name for fault in made(names)] == names


def test_what_this_machine_cannot_do_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.chaos.faults.pooler.ABSENT", {"F15": "no pgbouncer"})
    assert main(["one", "1", "F5,F15", "1"]) == 2
    assert capsys.readouterr().out == "F15 cannot be done here: no pgbouncer\n"


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_point_is_on_the_way_of_a_statement(point: str) -> None:
    side, _, statement = point.partition(":")
    assert side in ("before", "after", "found", "commit")
    assert statement in load()
