"""What all listings share: --json, --limit, --all, and going through pages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

import typer

from tocsin.cli.operations import Row
from tocsin.cli.output import emit
from tocsin.domain.errors import BadInput

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object a line, nothing else.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, max=100_000, metavar="N", help="How many at most; 50 when left out.")
]
All = Annotated[bool, typer.Option("--all", help="Everything there is, page by page.")]
Fetch = Callable[[int, Any], Awaitable[list[Row]]]
"""(how many at most, the key of the last one in hand) → rows."""

DEFAULT_LIMIT: Final = 50
PAGE: Final = 500


def limit_of(limit: int | None, *, everything: bool = False) -> int:
    """How many rows at most.

    Raises: BadInput, when both --limit and --all were given.
    """
    if limit is not None and everything:
        raise BadInput("--limit and --all exclude each other: give one of them")
    return DEFAULT_LIMIT if limit is None else limit


def tell_cut(shown: int, limit: int, how: str = "--all shows every one") -> None:
    """A note on stderr where a listing ends at its limit, so that there may be more."""
    if shown >= limit:
        typer.echo(f"tocsin: {shown} shown; {how}", err=True)


async def gathered(fetch: Fetch, *, key: str, limit: int, everything: bool, json: bool) -> list[Row] | None:
    """The rows of such a listing, for a table; None where they were printed as they came, as JSON."""
    rows = []
    async for row in pages(fetch, key=key, limit=limit, everything=everything):
        if json:
            emit(row)
        else:
            rows.append(row)
    return None if json else rows


async def pages(fetch: Fetch, *, key: str, limit: int, everything: bool) -> AsyncIterator[Row]:
    """Rows of a listing that goes on after a key, as many as were asked for."""
    left = limit
    after: Any = None
    while everything or left > 0:
        size = PAGE if everything else min(left, PAGE)
        rows = await fetch(size, after)
        for row in rows:
            yield row
        if len(rows) < size:
            return
        left -= len(rows)
        after = rows[-1][key]
