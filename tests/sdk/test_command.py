"""``tocsin work`` as a process: its imports, its options, its signals and its exit codes."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.cli.conftest import Answer, app, environment, place, process, tocsin
from tests.cli.conftest import Hub as Process
from tests.sdk.scripted import ScriptedHub, an_assignment
from tocsin.domain.errors import BadInput
from tocsin.sdk.dial import Access, hubs_of

__all__ = ["app", "environment", "place", "process", "tocsin"]

Tocsin = Callable[..., Answer]
SERVERS = ("tocsin.store", "tocsin.hub", "tocsin.serve", "tocsin.edges", "asyncpg", "uvicorn")


@pytest.fixture
def work(hub: ScriptedHub, place: Path, environment: dict[str, str]) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*words: str, **settings: str) -> Process:
        command = [sys.executable, "-m", "tocsin.cli", "work", *words, "--hub", hub.address, "--json"]
        started.append(Process(command, place, environment | settings))
        return started[-1]

    yield begin
    for each in started:
        each.close()


def test_a_process_that_only_runs_agents_loads_nothing_of_a_hub() -> None:
    program = f"import sys, tocsin.sdk.agent; print([name for name in {SERVERS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_a_process_works_and_leaves_when_it_is_told_to(
    work: Callable[..., Process], hub: ScriptedHub, app: Path
) -> None:
    started = work(str(app), "--slots", "3", "--name", "mine", "--label", "zone=a", TOCSIN_AGENT_KEY="k")
    stream = hub.stream().welcome()
    assert (stream.hello.name, stream.hello.slots, dict(stream.hello.labels)) == ("mine", 3, {"zone": "a"})
    assert stream.metadata["authorization"] == "Bearer k"
    run = an_assignment("greet", input=b'{"name": "you"}')
    stream.assign(run)
    assert stream.result_of(run).succeeded == b'{"hello":"you"}'
    stream.settle(run)
    started.send()
    assert not stream.expect("goodbye").returned
    stream.end()
    assert started.end() == 0
    assert started.said() == ""


def test_what_was_returned_is_told_by_the_exit_code(work: Callable[..., Process], hub: ScriptedHub, app: Path) -> None:
    started = work(str(app), TOCSIN_DRAIN_TIMEOUT="60s")
    stream = hub.stream().welcome()
    run = an_assignment("endless")
    stream.assign(run)
    stream.expect("begun")
    started.send(signal.SIGINT)
    started.wait_for("agent.draining", in_hand=1)
    started.send(signal.SIGTERM)
    assert [each.run_id for each in stream.expect("goodbye").returned] == [run.run_id]
    stream.end()
    assert started.end() == 4


@pytest.mark.parametrize(
    ("code", "exit_code"), [(grpc.StatusCode.UNAUTHENTICATED, 1), (grpc.StatusCode.INVALID_ARGUMENT, 2)]
)
def test_a_refusal_is_one_line(
    work: Callable[..., Process], hub: ScriptedHub, app: Path, code: grpc.StatusCode, exit_code: int
) -> None:
    started = work(str(app))
    hub.stream().refuse(code, "no such key")
    assert started.end() == exit_code
    (line,) = started.said().splitlines()
    assert line.startswith(f"tocsin: {hub.address} refuses these agents: no such key")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hub", "hub.example:8621"], "TOCSIN_GRPC_INSECURE"),
        (["--hub", "nowhere"], "HOST:PORT"),
        (["--label", "zone"], "KEY=VALUE"),
        (["--slots", "0"], "--slots"),
    ],
)
def test_misuse_is_one_line(tocsin: Tocsin, app: Path, words: list[str], told: str) -> None:
    answer = tocsin("work", str(app), *words)
    assert answer.code == 2
    (line,) = answer.lines
    assert told in line


def test_without_grpc_the_extra_is_named(process: Tocsin, place: Path, app: Path) -> None:
    (place / "grpc.py").write_text("raise ModuleNotFoundError(name='grpc')")
    answer = process("work", str(app), PYTHONPATH=f"{place}:{Path(__file__).parents[2] / 'src'}")
    assert answer.code == 1
    (line,) = answer.lines
    assert "pip install 'tocsin[agent]'" in line


@pytest.mark.parametrize("missing", ["TOCSIN_GRPC_CA", "TOCSIN_GRPC_CERT"])
def test_a_certificate_that_is_not_there_is_named(tocsin: Tocsin, app: Path, missing: str) -> None:
    answer = tocsin("work", str(app), **{"TOCSIN_GRPC_KEY": __file__, "TOCSIN_GRPC_CERT": __file__} | {missing: "none"})
    assert answer.code == 2
    assert answer.lines == [f"tocsin: {missing}=none: No such file or directory"]


@pytest.mark.parametrize("text", ["127.0.0.1:1", "localhost:8621", "[::1]:8621", "127.8.8.8:1, localhost:2"])
def test_this_machine_is_spoken_to_in_plain_text(text: str) -> None:
    assert len(hubs_of(text, Access())) == text.count(",") + 1


@pytest.mark.parametrize("text", ["hub:1", "10.0.0.1:1", "127.0.0.1:1,hub:2", "localhost.example:1", "[::2]:1"])
def test_another_machine_is_not_unless_it_is_said(text: str) -> None:
    with pytest.raises(BadInput, match="plain text"):
        hubs_of(text, Access())
    assert hubs_of(text, Access(insecure=True))
    assert hubs_of(text, Access(ca=b""))


@pytest.mark.parametrize("text", ["", ",", "hub", ":1", "hub:", "hub:x", "hub:0", "hub:65536", "::1:8621"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="HOST:PORT"):
        hubs_of(text, Access(insecure=True))
