"""The demo runs as it is shown, from the command line, on a home of its own."""

import asyncio
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"
TRIGGERS = {"disk", "digest", "index", "inventory", "proofread", "weekday-digest"}
SECONDS = 16

sys.path.insert(0, str(DEMO.parent))
# They lie beside the demo and not in the package.
changes_of = importlib.import_module("history").changes_of
prose_of = importlib.import_module("prose").prose_of


def environment(home: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "OPENAI_"))}
    return env | {"TOCSIN_HOME": str(home), "TOCSIN_HTTP_BIND": "127.0.0.1:0", "TOCSIN_GRPC_BIND": "127.0.0.1:0"}


def tocsin(*words: str, env: dict[str, str]) -> list[dict[str, Any]]:
    """What a command prints, each line of it JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tocsin.cli", *words], env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(150)
def test_the_demo_shows_agents_at_work(tmp_path: Path) -> None:
    env = environment(tmp_path / "home")
    lines = tocsin("up", str(DEMO), "--json", "--for", str(SECONDS), env=env)
    events = Counter(line["event"] for line in lines)
    begun = next(number for number, line in enumerate(lines) if line["event"] == "hub.ready")
    assert any(line["event"] == "run.settled" for line in lines[begun : begun + 30])
    assert {line["trigger"] for line in lines if line["event"] == "trigger.fired"} >= TRIGGERS - {"weekday-digest"}
    assert events["run.skipped"] >= 1
    assert any(line.get("reason") in {"retry", "retry_after"} for line in lines)
    assert lines[-1]["event"] == "hub.summary"
    assert lines[-1]["failed"] == lines[-1]["released"] == 0

    runs = tocsin("run", "list", "--all", "--json", env=env)
    ended = {run["trigger"] for run in runs if run["state"] == "succeeded"}
    assert ended >= {"disk", "digest", "index", "inventory"}
    assert any(run["kind"] == "follow_up" for run in runs)
    digests = [run["output"] for run in runs if run["trigger"] == "digest" and run["state"] == "succeeded"]
    written = [output["file"] for output in digests if output["file"]]
    assert all((tmp_path / "home" / "digests" / file).read_text(encoding="utf-8").startswith("# ") for file in written)
    assert written


@pytest.mark.timeout(60)
def test_the_demo_declares_the_same_each_time(tmp_path: Path) -> None:
    env = environment(tmp_path)
    ask = "from tocsin import load_app; print([t for t in load_app('examples/demo.py').triggers])"
    said = [subprocess.check_output([sys.executable, "-c", ask], env=env, cwd=ROOT, text=True) for _ in range(2)]
    assert said[0] == said[1]
    assert all(repr(name) in said[0] for name in TRIGGERS)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "repository"
    place.mkdir()
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(place, "init", "-q", ".")
    for number in range(3):
        commit(place, f"change {number}")
    return place


def git(place: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, "-C", str(place), *words], check=True, capture_output=True)


def commit(place: Path, title: str) -> None:
    (place / "area").mkdir(exist_ok=True)
    (place / "area" / "file.txt").write_text(title, encoding="utf-8")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", title)


async def test_a_digest_goes_on_where_the_last_one_ended(repository: Path) -> None:
    first = await changes_of(repository, after=None, limit=2, report=lambda *_: None)
    assert [change.title for change in first.changes] == ["change 0", "change 1"]
    assert (first.left, first.source, first.changes[0].area) == (1, "git", "area")
    second = await changes_of(repository, after=first.head, limit=2, report=lambda *_: None)
    assert [change.title for change in second.changes] == ["change 2"]
    nothing = await changes_of(repository, after=second.head, limit=2, report=lambda *_: None)
    assert (nothing.changes, nothing.head) == ([], second.head)


async def test_a_rewritten_history_is_read_from_its_beginning(repository: Path) -> None:
    found = await changes_of(repository, after="0" * 40, limit=9, report=lambda *_: None)
    assert len(found.changes) == 3
    assert found.note is not None


async def test_without_git_the_files_are_read_by_their_time(tmp_path: Path) -> None:
    place = tmp_path / "archive"
    place.mkdir()
    for number, name in enumerate(("old.txt", "new.txt")):
        (place / name).write_text(name, encoding="utf-8")
        os.utime(place / name, (1_000_000 + number, 1_000_000 + number))
    found = await changes_of(place, after=None, limit=1, report=lambda *_: None)
    assert ([change.title for change in found.changes], found.left, found.source) == (["old.txt"], 1, "files")
    assert found.note is not None
    rest = await changes_of(place, after=found.head, limit=9, report=lambda *_: None)
    assert [change.title for change in rest.changes] == ["new.txt"]


async def test_prose_without_a_key_says_that_plain_code_wrote_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    found = await asyncio.wait_for(changes_of(tmp_path, after=None, limit=9, report=lambda *_: None), 10)
    prose = await prose_of(found.changes, found.source)
    assert "plain code" in prose.text
    assert prose.model is None


async def test_prose_with_a_key_is_a_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai", reason="the extra ai is not installed")
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    monkeypatch.setattr(sys.modules["prose"], "MODEL", "test")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    found = await changes_of(tmp_path, after=None, limit=9, report=lambda *_: None)
    prose = await prose_of(found.changes, found.source)
    assert (prose.model, prose.output_tokens > 0) == ("test", True)
    assert "plain code" not in prose.text
