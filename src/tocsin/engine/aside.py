"""A service on an event loop and thread of its own, where nothing that an agent does can hold it up."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from tocsin.domain.errors import DatabaseUnavailable


class Aside:
    """Runs ``main`` on its own thread from entering to leaving.

    ``main`` gets two callables: ``ready()``, to be called once it stands, and an awaitable that ends
    when it is to leave. What it raises before it is ready is raised by entering.
    """

    def __init__(self, name: str, main: Callable[[Callable[[], None], Awaitable[None]], Awaitable[None]]) -> None:
        self._name = name
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ready: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "Aside":
        here = asyncio.get_running_loop()
        ready: asyncio.Future[None] = here.create_future()
        ended: asyncio.Future[None] = here.create_future()
        self._ended = ended

        def settle(future: "asyncio.Future[None]", error: BaseException | None = None) -> None:
            def set_it() -> None:
                if future.done():
                    return
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

            if not here.is_closed():
                here.call_soon_threadsafe(set_it)

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._leave = asyncio.Event()
            await self._main(lambda: settle(ready), self._leave_asked())

        def thread() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:  # the boundary of the thread: it is raised where it was entered
                settle(ready, error)
            finally:
                settle(ready, DatabaseUnavailable(f"{self._name} ended before it stood"))
                settle(ended)

        self._thread = threading.Thread(target=thread, name=f"tocsin-{self._name}", daemon=True)
        self._thread.start()
        await ready
        return self

    async def _leave_asked(self) -> None:
        assert self._leave is not None  # set by run() before main is entered
        await self._leave.wait()

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None and self._leave is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._leave.set)
        if self._ended is not None:
            await self._ended
        if self._thread is not None:
            self._thread.join(timeout=1)
