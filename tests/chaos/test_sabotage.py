"""A fleet with a guard taken out is caught by the invariant that is meant for it; the page says so for all."""

import re

import pytest

from tests.chaos.__main__ import PAGE, noticed
from tests.chaos.sabotage import BEGIN, END, HOLES, NAMED
from tocsin.testing.history.checker import DECIDED


def rows() -> list[list[str]]:
    """The cells of the page's table, its head first."""
    page = PAGE.read_text()
    table = page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table if not re.match(r"\|-", line)]


def test_every_invariant_that_is_decided_has_a_guard_that_it_watches() -> None:
    assert sorted({hole.caught_by for hole in HOLES.values()}, key=lambda name: int(name[1:])) == DECIDED


def test_the_page_shows_every_guard_noticed_by_its_invariant() -> None:
    head, *body = rows()
    assert head[1:] == DECIDED
    assert [row[0] for row in body] == [hole.says for hole in HOLES.values()]
    for row, hole in zip(body, HOLES.values(), strict=True):
        assert row[head.index(hole.caught_by)] == "**×**", f"{hole.says}: python -m tests.chaos sabotage --write"


@pytest.mark.parametrize("name", NAMED)
async def test_a_fleet_without_a_guard_is_caught(name: str) -> None:
    assert (await noticed(name))[HOLES[name].caught_by]
