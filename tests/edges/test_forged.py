"""Beats, reports and results that are doubled, late, out of order or forged: each is answered, and changes nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest

from tests.edges.wiring import Process, a_control, a_hub
from tests.engine.building import a_trigger, eventually
from tocsin.domain.trigger import Overlap
from tocsin.engine.control import Control
from tocsin.v1 import agent_pb2 as pb

pytestmark = pytest.mark.anyio

ROWS = """
SELECT 'run' AS what, to_jsonb(r) AS row FROM tocsin.runs r
 UNION ALL SELECT 'edge', to_jsonb(t) FROM tocsin.transitions t
 UNION ALL SELECT 'attempt', to_jsonb(a) - '{progress,fraction,progress_at}'::text[] FROM tocsin.attempts a
 UNION ALL SELECT 'told', to_jsonb(a) FROM tocsin.attempts a WHERE a.run_id <> $1
 UNION ALL SELECT 'late', to_jsonb(l) FROM tocsin.late_results l
 UNION ALL SELECT 'lease', to_jsonb(l) - '{expires_at,renewed_at}'::text[] FROM tocsin.leases l
 ORDER BY 1, 2
"""


@dataclass
class Story:
    """A liar with a run that it has begun twice and one that it has ended; another process with a run of its own."""

    control: Control
    database: "asyncpg.Connection[asyncpg.Record]"
    liar: Process
    other: Process
    mine: pb.Assignment
    done: pb.Assignment
    theirs: pb.Assignment
    truths: int = 0

    async def rows(self) -> list[tuple[str, str]]:
        """All that is written of runs, once whatever the liar has said is written too."""
        self.truths += 1
        truth = f"truth {self.truths}"
        await self.liar.say(report=pb.Report(run_id=self.mine.run_id, fence=2, progress=truth))
        seq = await self.liar.beat()
        while (await self.liar.next("beat_taken")).beat_taken.seq != seq:
            pass
        mine = UUID(self.mine.run_id)

        async def is_told() -> bool:
            told = "SELECT progress FROM tocsin.attempts WHERE run_id = $1 AND fence = 2"
            return bool(await self.database.fetchval(told, mine) == truth)

        await eventually(is_told)
        return [(row["what"], row["row"]) for row in await self.database.fetch(ROWS, mine)]

    async def verdict(self, run_id: str, fence: int, **outcome: Any) -> pb.Verdict:
        outcome = outcome or {"succeeded": b'"forged"'}
        result = pb.Result(run_id=run_id, fence=fence, **outcome)
        await self.liar.say(finished=pb.Finished(results=[result]))
        verdict: pb.Verdict
        (verdict,) = (await self.liar.next("settled")).settled.verdicts
        assert (verdict.run_id, verdict.fence) == (run_id, fence)
        return verdict

    async def beats_of(self, run_id: str, fence: int) -> pb.Cancel:
        """What the hub says to a beat that names this besides."""
        await self.liar.say(beat=pb.Beat(seq=90, held=[*self.liar.held.values(), pb.Held(run_id=run_id, fence=fence)]))
        cancel: pb.Cancel = (await self.liar.next("cancel")).cancel
        assert (cancel.run_id, cancel.fence) == (run_id, fence)
        return cancel


@asynccontextmanager
async def a_story(dsn: str) -> AsyncIterator[Story]:
    async with (
        a_control(dsn, a_trigger("t", overlap=Overlap.ALLOW)) as control,
        a_hub(dsn, suspect_after=30, dead_after=90) as hub,
        Process(hub.address, beats=False) as liar,
        Process(hub.address) as other,
    ):
        database = await asyncpg.connect(dsn)
        try:
            runs = [await _begun(control, process) for process in (liar, liar, other)]
            await liar.finish(runs[0], succeeded=b'"true"', log="a line")
            await liar.finish(runs[1], postponed=pb.Postponed(reason="again"))
            await liar.credit(1)
            (mine,) = await liar.assigned()
            assert mine.fence == 2
            yield Story(control, database, liar, other, mine, runs[0], runs[2])
        finally:
            await database.close()


async def _begun(control: Control, process: Process) -> pb.Assignment:
    if not process.welcomed:
        await process.hello()
    await process.credit(1)
    await control.fire("t")
    (run,) = await process.assigned()
    return run


# What is said, and how it is answered.


async def _beat_of_an_ended_run(story: Story) -> None:
    assert (await story.beats_of(story.done.run_id, 1)).reason == "fenced"


async def _beat_of_a_fence_to_come(story: Story) -> None:
    assert (await story.beats_of(story.mine.run_id, 3)).reason == "fenced"


async def _beat_of_a_fence_that_has_passed(story: Story) -> None:
    assert (await story.beats_of(story.mine.run_id, 1)).reason == "fenced"


async def _beat_of_anothers_run(story: Story) -> None:
    assert (await story.beats_of(story.theirs.run_id, 1)).reason == "fenced"


async def _beat_of_a_run_that_never_was(story: Story) -> None:
    assert (await story.beats_of(str(uuid4()), 7)).reason == "fenced"


async def _beats_out_of_order(story: Story) -> None:
    for seq in (9, 3, 9, 1):
        await story.liar.say(beat=pb.Beat(seq=seq, held=list(story.liar.held.values())))


async def _result_twice(story: Story) -> None:
    """The same again is answered as before."""
    assert not (await story.verdict(story.done.run_id, 1, succeeded=b'"true"')).fenced


async def _another_result_later(story: Story) -> None:
    assert (await story.verdict(story.done.run_id, 1, failed=pb.Failure(kind="ValueError", message="no"))).fenced


async def _result_of_an_older_fence(story: Story) -> None:
    assert (await story.verdict(story.mine.run_id, 1)).fenced


async def _result_of_a_fence_to_come(story: Story) -> None:
    assert (await story.verdict(story.mine.run_id, 3)).fenced


async def _result_of_anothers_run(story: Story) -> None:
    assert (await story.verdict(story.theirs.run_id, 1)).fenced


async def _result_of_a_run_that_never_was(story: Story) -> None:
    assert (await story.verdict(str(uuid4()), 1)).fenced


async def _progress_after_the_end(story: Story) -> None:
    await story.liar.say(report=pb.Report(run_id=story.done.run_id, fence=1, progress="late", usage="[]"))


async def _progress_of_anothers_run(story: Story) -> None:
    await story.liar.say(report=pb.Report(run_id=story.theirs.run_id, fence=1, progress="forged", fraction=1))


async def _progress_of_a_run_that_never_was(story: Story) -> None:
    await story.liar.say(report=pb.Report(run_id=str(uuid4()), fence=1, progress="forged"))


async def _begun_of_anothers_run(story: Story) -> None:
    held = [pb.Held(run_id=story.theirs.run_id, fence=1), pb.Held(run_id=str(uuid4()), fence=1)]
    await story.liar.say(begun=pb.Begun(runs=held))


LIES: list[Callable[[Story], Awaitable[None]]] = [
    _beat_of_an_ended_run,
    _beat_of_a_fence_to_come,
    _beat_of_a_fence_that_has_passed,
    _beat_of_anothers_run,
    _beat_of_a_run_that_never_was,
    _beats_out_of_order,
    _result_twice,
    _another_result_later,
    _result_of_an_older_fence,
    _result_of_a_fence_to_come,
    _result_of_anothers_run,
    _result_of_a_run_that_never_was,
    _progress_after_the_end,
    _progress_of_anothers_run,
    _progress_of_a_run_that_never_was,
    _begun_of_anothers_run,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__.strip("_").replace("_", " "))
async def test_a_lie_is_answered_and_changes_nothing(dsn: str, lie: Callable[[Story], Awaitable[None]]) -> None:
    async with a_story(dsn) as story:
        before = await story.rows()
        await lie(story)
        assert await story.rows() == before
        await story.liar.none("cancel", within=0.1)
        await story.other.none("cancel", within=0.1)
        # Both have what they had.
        assert not (await story.liar.finish(story.mine))[0].fenced
        assert not (await story.other.finish(story.theirs))[0].fenced


async def test_a_goodbye_gives_back_nothing_of_anothers(dsn: str) -> None:
    async with a_story(dsn) as story:
        held = [pb.Held(run_id=run.run_id, fence=run.fence) for run in (story.theirs, story.done)]
        await story.liar.say(goodbye=pb.Goodbye(returned=held))
        assert await story.liar.code() is grpc.StatusCode.OK
        assert (await story.control.run(UUID(story.done.run_id)))["output"] == "true"
        assert not (await story.other.finish(story.theirs))[0].fenced


async def test_a_result_over_two_streams_is_settled_once(dsn: str) -> None:
    """The older stream's hub does not know yet that there is a newer one."""
    async with a_story(dsn) as story, a_hub(dsn) as second:
        held = [pb.Held(run_id=story.mine.run_id, fence=2)]
        async with Process(second.address, instance_id=story.liar.id, beats=False) as moved:
            welcome = await moved.hello(held=held, last_stream=1)
            assert len(welcome.valid) == 1
            assert not (await story.verdict(story.mine.run_id, 2, succeeded=b'"one"')).fenced
            assert not (await moved.finish(story.mine, succeeded=b'"two"'))[0].fenced
            shown = await story.control.run(UUID(story.mine.run_id))
            assert (shown["output"], shown["fence"], len(shown["transitions"])) == ("one", 2, 5)
