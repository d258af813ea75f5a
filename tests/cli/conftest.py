"""The command line as a person meets it: a process of its own, in a directory of its own."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tocsin.cli import main

PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """One object for each line of stdout, and nothing else on it."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


class Hub:
    """A hub's process whose JSON log lines are read as they come."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.events: list[dict[str, Any]] = []
        self._come = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._come:
                self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})
                self._come.notify_all()
        with self._come:
            self._ended = True
            self._come.notify_all()

    def wait_for(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The event with these fields has been logged ``count`` times."""

        def found() -> list[dict[str, Any]]:
            wanted = {"event": event, **fields}
            return [line for line in self.events if wanted.items() <= line.items()]

        with self._come:
            self._come.wait_for(lambda: len(found()) >= count or self._ended, PATIENCE)
            matching = found()
        assert len(matching) >= count, (
            f"no {event} {fields} among the last of {self.events[-10:]}; it said {self.said()!r}"
        )
        return matching[count - 1]

    @property
    def url(self) -> str:
        return str(self.wait_for("hub.ready")["url"])

    def send(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """The exit code, once the process is gone and its log is read to the end."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def said(self) -> str:
        """What stands on stderr, of a process that has ended."""
        if self.process.poll() is None or self.process.stderr is None:
            return ""
        return self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory in which commands run."""
    return tmp_path


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    """This process's environment without its settings; port 0 keeps tests out of each other's way."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    return clean | {
        "TOCSIN_HOME": str(place / "home"),
        "TOCSIN_HTTP_BIND": "127.0.0.1:0",
        "TOCSIN_GRPC_BIND": "127.0.0.1:0",
        "COLUMNS": "100",
    }


@pytest.fixture
def tocsin(
    place: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs one command to its end, in this process, as `python -m tocsin.cli` would."""
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)

    def run(*words: str, stdin: str = "", **settings: str) -> Answer:
        with monkeypatch.context() as patch:
            patch.chdir(place)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            patch.setattr(sys, "path", list(sys.path))
            for name, value in (environment | settings).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main(words)
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return run


@pytest.fixture
def process(place: Path, environment: dict[str, str]) -> Callable[..., Answer]:
    """Runs one command to its end, in a process of its own."""

    def run(*words: str, **settings: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "tocsin.cli", *words],
            cwd=place,
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def hub(place: Path, environment: dict[str, str]) -> Iterator[Callable[..., Hub]]:
    """Starts hubs, and sees that none is left."""
    hubs: list[Hub] = []

    def start(*words: str, **settings: str) -> Hub:
        hubs.append(Hub([sys.executable, "-m", "tocsin.cli", *words, "--json"], place, environment | settings))
        return hubs[-1]

    yield start
    for started in hubs:
        started.close()


@pytest.fixture
def app(place: Path) -> Path:
    """An app with an agent for every mood."""
    path = place / "app.py"
    path.write_text(
        '''
import asyncio
from tocsin import Fatal, Hub, Run, cron, every

hub = Hub()

@hub.agent
async def greet(run: Run) -> dict:
    return {"hello": (run.input or {}).get("name", "world")}

@hub.agent
async def endless(run: Run) -> None:
    run.log("begun")
    run.progress("waiting", 0.5)
    await asyncio.sleep(3600)

@hub.agent
async def stubborn(run: Run) -> None:
    """Takes a moment to stop, however it is asked."""
    for _ in range(1000):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue

@hub.agent
def fail(run: Run) -> None:
    raise Fatal("it was no use")

hub.trigger("often", greet, every("1s"))
hub.trigger("yearly", greet, cron("0 0 1 1 *", tz="Europe/Paris"), input={"name": "year"})
hub.trigger("by-hand", greet)
hub.trigger("long", endless)
hub.trigger("deaf", stubborn)
hub.trigger("broken-leg", fail)
''',
        encoding="utf-8",
    )
    return path
