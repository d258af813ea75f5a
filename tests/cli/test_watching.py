"""What has changed of a run between two looks, and how it is told."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, cast
from uuid import UUID

import pytest

from tocsin.cli import watching
from tocsin.cli.exits import code_of
from tocsin.cli.operations import Operations
from tocsin.cli.watching import ENDS, changes, follow, told
from tocsin.domain.errors import HubUnavailable
from tocsin.domain.run import TERMINAL

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = UUID(int=7)


def a_run(*states: str, attempts: tuple[dict[str, Any], ...] = (), **fields: Any) -> dict[str, Any]:
    trail = [
        {"seq": seq, "to_state": state, "attempt": 1, "fence": 1, "reason": None, "actor": "x", "at": AT}
        for seq, state in enumerate(states, 1)
    ]
    known = {"id": RUN, "state": states[-1] if states else "queued", "queued_at": AT, "reason": None, "error": None}
    return {
        **known,
        "output": None,
        "cancel_requested_at": None,
        "transitions": trail,
        "attempts": list(attempts),
    } | fields


def an_attempt(fence: int = 1, **fields: Any) -> dict[str, Any]:
    silent = {"progress": None, "fraction": None, "progress_at": None, "usage": None, "log": None}
    return {"fence": fence, "attempt": fence} | silent | fields


def kinds(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    return [str(change.get("state") or change["change"]) for change in changes(before, now)]


def test_only_what_is_new_is_told_and_the_end_last() -> None:
    first = a_run("queued", "running", attempts=(an_attempt(progress="one", fraction=0.5),))
    assert kinds(None, first) == ["queued", "running", "progress"]
    assert kinds(first, first) == []
    last = a_run(
        "queued",
        "running",
        "succeeded",
        attempts=(an_attempt(progress="two", usage=[{"model": "m", "n": 1}], log="a\nb\n"),),
        output={"x": 1},
    )
    found = list(changes(first, last))
    assert [change["change"] for change in found] == ["progress", "log", "log", "usage", "state"]
    assert [change["line"] for change in found if "line" in change] == ["a", "b"]
    assert (found[-1]["state"], found[-1]["output"], found[-1]["error"]) == ("succeeded", {"x": 1}, None)


def test_a_line_of_a_log_is_told_once() -> None:
    before = a_run("queued", "running", attempts=(an_attempt(log="a"),))
    now = a_run("queued", "running", attempts=(an_attempt(log="a\nb"), an_attempt(2, log="c")))
    assert [(change["attempt"], change["line"]) for change in changes(before, now)] == [(1, "b"), (2, "c")]


def test_lines_are_told_as_they_come_and_an_end_repeats_none() -> None:
    logs = [None, "", "\n  a", "\n  a\n\nb", "\n  a\n\nb", "\n  a\n\nb\nc"]
    looks = [a_run("queued", "running", attempts=(an_attempt(log=log),)) for log in logs]
    looks.append(a_run("queued", "running", "succeeded", attempts=(an_attempt(log=logs[-1]),)))
    told = [[c["line"] for c in changes(*pair) if c["change"] == "log"] for pair in pairwise(looks)]
    assert told == [[], ["  a"], ["", "b"], [], ["c"], []]
    at_once = a_run("queued", "running", "succeeded", attempts=(an_attempt(log="a\n\nb\n"),))
    assert [change["line"] for change in changes(None, at_once) if change["change"] == "log"] == ["a", "", "b"]


def test_that_it_was_asked_to_stop_is_told_once() -> None:
    asked = a_run("queued", "running", cancel_requested_at=AT)
    assert kinds(a_run("queued", "running"), asked) == ["cancel_requested"]
    assert kinds(asked, asked) == []


def test_a_run_whose_trail_is_gone_is_told_by_its_state() -> None:
    assert kinds(None, a_run(state="failed", error="E: x")) == ["failed"]
    assert next(changes(None, a_run(state="failed", error="E: x")))["error"] == "E: x"


def test_every_end_has_a_code_and_they_differ() -> None:
    assert set(ENDS) == {state.value for state in TERMINAL}
    assert len(set(ENDS.values())) == len(ENDS)
    assert code_of(HubUnavailable("x")) == 3


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"change": "progress", "at": AT, "progress": "a\nb", "fraction": 0.5},
            "2026-03-01 12:00:00Z  progress    a b 50%",
        ),
        ({"change": "log", "at": None, "line": "hello"}, "                      log         hello"),
        ({"change": "usage", "at": None, "usage": [{"n": 1}]}, '                      usage       [{"n":1}]'),
        ({"change": "cancel_requested", "at": AT}, "2026-03-01 12:00:00Z  cancel requested"),
        (
            {"change": "state", "at": AT, "state": "failed", "error": "ValueError: one\n\ttwo", "reason": None},
            "2026-03-01 12:00:00Z  failed      ValueError: one two",
        ),
        (
            {"change": "state", "at": AT, "state": "running", "attempt": 2, "reason": None},
            "2026-03-01 12:00:00Z  running     attempt 2",
        ),
    ],
)
def test_a_change_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert told({"run": RUN, **fields}) == line


class Told:
    """A hub with one run, which ends after a while. served: by whom its agent is."""

    def __init__(self, *served: str, state: str = "queued") -> None:
        self._served = list(served)
        self._row = a_run(state, agent="digest", trigger="daily")

    async def watch(self, run: UUID, *, longest: float) -> AsyncIterator[dict[str, Any]]:
        yield self._row
        await asyncio.sleep(0.2)
        yield a_run("queued", "succeeded", agent="digest", trigger="daily")

    async def run(self, run: UUID) -> dict[str, Any]:
        return self._row

    async def agent(self, name: str) -> dict[str, Any]:
        return {"name": name, "replicas": self._served, "instances": []}


@pytest.mark.parametrize(
    ("hub", "said"),
    [
        (Told(), "nobody serves agent 'digest': the run waits until somebody does; see `tocsin agent list`"),
        (Told("hub-1"), "the run is queued still: `tocsin trigger why daily` tells more"),
        (Told(state="running"), None),
    ],
)
def test_a_run_that_waits_is_explained_after_a_while(
    hub: Told, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "UNEXPLAINED", 0.05)
    assert asyncio.run(follow(cast(Operations, hub), RUN, longest=1, json=False)) == 0
    assert capsys.readouterr().err == ("" if said is None else f"tocsin: {said}\n")


def test_what_an_agent_says_does_not_speak_to_the_terminal() -> None:
    run = a_run("queued", "running", attempts=(an_attempt(log="a\x1b]0;b\x07\x9bc é"),))
    line = told(next(change for change in changes(None, run) if "line" in change))
    assert line.endswith("a\\x1b]0;b\\x07\\x9bc é")
