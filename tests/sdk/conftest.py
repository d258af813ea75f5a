"""An app's agents as a process would run them, in a thread, and the hubs that they work for."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.sdk.scripted import PATIENCE, ScriptedHub
from tocsin import Fatal, Hub, RetryAfter, Run
from tocsin.sdk.agent import AgentProcess, Order
from tocsin.sdk.standing import Patience

hub_of_agents = Hub(name="agents")


@hub_of_agents.agent
async def echo(run: Run) -> Any:
    return run.input


@hub_of_agents.agent(cancel_within=1)
async def endless(run: Run) -> None:
    await asyncio.sleep(3600)


@hub_of_agents.agent
async def brief(run: Run) -> str:
    await asyncio.sleep(0.3)
    return "done"


@hub_of_agents.agent
async def deaf(run: Run) -> None:
    """Does not stop, however it is asked."""
    for _ in range(120):
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue


@hub_of_agents.agent
async def tidy(run: Run) -> None:
    """Puts its things in order before it stops."""
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.1)


@hub_of_agents.agent
async def blocking(run: Run) -> str:
    time.sleep(run.input)
    return "awake"


@hub_of_agents.agent
async def failing(run: Run) -> None:
    match run.input:
        case "fatal":
            raise Fatal("never")
        case "later":
            raise RetryAfter(7, "busy")
        case _:
            raise ValueError("odd")


@hub_of_agents.agent
async def telling(run: Run) -> None:
    for step in range(200):
        run.progress(f"step {step}", step / 200)
        run.usage(model="m", input_tokens=1)
        await asyncio.sleep(0.002)
    run.log("a line")
    run.schedule(after=60, input={"again": True})


@hub_of_agents.agent
def plain_told(run: Run) -> dict[str, Any]:
    return {
        "key": run.idempotency_key,
        "fence": run.fence,
        "attempt": run.attempt,
        "nominal_at": run.nominal_at.isoformat(),
        "last": run.last.output if run.last else None,
        "thread": threading.current_thread() is not threading.main_thread(),
    }


class Recorded:
    """A log whose events are kept."""

    is_info = True

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._come = threading.Condition()

    def debug(self, event: str, **fields: Any) -> None:
        self._keep(event, fields)

    info = warning = error = debug

    def _keep(self, event: str, fields: dict[str, Any]) -> None:
        with self._come:
            self.events.append({"event": event, **fields})
            self._come.notify_all()

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        wanted = {"event": event, **fields}

        def found() -> list[dict[str, Any]]:
            return [line for line in self.events if wanted.items() <= line.items()]

        with self._come:
            assert self._come.wait_for(lambda: bool(found()), PATIENCE), f"no {wanted} in {self.events}"
            return found()[0]


class Agents:
    """An AgentProcess on the loop of a thread of its own."""

    def __init__(self, hubs: tuple[str, ...], **order: Any) -> None:
        self.log = Recorded()
        self._hubs = hubs
        self._order = order
        self._result: Future[int] = Future()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        try:
            self._result.set_result(asyncio.run(self._main()))
        except BaseException as error:
            self._result.set_exception(error)
            self._ready.set()

    async def _main(self) -> int:
        patience = Patience(first=0.02, most=0.1, stalled=0.3)
        order = Order(app=hub_of_agents.build(), hubs=self._hubs, slots=4, patience=patience)
        self._process = AgentProcess(replace(order, **self._order), log=self.log)
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        return await self._process.run()

    def leave(self) -> None:
        self._loop.call_soon_threadsafe(self._process.leave)

    def end(self) -> int:
        """How many runs were returned; raises what ended the process."""
        return self._result.result(PATIENCE)

    def close(self) -> None:
        if not self._result.done():
            for _ in range(6):
                self.leave()
                try:
                    self._result.exception(0.3)
                    break
                except TimeoutError:
                    continue
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def hub() -> Iterator[ScriptedHub]:
    scripted = ScriptedHub()
    yield scripted
    scripted.close()


@pytest.fixture
def start(hub: ScriptedHub) -> Iterator[Callable[..., Agents]]:
    """Starts agents that work for the hub, or for those that are named."""
    started: list[Agents] = []

    def begin(*hubs: ScriptedHub, **order: Any) -> Agents:
        if "drain" in order:
            order["drain"] = timedelta(seconds=order["drain"])
        started.append(Agents(tuple(each.address for each in hubs or (hub,)), **order))
        return started[-1]

    yield begin
    for agents in started:
        agents.close()
