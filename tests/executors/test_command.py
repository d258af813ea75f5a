"""Programs as agents: what they are told, what their end means, and that nothing of them is left."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.executors.conftest import NOON, Attempt, Begin, children_of
from tocsin.declared import CommandAgent
from tocsin.domain.agent import AgentSpec
from tocsin.domain.assignment import LastRun
from tocsin.domain.errors import BadInput
from tocsin.domain.run import Failed, Outcome, Postponed, Stopped, StopReason, Succeeded

MEGABYTE = 1024 * 1024


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", textwrap.dedent(code)


async def outcome_of(begin: Begin, code: str) -> Outcome:
    return await begin.command(*python(code)).outcome()


async def begun(attempt: Attempt) -> int:
    """The pid that the program has written to stderr, once it has."""
    await attempt.reports.until_said()
    return int(attempt.reports.lines[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def is_gone(pid: int) -> bool:
    """A killed process takes a moment to leave the table."""
    async with asyncio.timeout(30):
        while is_alive(pid):  # noqa: ASYNC110 — the kernel sets no event for another's child
            await asyncio.sleep(0.005)
    return True


async def test_a_program_reads_its_input_and_writes_its_output(begin: Begin) -> None:
    code = """
        import json, sys
        print(json.dumps({"got": json.load(sys.stdin)}))
    """
    assert await outcome_of(begin, code) == Succeeded(b'{"got": {"repo": "."}}')


async def test_a_program_is_told_its_run_and_nothing_of_the_hub(begin: Begin) -> None:
    code = """
        import json, os
        print(json.dumps({k: v for k, v in os.environ.items() if k.startswith(("TOCSIN_", "OWN"))}))
    """
    last = LastRun(id="x", nominal_at=NOON, finished_at=NOON, raw='{"head":1}')
    hub = {**os.environ, "TOCSIN_DATABASE_URL": "postgresql://secret", "TOCSIN_AGENT": "forged", "OWN": "hub"}
    outcome = await begin.command(*python(code), env={"OWN": "agent"}, environ=hub, due_by=NOON, last=last).outcome()
    assert isinstance(outcome, Succeeded)
    assert json.loads(outcome.output) == {
        "OWN": "agent",
        "TOCSIN_RUN_ID": "00000000-0000-0000-0000-000000000007",
        "TOCSIN_TRIGGER": "daily",
        "TOCSIN_AGENT": "agent",
        "TOCSIN_ATTEMPT": "2",
        "TOCSIN_FENCE": "3",
        "TOCSIN_IDEMPOTENCY_KEY": "6c613b7f-cbe7-5bed-bbf4-2603718837a1",
        "TOCSIN_NOMINAL_AT": "2026-03-01T12:00:00+00:00",
        "TOCSIN_EFFECTIVE_AT": "2026-03-01T12:00:05+00:00",
        "TOCSIN_DEADLINE": "2026-03-01T12:00:00+00:00",
        "TOCSIN_LAST_OUTPUT": '{"head":1}',
    }


async def test_a_program_is_told_its_attempt_s_place_in_a_trace_and_not_the_hub_s(begin: Begin) -> None:
    code = "import json, os; print(json.dumps(os.environ.get('TRACEPARENT')))"
    hub = {**os.environ, "TRACEPARENT": "the hub's"}
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    outcome = await begin.command(*python(code), environ=hub, traceparent=place).outcome()
    assert outcome == Succeeded(f'"{place}"'.encode())


async def test_a_last_output_too_large_for_an_environment_is_left_out(begin: Begin) -> None:
    last = LastRun(id="x", nominal_at=NOON, finished_at=NOON, raw='"' + "x" * MEGABYTE + '"')
    code = "import os; print('TOCSIN_LAST_OUTPUT' in os.environ)"
    assert await begin.command(*python(code), last=last).outcome() == Succeeded(b'"False"')


@pytest.mark.parametrize(
    ("written", "output"),
    [
        (b"", b"null"),
        (b" \n", b"null"),
        (b'{"a": 1.10}\n', b'{"a": 1.10}'),
        (b"done\nwell\n", b'"done\\nwell"'),
        (b"{broken", b'"{broken"'),
        (b"\xff\x00\xfe", '"\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"'.encode()),
        (b'"\\ud800"', b'"\\"\\\\ud800\\""'),
    ],
)
async def test_stdout_is_the_output_as_json_or_as_text(begin: Begin, written: bytes, output: bytes) -> None:
    assert await outcome_of(begin, f"import sys; sys.stdout.buffer.write({written!r})") == Succeeded(output)


@pytest.mark.parametrize(
    ("written", "said"),
    [("'\"nul \\\\u0000\"'", "NUL"), ("'[' * 600 + ']' * 600", "deeper"), ("'[' * 9999", "deeper")],
)
async def test_json_that_cannot_be_stored_fails_for_good(begin: Begin, written: str, said: str) -> None:
    outcome = await outcome_of(begin, f"print({written})")
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.final) == ("NonJSONResult", True)
    assert said in outcome.message


async def test_a_program_that_writes_without_end_is_killed_at_the_bound(begin: Begin) -> None:
    outcome = await outcome_of(begin, "while True: print('x' * 65536)")
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.final) == ("PayloadTooLarge", True)


async def test_output_of_exactly_the_bound_is_taken(begin: Begin) -> None:
    outcome = await outcome_of(begin, f"print('\"' + 'x' * ({MEGABYTE} - 2) + '\"', end='')")
    assert isinstance(outcome, Succeeded)
    assert len(outcome.output) == MEGABYTE


async def test_an_input_that_is_not_read_does_no_harm(begin: Begin) -> None:
    large = json.dumps("x" * MEGABYTE)
    for code in ("print(1)", "import sys; sys.stdin.close(); print(1)", "import sys; sys.stdin.read(9); print(1)"):
        assert await begin.command(*python(code), input=large).outcome() == Succeeded(b"1")


async def test_a_large_input_is_read_to_its_end(begin: Begin) -> None:
    code = "import json, sys; print(len(json.load(sys.stdin)))"
    assert await begin.command(*python(code), input=json.dumps("x" * MEGABYTE)).outcome() == Succeeded(b"1048576")


async def test_stderr_is_the_log(begin: Begin) -> None:
    code = "import sys; sys.stderr.write('one\\r\\ntwo\\n\\nhalf'); print(1)"
    attempt = begin.command(*python(code))
    assert await attempt.outcome() == Succeeded(b"1")
    assert attempt.reports.lines == ["one", "two", "", "half"]


async def test_a_flood_on_stderr_is_cut_and_blocks_nobody(begin: Begin) -> None:
    code = """
        import sys
        sys.stderr.write("y" * 10_000 + "\\n")
        for n in range(10_000):
            sys.stderr.write(f"{n} " + "x" * 1018 + "\\n")
        sys.exit("the last word")
    """
    attempt = begin.command(*python(code))
    assert await attempt.outcome() == Failed("exit", "exit code 1: the last word")
    lines = attempt.reports.lines
    assert lines[0] == "y" * 4_096 + "…"
    assert lines[-1] == "… truncated: only the first 64 KiB of stderr are kept"
    assert 60 * 1024 < sum(len(line) + 1 for line in lines[:-1]) <= 64 * 1024


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("raise SystemExit(3)", Failed("exit", "exit code 3")),
        ("raise SystemExit('no disk')", Failed("exit", "exit code 1: no disk")),
        ("import os; os.kill(os.getpid(), 11)", Failed("signal", "killed by SIGSEGV")),
        ("import os; os.kill(os.getpid(), 9)", Failed("signal", "killed by SIGKILL (out of memory?)")),
        ("import os; os.kill(os.getpid(), 40)", Failed("signal", "killed by signal 40")),
        ("raise SystemExit(75)", Postponed(60.0, "exit code 75")),
        ("print('{\"retry_after\": 2.5}'); raise SystemExit(75)", Postponed(2.5, "exit code 75")),
        ("print('{\"retry_after\": -1}'); raise SystemExit(75)", Postponed(0.0, "exit code 75")),
        ('print(\'{"retry_after": "x"}\'); raise SystemExit(75)', Postponed(60.0, "exit code 75")),
        (
            "print('{\"retry_after\": 1' + '0' * 400 + '}'); raise SystemExit(75)",
            Postponed(366 * 86400.0, "exit code 75"),
        ),
        ("print('{\"retry_after\": -1' + '0' * 400 + '}'); raise SystemExit(75)", Postponed(0.0, "exit code 75")),
        ("print('[1]'); raise SystemExit(75)", Postponed(60.0, "exit code 75")),
    ],
)
async def test_an_exit_says_what_it_means(begin: Begin, code: str, outcome: Outcome) -> None:
    assert await outcome_of(begin, code) == outcome


async def test_a_program_that_cannot_be_started_fails_for_good_with_the_next_step(begin: Begin, tmp_path: Path) -> None:
    plain = tmp_path / "plain.sh"
    plain.write_text("echo 1\n")
    odd = tmp_path / "odd"
    odd.write_bytes(b"\x00\x01")
    odd.chmod(0o755)
    for argv, cwd, said in (
        ("no-such-program", None, "no program 'no-such-program': install it"),
        (str(plain), None, "may not be executed: chmod +x"),
        (str(odd), None, "has no executable format"),
        (sys.executable, str(tmp_path / "gone"), "no directory"),
    ):
        outcome = await begin.command(argv, cwd=cwd).outcome()
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.final) == ("NotStarted", True)
        assert said in outcome.message


async def test_a_program_starts_in_its_directory(begin: Begin, tmp_path: Path) -> None:
    script = tmp_path / "here.sh"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    outcome = await begin.command("./here.sh", cwd=str(tmp_path)).outcome()
    assert outcome == Succeeded(json.dumps(str(tmp_path)).encode())


ENDLESS = """
    import os, sys, time
    print(os.getpid(), file=sys.stderr, flush=True)
    while True: time.sleep(60)
"""
DEAF = (
    """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
    + ENDLESS
)


async def test_a_program_asked_to_stop_is_terminated(begin: Begin) -> None:
    attempt = begin.command(*python(ENDLESS))
    pid = await begun(attempt)
    attempt.stop.request(StopReason.TIMEOUT)
    assert await attempt.outcome() == Stopped()
    assert not is_alive(pid)


async def test_a_program_deaf_to_sigterm_is_killed_when_its_time_is_up(begin: Begin) -> None:
    attempt = begin.command(*python(DEAF), cancel_within=0.05)
    pid = await begun(attempt)
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Stopped()
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("printed", "code", "outcome"),
    [
        ("[1]", 0, Succeeded(b"[1]")),
        ("half a text", 0, Stopped()),
        ("", 0, Stopped()),
        ("[1]", 1, Stopped()),
        ("", 75, Postponed(60.0, "exit code 75: {pid}")),
    ],
)
async def test_only_a_whole_result_stands_after_sigterm(
    begin: Begin, printed: str, code: int, outcome: Outcome
) -> None:
    polite = (
        f"""
    import os, signal, sys
    def end(number, frame):
        print({printed!r}, end="")
        sys.exit({code})
    signal.signal(signal.SIGTERM, end)
    """
        + ENDLESS
    )
    attempt = begin.command(*python(polite))
    pid = await begun(attempt)
    attempt.stop.request(StopReason.CANCELLED)
    if isinstance(outcome, Postponed):
        outcome = Postponed(outcome.seconds, outcome.reason.format(pid=pid))
    assert await attempt.outcome() == outcome


async def test_a_stop_that_came_first_starts_nothing(begin: Begin) -> None:
    attempt = begin.command("no-such-program")
    attempt.stop.request(StopReason.CANCELLED)
    assert await attempt.outcome() == Stopped()


FAMILY = """
    import os, signal, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", '''if True:
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), file=sys.stderr, flush=True)
        while True: time.sleep(60)
    '''])
"""


async def test_a_stop_reaches_grandchildren(begin: Begin) -> None:
    attempt = begin.command(*python(FAMILY + "    child.wait()"), cancel_within=0.05)
    grandchild = await begun(attempt)
    attempt.stop.request(StopReason.TIMEOUT)
    assert await attempt.outcome() == Stopped()
    assert await is_gone(grandchild)


async def test_a_grandchild_that_holds_the_pipes_does_not_hold_us(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.executors.child.PIPE_SECONDS", 0.05)
    waiting = "    sys.stdin.readline()\n    print('done', flush=True)\n    os.set_blocking(0, True)"
    attempt = begin.command(*python(FAMILY + waiting))
    grandchild = await begun(attempt)
    assert await attempt.outcome() == Succeeded(b'"done"')
    assert await is_gone(grandchild)


async def test_a_grandchild_in_a_session_of_its_own_outlives_the_run_without_holding_us(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.executors.child.PIPE_SECONDS", 0.05)
    code = FAMILY.replace("'''])", "'''], start_new_session=True)")
    # The input is larger than the pipe, so that closing it must not wait for a reader either.
    attempt = begin.command(*python(code + "    print('done')"), input=json.dumps("x" * MEGABYTE))
    grandchild = await begun(attempt)
    try:
        assert await attempt.outcome() == Succeeded(b'"done"')
        assert is_alive(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)


async def test_the_last_resort_kills_the_group_at_once(begin: Begin) -> None:
    attempt = begin.command(*python(DEAF))
    pid = await begun(attempt)
    attempt.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt.outcome()
    assert not is_alive(pid)
    assert pid not in children_of(os.getpid())


async def test_a_cancellation_during_the_start_leaves_nothing(begin: Begin) -> None:
    attempt = begin.command(*python(DEAF))
    await asyncio.sleep(0)
    attempt.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt.outcome()


async def test_a_hundred_programs_run_side_by_side(begin: Begin) -> None:
    attempts = [begin.command("/bin/sh", "-c", f"cat > /dev/null; echo {n}") for n in range(100)]
    outcomes = [await attempt.outcome() for attempt in attempts]
    assert outcomes == [Succeeded(str(n).encode()) for n in range(100)]


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        ((), {}, "must name a program"),
        (("",), {}, "must name a program"),
        (("a\0b",), {}, "NUL"),
        (("a",), {"TOCSIN_RUN_ID": "1"}, "TOCSIN_RUN_ID"),
        (("a",), {"A=B": "1"}, "A=B"),
    ],
)
def test_a_command_that_could_not_be_started_is_refused_when_declared(
    argv: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        CommandAgent(spec=AgentSpec(name="agent"), argv=argv, env=env)
