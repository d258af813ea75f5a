"""Listings, page by page."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from tocsin.sdk.client.asking import Asking, Request

T = TypeVar("T")
PAGE: Final = 500
"""Rows of one request, where more are wanted."""


class Page(msgspec.Struct, Generic[T]):
    items: list[T]
    next_cursor: str | None = None


async def pages(
    asking: Asking, path: Sequence[str], query: Mapping[str, Any], kind: type[T], limit: int | None
) -> AsyncIterator[T]:
    """Rows, as many as there are or as the limit allows; a page is asked for when its first row is."""
    left, cursor = limit, None
    while left is None or left > 0:
        size = PAGE if left is None else min(left, PAGE)
        page = await _page(asking, path, {**query, "limit": size, "cursor": cursor}, kind)
        for row in page.items:
            yield row
        cursor = page.next_cursor
        if cursor is None:
            return
        left = None if left is None else left - len(page.items)


async def listed(asking: Asking, path: Sequence[str], query: Mapping[str, Any], kind: type[T]) -> list[T]:
    """Rows of a listing that has no pages."""
    return (await _page(asking, path, query, kind)).items


async def _page(asking: Asking, path: Sequence[str], query: Mapping[str, Any], kind: type[T]) -> Page[T]:
    form: type[Page[T]] = Page[kind]  # type: ignore[valid-type]  # a type that is known when it runs
    return await asking.ask(Request(method="GET", path=path, query=query), form)
