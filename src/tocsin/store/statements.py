"""Named SQL blocks, read from ``sql/*.sql`` once and bound from ``:named`` to positional parameters.

A block begins with ``-- name: WORD`` and a comment line of purpose. A parameter keeps one position
however often it appears. ``::type`` casts and quoted texts are left alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

_HEAD: Final = re.compile(r"^-- name: (?P<name>\w+)[ \t]*$", re.MULTILINE)
_TOKEN: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|::|:(?P<param>[a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One block, ready for the driver. parameters: their names in the order of $1, $2, …"""

    name: str
    text: str
    parameters: tuple[str, ...]


class Statements(Mapping[str, Statement]):
    """Every block by its name."""

    def __init__(self, blocks: Mapping[str, Statement]) -> None:
        self._blocks = dict(blocks)

    def __getitem__(self, name: str) -> Statement:
        return self._blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def altered(self, name: str, old: str, new: str) -> "Statements":
        """The same blocks with a piece of one replaced: how a test breaks a guard on purpose.

        Raises: ValueError, if the piece is not there.
        """
        text = self._blocks[name].text
        if old not in text:
            raise ValueError(f"{name} has no {old!r}")
        block = self._blocks[name]
        return Statements(self._blocks | {name: Statement(name, text.replace(old, new), block.parameters)})


def parse(text: str) -> dict[str, Statement]:
    """The blocks of one file.

    Raises: ValueError, for text before the first block or a name given twice.
    """
    heads = list(_HEAD.finditer(text))
    before = text[: heads[0].start()] if heads else text
    if any(line.strip() and not line.startswith("--") for line in before.splitlines()):
        raise ValueError("SQL before the first block")
    blocks: dict[str, Statement] = {}
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        name = head["name"]
        if name in blocks:
            raise ValueError(f"block {name} stands twice")
        blocks[name] = bind(name, text[head.end() : following.start() if following else len(text)])
    return blocks


def bind(name: str, text: str) -> Statement:
    """One block with ``:name`` turned into ``$n``."""
    order: list[str] = []

    def positional(token: re.Match[str]) -> str:
        param = token["param"]
        if param is None:
            return "" if token[0].startswith("--") else token[0]
        if param not in order:
            order.append(param)
        return f"${order.index(param) + 1}"

    bound = _TOKEN.sub(positional, text)
    lines = [line.rstrip() for line in bound.splitlines() if line.strip()]
    return Statement(name, "\n".join(lines), tuple(order))


@cache
def load() -> Statements:
    """Every block of the package, under one roof; a name is used once over all files."""
    blocks: dict[str, Statement] = {}
    for entry in sorted(resources.files("tocsin.store").joinpath("sql").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".sql"):
            found = parse(entry.read_text(encoding="utf-8"))
            twice = blocks.keys() & found.keys()
            if twice:
                raise ValueError(f"block {twice.pop()} stands in two files")
            blocks |= found
    return Statements(blocks)
