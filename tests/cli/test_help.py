"""``tocsin --help`` costs nothing, and misuse is told in one line."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.core
from typer.main import get_command

from tests.cli.conftest import Answer
from tocsin.cli.program import program

HEAVY = (
    "asyncio",
    "asyncpg",
    "fastapi",
    "pydantic",
    "pydantic_settings",
    "rich",
    "structlog",
    "uvicorn",
    "msgspec",
    "zoneinfo",
    "grpc",
)

Tocsin = Callable[..., Answer]


def test_help_imports_nothing_that_only_a_command_needs() -> None:
    program = (
        "import sys; from tocsin.cli import main; main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr.strip() == "[]"
    assert "Commands:" in done.stdout


def test_help_is_there_at_once(process: Tocsin) -> None:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        assert process("--help").code == 0
        times.append(time.perf_counter() - begun)
    # 0.1 s on an idle machine; the bound is for a loaded one.
    assert min(times) < 0.6


@pytest.mark.parametrize("words", [[], ["trigger"], ["run"], ["agent"], ["replica"], ["key"], ["import"]])
def test_no_summary_of_a_command_is_cut_short(tocsin: Tocsin, words: list[str]) -> None:
    assert "..." not in tocsin(*words, "--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["trigger", "run", "agent", "replica", "import", "up", "work", "next", "doctor"])
def test_every_command_explains_itself(tocsin: Tocsin, command: str) -> None:
    answer = tocsin(command, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: tocsin {command}")
    assert answer.err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nxt"], "next"),
        (["next"], "EXPR"),
        (["run", "list", "--limit", "0"], "--limit"),
        (["run", "list", "--limit", "many"], "--limit"),
        (["trigger", "list", "--jsn"], "--jsn"),
        (["up"], "APP"),
    ],
)
def test_misuse_is_one_line_that_names_the_help(tocsin: Tocsin, words: list[str], told: str) -> None:
    answer = tocsin(*words)
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.lines
    assert line.startswith("tocsin: ")
    assert told in line
    assert "--help`" in line


def test_the_version_is_told(tocsin: Tocsin) -> None:
    assert tocsin("--version").out.startswith("tocsin 0.")


@pytest.mark.parametrize("words", [["serve"], ["run", "list"]])
def test_what_a_hub_needs_is_named_where_it_is_missing(words: list[str], environment: dict[str, str]) -> None:
    """As after ``pip install 'tocsin[agent]'``."""
    program = (
        "import sys; sys.modules.update(asyncpg=None, uvicorn=None); "
        f"from tocsin.cli.program import run_command; sys.exit(run_command({words!r}))"
    )
    settings = environment | {"TOCSIN_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("is not installed: pip install 'tocsin[hub]'")


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("trigger fire", "{NAME}"), ("trigger why", "{NAME}"), ("agent show", "{NAME}"), ("replica show", "{NAME}"),
        ("instance show", "{NAME}"), ("key create", "{NAME}"), ("key revoke", "{NAME}"), ("event show", "{NUMBER}"),
        ("run show", "{ID}"), ("completion", "{SHELL}"), ("serve", "[APP]"),
    ],
)  # fmt: skip
def test_what_is_to_be_named_stands_in_capitals(tocsin: Tocsin, words: str, usage: str) -> None:
    assert tocsin(*words.split(), "--help").out.splitlines()[0] == f"Usage: tocsin {words} [OPTIONS] {usage}"


def test_each_option_says_what_it_takes_in_a_word_of_its_own() -> None:
    """Else a help page has the types of Python, such as ``<list[str]>``."""

    def options(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield from ((f"{path} {one.name}", one) for one in command.params if isinstance(one, typer.core.TyperOption))
        for name, below in getattr(command, "commands", {}).items():
            yield from options(below, f"{path} {name}")

    given = [(path, one.metavar) for path, one in options(get_command(program()), "tocsin") if not one.is_flag]
    assert len(given) > 50
    assert [path for path, metavar in given if metavar is None] == []
