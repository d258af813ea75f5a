"""The tutorials are run, block by block, so that they cannot rot."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIALS = {"tutorial.md": 20, "tutorial/webhook.md": 18}
"""With so many commands and more."""

ADDRESS = "127.0.0.1:8620"
"""As it stands on the page; a test has a port of its own."""

BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
LIMIT = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One command and the lines that it must print, in this order, among others."""

    command: str
    expected: tuple[str, ...]


def blocks(page: str) -> Iterator[tuple[str | None, str, str]]:
    for found in BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")):
        yield found["file"], found["kind"], found["text"]


def steps_of(console: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip("\n").split("\n")
        yield Step(command, tuple(expected))


def matches(pattern: str, line: str) -> bool:
    """Whether the line reads as the pattern does; ``…`` is anything, and blanks count once."""
    pieces = [re.escape(" ".join(piece.split())) for piece in pattern.split("…")]
    return re.fullmatch(".*".join(pieces).replace(r"\ ", " ?"), " ".join(line.split())) is not None


def missing(expected: tuple[str, ...], printed: list[str]) -> str | None:
    """The first expected line that does not come, after the ones before it."""
    rest = iter(printed)
    return next((line for line in expected if not any(matches(line, shown) for shown in rest)), None)


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", TUTORIALS)
async def test_the_tutorial_does_what_it_says(dsn: str, tmp_path: Path, page: str) -> None:
    address = free_address()
    env = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    env |= {
        "TOCSIN_DATABASE_URL": dsn,
        "TOCSIN_HTTP_BIND": address,
        "TOCSIN_GRPC_BIND": "127.0.0.1:0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "COLUMNS": "200",
    }
    ran = 0
    for file, kind, shown in blocks(page):
        text = shown.replace(ADDRESS, address)
        if file is not None:
            (tmp_path / file).write_text(text, encoding="utf-8")
        elif kind == "console":
            for step in steps_of(text):
                done = subprocess.run(
                    ["bash", "-c", step.command],
                    cwd=tmp_path,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=LIMIT,
                    check=False,
                )
                assert done.returncode == 0, f"$ {step.command}\n{done.stdout}"
                absent = missing(step.expected, done.stdout.splitlines())
                assert absent is None, f"$ {step.command}\nhas no line {absent!r} in its place:\n{done.stdout}"
                ran += 1
    assert ran > TUTORIALS[page]


def test_a_line_that_does_not_come_is_missed() -> None:
    assert missing(("a … c", "d"), ["a b c", "e", "d"]) is None
    assert missing(("d", "a … c"), ["a b c", "d"]) == "a … c"
    assert missing(("… state=succeeded …",), ["x state=failed y"]) == "… state=succeeded …"


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_python_block_is_a_file_or_none(page: str) -> None:
    """A block that is shown but not written would never be run."""
    assert [text for file, kind, text in blocks(page) if kind in {"python", "toml"} and file is None] == []
