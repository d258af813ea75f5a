"""``tocsin audit`` and ``trigger why``: who did what, as a person reads it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer

Tocsin = Callable[..., Answer]
SECRET = "hunter2-in-an-input"


@pytest.fixture
def declared(tocsin: Tocsin, app: Path, dsn: str) -> Tocsin:
    """Commands on a database that knows the app."""

    def run(*words: str, **settings: str) -> Answer:
        return tocsin(*words, TOCSIN_DATABASE_URL=dsn, **settings)

    assert run("sync", str(app)).code == 0
    return run


def test_who_paused_it_is_one_command_away(declared: Tocsin) -> None:
    declared("trigger", "pause", "yearly", "--reason", "incident", "--until", "2199-01-01")
    told = declared("trigger", "why", "yearly").out
    line = next(line for line in told.splitlines() if "paused  " in line)
    assert re.search(r"Z  paused   cli:\S+@\S+  for incident until 2199-01-01 00:00:00Z$", line)
    head = declared("trigger", "why", "yearly", "--json").objects[0]
    assert [change["action"] for change in head["changes"]] == ["paused", "created"]


def test_the_audit_is_a_line_for_each_change(declared: Tocsin, app: Path) -> None:
    declared("trigger", "edit", "yearly", "--priority", "7", "--input", f'"{SECRET}"')
    declared("trigger", "resume", "yearly")
    declared("trigger", "pause", "yearly")
    declared("trigger", "resume", "yearly")
    declared("key", "create", "ci", "--scope", "operate")
    run = declared("trigger", "fire", "by-hand", "--json").objects[0]["id"]
    declared("run", "cancel", run)
    listed = declared("audit", "--limit", "5", COLUMNS="200")
    assert [re.split(r"  +", line, maxsplit=3)[2:] for line in listed.out.splitlines()[1:]] == [
        ["cancelled", f"run of by-hand  id {run}, was queued"],
        ["created", "key ci          scopes operate"],
        ["resumed", "trigger yearly  from user"],
        ["paused", "trigger yearly  for user"],
        ["changed", "trigger yearly  version 2, priority: 5 → 7, input"],
    ]
    assert listed.lines == ["tocsin: 5 shown; --all shows every one"]
    everything = declared("audit", "--all", "--json")
    assert len({row["id"] for row in everything.objects}) == len(everything.objects) == 5 + 4 + 6
    assert {row["actor"].partition(":")[0] for row in everything.objects} == {"cli"}
    assert SECRET not in listed.out + everything.out


def test_it_is_filtered_by_trigger_actor_action_and_time(declared: Tocsin) -> None:
    declared("trigger", "pause", "yearly")
    (row,) = declared("audit", "--trigger", "yearly", "--action", "paused", "--since", "1h", "--json").objects
    assert declared("audit", "--actor", row["actor"], "--action", "paused", "--json").objects == [row]
    assert declared("audit", "--actor", "key:nobody").out == "nothing on record\n"
    assert declared("audit", "--until", "1h", "--json").objects == []
    for words, code, line in (
        (["--action", "eaten"], 2, "action 'eaten': must be one of created, changed"),
        (["--trigger", "yearlx"], 1, "did you mean 'yearly'?"),
        (["--since", "soon"], 2, "'soon': must be ISO 8601"),
        (["--limit", "3", "--all"], 2, "exclude each other"),
    ):
        refused = declared("audit", *words)
        assert (refused.code, refused.out) == (code, ""), words
        assert line in refused.lines[-1]
