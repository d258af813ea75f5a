"""Functions as agents: what they return, what they raise, and how they are brought to an end."""

import asyncio
import contextvars
import functools
import math
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.executors.conftest import Begin, Recorded, an_assignment
from tocsin.declared import AgentFunction
from tocsin.domain.agent import AgentSpec
from tocsin.domain.errors import BadInput, Cancelled, Fatal, RetryAfter
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, StopReason, Succeeded
from tocsin.executors.inprocess import InProcess
from tocsin.run import Run, StopSignal


async def outcome_of_result(begin: Begin, value: Any) -> Outcome:
    async def agent() -> Any:
        return value

    return await begin.function(agent).outcome()


async def outcome_of_error(begin: Begin, error: BaseException, policy: AgentSpec | None = None) -> Outcome:
    async def agent() -> None:
        raise error

    return await begin.function(agent, policy).outcome()


async def test_a_coroutine_is_handed_its_run_and_its_result_is_the_output(begin: Begin) -> None:
    async def agent(run: Run) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"id": run.id, "input": run.input, "attempt": run.attempt, "key": run.idempotency_key}

    assert await begin.function(agent).outcome() == Succeeded(
        b'{"id":"00000000-0000-0000-0000-000000000007","input":{"repo":"."},"attempt":2,"key":"6c613b7f-cbe7-5bed-bbf4-2603718837a1"}'
    )


async def test_a_plain_function_runs_in_a_daemon_thread_of_its_own(begin: Begin) -> None:
    def agent(run: Run) -> list[bool]:
        thread = threading.current_thread()
        return [thread is threading.main_thread(), thread.daemon]

    assert await begin.function(agent).outcome() == Succeeded(b"[false,true]")


async def test_a_thread_has_the_context_of_its_caller(begin: Begin) -> None:
    mark = contextvars.ContextVar("mark", default="unset")
    mark.set("set")
    assert await begin.function(mark.get).outcome() == Succeeded(b'"set"')


async def test_plain_functions_run_side_by_side(begin: Begin) -> None:
    meeting = threading.Barrier(4, timeout=30)

    def agent(run: Run) -> str:
        meeting.wait()
        return "met"

    executor = InProcess({"agent": AgentFunction.of(AgentSpec(name="agent"), agent)}, slots=4)
    runs = [executor.execute(an_assignment(), Recorded(), StopSignal()) for _ in range(4)]
    assert await asyncio.gather(*runs) == [Succeeded(b'"met"')] * 4


async def test_an_agent_need_not_take_the_run(begin: Begin) -> None:
    assert await begin.function(lambda: 5).outcome() == Succeeded(b"5")
    assert await begin.function(functools.partial(lambda a, run: [a, run.attempt], 1)).outcome() == Succeeded(b"[1,2]")


async def test_an_object_with_an_async_call_is_an_agent(begin: Begin) -> None:
    class Agent:
        async def __call__(self, run: Run) -> int:
            return run.fence

    assert await begin.function(Agent()).outcome() == Succeeded(b"3")


async def test_reports_go_where_the_runner_says(begin: Begin) -> None:
    def agent(run: Run) -> None:
        run.progress("half", 0.5)
        run.usage(model="m", input_tokens=3)

    attempt = begin.function(agent)
    assert await attempt.outcome() == Succeeded(b"null")
    assert attempt.reports.steps == ["half"]
    assert attempt.reports.figures[0]["input_tokens"] == 3


async def test_what_an_agent_does_to_its_context_stays_with_it(begin: Begin) -> None:
    mark = contextvars.ContextVar("mark", default="outside")

    async def agent() -> None:
        mark.set("inside")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    executor = InProcess({"agent": AgentFunction.of(AgentSpec(name="agent"), agent)}, slots=4)
    attempt = asyncio.create_task(executor.execute(an_assignment(), Recorded(), StopSignal()))
    await asyncio.wait({attempt})
    assert attempt.cancelled()
    assert mark.get() == "outside"


async def test_an_exception_is_a_failure_with_its_class_words_and_traceback(begin: Begin) -> None:
    async def agent() -> None:
        raise ValueError("no such repo")

    attempt = begin.function(agent)
    assert await attempt.outcome() == Failed("ValueError", "no such repo")
    assert any("in agent" in line for line in attempt.reports.lines)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RetryAfter(90, "rate limited"), Postponed(90.0, "rate limited")),
        (RetryAfter(math.nan, "odd"), Postponed(0.0, "odd")),
        (RetryAfter(math.inf), Postponed(366 * 86400.0, "retry after inf s")),
        (Fatal("bad key"), Failed("Fatal", "bad key", final=True)),
        (Cancelled("done elsewhere"), Stopped()),
        (asyncio.CancelledError(), Failed("CancelledError", "cancelled itself; no stop was asked for")),
        (SystemExit(3), Failed("SystemExit", "3")),
        (KeyboardInterrupt(), Failed("KeyboardInterrupt", "")),
        (ExceptionGroup("tasks", [RetryAfter(5, "busy")]), Postponed(5.0, "busy")),
        (
            ExceptionGroup("tasks", [ValueError("a"), ExceptionGroup("", [KeyError("b")])]),
            Failed("ExceptionGroup", "2 exceptions: ValueError: a; KeyError: 'b'"),
        ),
        (ValueError("nul \0, half \ud800"), Failed("ValueError", "nul \N{REPLACEMENT CHARACTER}, half ?")),
        (ValueError("x" * 100_000), Failed("ValueError", "x" * 3_999 + "…")),
    ],
)
async def test_an_exception_says_what_it_means(begin: Begin, error: BaseException, outcome: Outcome) -> None:
    assert await outcome_of_error(begin, error) == outcome

    def agent() -> None:
        raise error

    assert await begin.function(agent).outcome() == outcome


async def test_an_exception_that_cannot_speak_is_a_failure_all_the_same(begin: Begin) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert await outcome_of_error(begin, Mute()) == Failed("Mute", "Mute")


class Limited(RetryAfter):
    """A subclass in the wild: its own __init__, which leaves out ours."""

    def __init__(self, words: str, **fields: Any) -> None:
        Exception.__init__(self, words)
        vars(self).update(fields)


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Hollow(ExceptionGroup[Exception]):
    exceptions = ()


def in_groups(levels: int) -> Exception:
    error: Exception = RetryAfter(5, "busy")
    for _ in range(levels):
        error = ExceptionGroup("", [error])
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Limited("slow down"), Postponed(60.0, "slow down")),
        (Limited("slow down", seconds=7), Postponed(7.0, "slow down")),
        (Limited("slow down", seconds=timedelta(minutes=1)), Postponed(60.0, "slow down")),
        (Limited("slow down", seconds="soon"), Postponed(60.0, "slow down")),
        (Limited("slow down", seconds=10**400), Postponed(366 * 86400.0, "slow down")),
        (in_groups(1_200), Postponed(5.0, "busy")),
        (Exiting(), Failed("Exiting", "Exiting")),
        (Hollow("no parts", [ValueError()]), Failed("Hollow", "no parts (1 sub-exception)")),
        (GeneratorExit("closed"), Failed("GeneratorExit", "closed")),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_odd_exception_ends_its_attempt_like_any_other(
    begin: Begin, error: BaseException, outcome: Outcome
) -> None:
    assert await outcome_of_error(begin, error) == outcome

    def agent() -> None:
        raise error

    assert await begin.function(agent).outcome() == outcome


async def test_work_for_which_there_is_no_thread_fails_and_is_never_done(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    executor = InProcess(
        {"agent": AgentFunction.of(AgentSpec(name="agent"), lambda run: done.append(run.trigger))}, slots=4
    )

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        outcome = await executor.execute(an_assignment(trigger="first"), Recorded(), StopSignal())
    assert isinstance(outcome, Failed)
    assert not outcome.final
    assert "no thread could be started for it (can't start new thread)" in outcome.message
    for _ in range(3):
        assert await executor.execute(an_assignment(trigger="second"), Recorded(), StopSignal()) == Succeeded(b"null")
    assert done == ["second"] * 3


async def test_a_subclass_follows_the_policy_of_the_class_that_is_named(begin: Begin) -> None:
    policy = AgentSpec(name="agent", max_attempts=3, retry_on=("OSError",))
    assert await outcome_of_error(begin, ConnectionResetError("gone"), policy) == Failed(
        "OSError", "ConnectionResetError: gone"
    )
    assert await outcome_of_error(begin, KeyError("gone"), policy) == Failed("KeyError", "'gone'")


@dataclass
class Point:
    x: float


async def test_results_beyond_the_plain_types_are_written_as_json(begin: Begin) -> None:
    class Model:
        def model_dump(self, mode: str) -> dict[str, str]:
            return {"mode": mode}

    assert await outcome_of_result(begin, Point(1.5)) == Succeeded(b'{"x":1.5}')
    assert await outcome_of_result(begin, [Model()]) == Succeeded(b'[{"mode":"json"}]')
    assert await outcome_of_result(begin, {1: None}) == Succeeded(b'{"1":null}')
    assert await outcome_of_result(begin, "\\u0000") == Succeeded(b'"\\\\u0000"')


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, object()]}, "output.a[1] is of type object"),
        ({"a": {(1, 2): 3}}, "output.a has a key that is neither"),
        ({"a": [math.nan]}, "output.a[0] is nan"),
        (Point(math.inf), "output.x is inf"),
        ({"a": "half \ud800"}, "output.a has half a surrogate"),
        (["nul \0"], "output has a NUL character"),
        ({"\\\0": 1}, "output has a NUL character"),
        (nested(501), "output is nested deeper than 500"),
        (nested(100_000), "output is nested deeper than 500"),
        (endless(), "output is nested deeper than 500 levels, or contains itself"),
    ],
)
async def test_a_result_that_is_not_json_fails_for_good_and_names_the_place(
    begin: Begin, value: Any, said: str
) -> None:
    outcome = await outcome_of_result(begin, value)
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.final) == ("NonJSONResult", True)
    assert outcome.message.startswith(said)


async def test_a_result_as_deep_as_allowed_is_taken(begin: Begin) -> None:
    assert await outcome_of_result(begin, nested(500)) == Succeeded(b"[" * 500 + b"]" * 500)


async def test_a_result_over_the_bound_fails_for_good(begin: Begin) -> None:
    outcome = await outcome_of_result(begin, "x" * 1024 * 1024)
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.final) == ("PayloadTooLarge", True)
    assert "1,048,578 bytes" in outcome.message


async def test_a_coroutine_that_does_not_watch_is_cancelled_at_once(begin: Begin) -> None:
    cleaned = []

    async def agent(run: Run) -> None:
        run.progress("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    attempt = begin.function(agent)
    await attempt.reports.until_said()
    attempt.stop.request(StopReason.TIMEOUT)
    assert await attempt.outcome() == Stopped()
    assert cleaned == [True]


async def test_a_coroutine_that_watches_is_told_and_goes_on(begin: Begin) -> None:
    async def agent(run: Run) -> str:
        cancelled = run.cancelled
        run.progress("begun")
        reason = await cancelled
        await asyncio.sleep(0)
        return f"ended well after {reason}"

    attempt = begin.function(agent)
    await attempt.reports.until_said()
    attempt.stop.request(StopReason.INTERRUPTED)
    assert await attempt.outcome() == Succeeded(b'"ended well after interrupted"')


async def test_an_agent_that_raises_when_asked_to_stop_has_stopped(begin: Begin) -> None:
    async def agent(run: Run) -> None:
        run.progress("begun")
        await run.cancelled
        raise Cancelled

    attempt = begin.function(agent)
    await attempt.reports.until_said()
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Stopped()


async def test_a_result_that_was_reached_stands_though_a_stop_came(begin: Begin) -> None:
    async def agent(run: Run) -> str:
        run.progress("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    attempt = begin.function(agent)
    await attempt.reports.until_said()
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Succeeded(b'"saved"')


async def test_a_stop_before_the_first_step_leaves_the_agent_unbegun(begin: Begin) -> None:
    begun = []

    async def agent() -> None:
        begun.append(True)

    for unbegun in (agent, lambda: begun.append(True)):
        attempt = begin.function(unbegun)
        attempt.stop.request(StopReason.CANCELLED)
        assert await attempt.outcome() == Stopped()

    assert begun == []


def _poll(run: Run) -> bool:
    while not run.cancelled:
        threading.Event().wait(0.001)
    return True


@pytest.mark.parametrize("pause", [lambda run: run.cancelled.wait(30), _poll])
async def test_a_function_in_a_thread_sees_the_flag(begin: Begin, pause: Callable[[Run], bool]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def agent(run: Run) -> bool:
        loop.call_soon_threadsafe(asked.set)
        return pause(run)

    attempt = begin.function(agent)
    async with asyncio.timeout(30):
        await asked.wait()
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Succeeded(b"true")


async def test_a_loop_in_a_thread_can_await_the_flag(begin: Begin) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def inner(run: Run) -> str:
        # Called once this loop sleeps, without a timer, so that the stop has to wake it from the other thread.
        asyncio.get_running_loop().call_soon(loop.call_soon_threadsafe, asked.set)
        return await run.cancelled

    attempt = begin.function(lambda run: asyncio.run(inner(run)))
    async with asyncio.timeout(30):
        await asked.wait()
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Succeeded(b'"cancelled"')


async def test_the_last_resort_ends_a_coroutine(begin: Begin) -> None:
    ended = asyncio.Event()

    async def agent(run: Run) -> None:
        run.progress("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    attempt = begin.function(agent)
    await attempt.reports.until_said()
    attempt.stop.request(StopReason.TIMEOUT)
    attempt.task.cancel()
    assert await attempt.outcome() == Stopped()
    assert ended.is_set()


async def test_the_last_resort_does_not_wait_for_a_thread(begin: Begin) -> None:
    released = threading.Event()

    def agent(run: Run) -> None:
        run.progress("begun")
        released.wait(30)

    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    attempt = begin.function(lambda run: (loop.call_soon_threadsafe(begun.set), released.wait(30)))
    await _until(begun.wait())
    attempt.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt.outcome()
    released.set()


async def _until(what: Awaitable[Any]) -> None:
    async with asyncio.timeout(30):
        await what


async def test_an_agent_that_is_not_declared_here_is_a_failure_that_says_so(begin: Begin) -> None:
    outcome = await begin.function(lambda: None, agent="other").outcome()
    assert isinstance(outcome, Failed)
    assert "no agent 'other' in this process" in outcome.message


def test_a_stuck_thread_does_not_hold_up_the_end_of_the_process() -> None:
    code = """if True:
        import threading
        from tocsin.executors.threads import DaemonThreads
        begun = threading.Event()
        DaemonThreads("t").run(lambda: (begun.set(), threading.Event().wait()))
        begun.wait()
        print("ended")
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert ended.stdout == b"ended\n"


def two(a: Any, b: Any) -> None: ...
def named(run: Run, *, more: int) -> None: ...
def generating(run: Run) -> Any:
    yield 1


async def streaming(run: Run) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (two, "nothing can be given for b"),
        (named, "nothing can be given for more"),
        (generating, "generating yields"),
        (streaming, "streaming yields"),
        ("text", "must be a function, not 'text'"),
        (Run, "must be a function, not Run"),
    ],
)
def test_a_function_that_could_not_be_called_is_refused_when_declared(function: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        AgentFunction.of(AgentSpec(name="agent"), function)


def test_the_idempotency_key_belongs_to_the_occurrence_not_to_the_run() -> None:
    first = an_assignment(run_id=UUID(int=1), attempt=1)
    restored = an_assignment(run_id=UUID(int=2), attempt=3)
    later = an_assignment(nominal_at=first.nominal_at + timedelta(days=1))
    by_hand = an_assignment(occurrence_key="manual:7")
    assert first.idempotency_key == restored.idempotency_key
    assert len({first.idempotency_key, later.idempotency_key, by_hand.idempotency_key}) == 3
