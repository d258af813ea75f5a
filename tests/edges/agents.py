"""The SDK's agents at the other end of real streams, on a loop of their own in this process."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from tests.engine.building import DEADLINE, Heard
from tocsin import Hub, Run
from tocsin.sdk.agent import AgentProcess, Order
from tocsin.sdk.standing import Patience


class Agents:
    """Some AgentProcesses. began: (run, fence) of each attempt that has begun in any of them."""

    def __init__(self, hubs: tuple[str, ...], *, count: int, **order: Any) -> None:
        self.began: list[tuple[str, int]] = []
        self.log = Heard()
        self._order = Order(app=self._app(), hubs=hubs, **({"patience": Patience(first=0.05, most=0.5)} | order))
        self._count = count
        self._processes: list[AgentProcess] = []
        self._ended: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _app(self) -> Any:
        hub = Hub(name="agents")

        @hub.agent
        async def agent(run: Run) -> dict[str, int]:
            self.began.append((run.id, run.fence))
            await asyncio.sleep(run.input["seconds"])
            return {"fence": run.fence}

        return hub.build()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
            self._ended.set_result(None)
        except BaseException as error:
            self._ended.set_exception(error)
        finally:
            self._loop.close()

    async def _main(self) -> None:
        self._processes = [AgentProcess(self._order, log=self.log) for _ in range(self._count)]
        await asyncio.gather(*(process.run() for process in self._processes))

    def _leave(self) -> None:
        for process in self._processes:
            process.leave()
            process.leave()

    async def close(self) -> None:
        """They have left; their hub's loop may be the caller's."""
        self._loop.call_soon_threadsafe(self._leave)
        async with asyncio.timeout(DEADLINE):
            await asyncio.wrap_future(self._ended)
        self._thread.join(DEADLINE)


@asynccontextmanager
async def some_agents(*hubs: str, count: int = 1, **order: Any) -> AsyncIterator[Agents]:
    agents = Agents(hubs, count=count, **order)
    try:
        yield agents
    finally:
        await agents.close()
