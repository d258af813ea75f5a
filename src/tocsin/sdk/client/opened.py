"""A client's life, and how it asks."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from tocsin.clock import Clock, SystemClock
from tocsin.domain.errors import Refused, TocsinError
from tocsin.sdk.client.address import address_of
from tocsin.sdk.client.asking import Asking, Request
from tocsin.settings import load_settings

T = TypeVar("T")
TIMEOUT: Final = 30.0


class Opened:
    """An asynchronous context in which a hub can be asked; see ``Client``."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        ca: Path | None = None,
        timeout: float = TIMEOUT,
        again: Callable[[TocsinError], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises: BadInput, for an address that is none, and where a key would go in plain text; InvalidSetting."""
        self.address = address_of(load_settings(), url, key=key, ca=ca)
        self._timeout = timeout
        self._again = again
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._entered: Asking | None = None

    async def __aenter__(self) -> Self:
        http = await self._stack.enter_async_context(self.address.http())
        self._entered = Asking(
            address=self.address, http=http, clock=self._clock, timeout=self._timeout, again=self._again
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = None
        await self._stack.aclose()

    @property
    def _asking(self) -> Asking:
        if self._entered is None:
            raise Refused("the client is closed: use it inside `async with Client(…) as client:`")
        return self._entered

    async def _ask(self, request: Request, kind: type[T]) -> T:
        return await self._asking.ask(request, kind)

    async def _get(self, path: Sequence[str], kind: type[T], query: dict[str, Any] | None = None) -> T:
        return await self._ask(Request(method="GET", path=path, query=query), kind)

    async def _post(
        self, path: Sequence[str], kind: type[T], body: dict[str, Any] | None = None, *, key: str | None = None
    ) -> T:
        """Done once, though it may be asked several times."""
        return await self._ask(
            Request(method="POST", path=path, body=body, key=str(uuid4()) if key is None else key), kind
        )

    async def _delete(self, path: Sequence[str], kind: type[T], if_match: str | None = None) -> T:
        return await self._ask(Request(method="DELETE", path=path, if_match=if_match), kind)
