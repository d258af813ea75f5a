"""Work without a link: what the hub says goes in, and what is to be said comes out."""

import asyncio
import threading

from tests.sdk.scripted import PATIENCE, an_assignment
from tocsin.app import Hub
from tocsin.clock import SystemClock
from tocsin.executors.from_app import executors_of
from tocsin.run import Run
from tocsin.sdk.hands import Hands
from tocsin.sdk.outbox import Outbox
from tocsin.sdk.work import Work
from tocsin.telemetry import Silence
from tocsin.v1 import agent_pb2 as pb


class Desk:
    """Work on its first stream, welcomed, with everything around it."""

    def __init__(self, app: Hub, slots: int = 50) -> None:
        self.outbox, self.hands = Outbox(), Hands()
        self.work = Work(
            executors=executors_of(app.build(), slots),
            slots=slots,
            hands=self.hands,
            outbox=self.outbox,
            clock=SystemClock(),
            log=Silence(),
        )
        self.hands.open(1)
        self.outbox.open(1)
        self.work.receive(1, pb.FromHub(welcome=pb.Welcome()))

    def assign(self, *agents: str) -> None:
        self.work.receive(1, pb.FromHub(assign=pb.Assign(runs=[an_assignment(agent) for agent in agents])))

    async def results(self) -> list[pb.Result]:
        """What has been put into the outbox, once all has ended."""
        async with asyncio.timeout(PATIENCE):
            await self.work.attempts.idle.wait()
        await asyncio.sleep(0)
        return [result for message in self.outbox.take(0.0) for result in message.finished.results]


async def test_what_happens_in_one_turn_of_the_loop_is_put_there_once() -> None:
    app = Hub()

    @app.agent
    async def quick() -> None:
        return None

    desk = Desk(app)
    wakes: list[int] = []
    desk.outbox.wake = lambda: wakes.append(1)
    await asyncio.sleep(0)
    desk.assign(*["quick"] * 50)
    assert len(await desk.results()) == 50
    # The credit, the begins, the ends.
    assert len(wakes) <= 3


async def test_a_run_whose_task_somebody_else_has_cancelled_is_given_back() -> None:
    app, gate = Hub(), threading.Event()

    @app.agent
    def waits() -> None:
        gate.wait(PATIENCE)

    desk = Desk(app)
    desk.assign("waits")
    await asyncio.sleep(0.01)
    (hand,) = desk.hands.all()
    assert hand.task is not None
    hand.task.cancel()
    (result,) = await desk.results()
    gate.set()
    assert result.postponed.reason == "interrupted"


async def test_the_next_stream_is_told_the_lines_of_what_still_runs() -> None:
    """What was said of them on the former one may not have come through."""
    app = Hub()
    said, go = asyncio.Event(), asyncio.Event()

    @app.agent
    async def chatty(run: Run) -> None:
        run.log("one")
        said.set()
        await go.wait()

    @app.agent
    async def silent() -> None:
        await go.wait()

    desk = Desk(app)
    desk.assign("chatty", "silent")
    async with asyncio.timeout(PATIENCE):
        await said.wait()
    first = [message.report for message in desk.outbox.take(0.0) if message.HasField("report")]
    desk.outbox.open(2)
    desk.work.receive(2, pb.FromHub(welcome=pb.Welcome()))
    again = [message.report for message in desk.outbox.take(100.0) if message.HasField("report")]
    assert [report.log for report in first] == ["one"]
    assert again == first
    go.set()
    await desk.work.attempts.idle.wait()
