"""Commands that speak to a hub elsewhere: how they find it, what they show it, and what they say where it fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE, Answer, Hub

Tocsin = Callable[..., Answer]
Start = Callable[..., Hub]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def url(hub: Start, app: Path, dsn: str, tocsin: Tocsin) -> str:
    """A hub that serves the app."""
    found = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    return str(found.wait_for("hub.ready")["url"])


def test_url_is_an_option_and_a_setting_and_comes_before_the_database(
    tocsin: Tocsin, url: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobodys = "postgresql://nobody@[::1]:1/x"
    asked = tocsin("--url", url, "trigger", "show", "yearly", "--json", TOCSIN_DATABASE_URL=nobodys)
    assert (asked.code, asked.objects[0]["name"]) == (0, "yearly")
    assert tocsin("trigger", "show", "yearly", "--json", TOCSIN_URL=url).objects == asked.objects
    (place / "tocsin.toml").write_text(f'[hub]\nurl = "{url}"\n')
    assert tocsin("trigger", "show", "yearly", "--json").objects == asked.objects
    monkeypatch.setattr("tocsin.cli.connection.ANSWERED_WITHIN", 0.3)
    assert tocsin("--url", NOWHERE, "trigger", "list", "--json", TOCSIN_URL=url).code == 3


def test_a_key_comes_from_the_environment_or_a_file_and_is_no_option(
    tocsin: Tocsin, url: str, dsn: str, place: Path
) -> None:
    key = tocsin("key", "create", "root", "--scope", "admin", TOCSIN_DATABASE_URL=dsn).out.strip()
    reader = tocsin("key", "create", "reader", "--scope", "read", TOCSIN_DATABASE_URL=dsn).out.strip()
    none = tocsin("trigger", "list", TOCSIN_URL=url)
    assert (none.code, none.out) == (1, "")
    assert "a key is asked for" in none.lines[-1]
    assert none.lines[-1].endswith("or TOCSIN_KEY for commands")
    (place / "key").write_text(reader + "\n")
    assert tocsin("trigger", "list", "--json", TOCSIN_URL=url, TOCSIN_KEY_FILE="key").code == 0
    refused = tocsin("trigger", "fire", "yearly", TOCSIN_URL=url, TOCSIN_KEY_FILE="key")
    assert (refused.code, "this needs a key of scope operate" in refused.lines[-1]) == (1, True)
    for words in (["--key", key, "trigger", "list"], ["trigger", "list", "--key", key]):
        assert tocsin(*words, TOCSIN_URL=url).code == 2
    assert "cli:" not in tocsin("run", "list", "--json", TOCSIN_URL=url, TOCSIN_KEY=key).out
    run = tocsin("trigger", "fire", "by-hand", "--json", TOCSIN_URL=url, TOCSIN_KEY=key).objects[0]["id"]
    shown = tocsin("run", "show", run[:13], "--json", TOCSIN_URL=url, TOCSIN_KEY=key).objects[0]
    assert shown["transitions"][0]["actor"] == "key:root"


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        ({"TOCSIN_URL": NOWHERE}, 3, "no answer from http://127.0.0.1:9"),
        ({"TOCSIN_URL": "hub.example"}, 2, "must be a URL such as"),
        ({"TOCSIN_URL": "http://hub.example", "TOCSIN_KEY": "tocsin_x"}, 2, "TOCSIN_HTTP_INSECURE"),
        ({"TOCSIN_URL": "https://hub.example", "TOCSIN_CA": "nothing.pem"}, 2, "TOCSIN_CA=nothing.pem"),
        ({"TOCSIN_URL": NOWHERE, "TOCSIN_KEY": "a", "TOCSIN_KEY_FILE": "b"}, 2, "exclude each other"),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    tocsin: Tocsin, settings: dict[str, str], code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.cli.connection.ANSWERED_WITHIN", 0.3)
    answer = tocsin("trigger", "list", **settings)
    assert (answer.code, answer.out) == (code, "")
    (line,) = answer.lines
    assert told in line
    assert "tocsin_x" not in line


@pytest.mark.parametrize("words", [["sync", "app.py"], ["migrate"]])
def test_what_works_on_the_database_itself_says_so(tocsin: Tocsin, app: Path, words: list[str]) -> None:
    for answer in (tocsin(*words, TOCSIN_URL=NOWHERE), tocsin("--url", NOWHERE, *words)):
        assert (answer.code, answer.out) == (1, "")
        (line,) = answer.lines
        assert line.startswith(f"tocsin: `tocsin {words[0]}` works on the database itself")


def test_the_doctor_asks_the_hub_and_says_what_it_does_not_look_at(
    tocsin: Tocsin, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tocsin("doctor", "--json", TOCSIN_URL=url)
    assert answer.code == 0
    found = {row["check"]: row for row in answer.objects}
    assert found["hub"]["found"] == f"{url} answers; 1 replica alive"
    assert "not looked at" in found["database"]["found"]
    monkeypatch.setattr("tocsin.cli.connection.ANSWERED_WITHIN", 0.3)
    away = tocsin("doctor", TOCSIN_URL=NOWHERE)
    assert (away.code, "no answer from" in away.out) == (3, True)


def without(modules: str, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a command does in a process in which these modules cannot be had."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r}.split()));"
        f"from tocsin.cli.program import run_command; sys.exit(run_command({words!r}))"
    )
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_what_speaks_to_a_hub_elsewhere_needs_nothing_of_one(url: str, environment: dict[str, str]) -> None:
    """As after ``pip install 'tocsin[client]'``."""
    of_a_hub = "asyncpg fastapi uvicorn grpc google.protobuf starlette"
    for words in (["trigger", "list", "--json"], ["doctor"], ["trigger", "fire", "by-hand", "--watch"]):
        done = without(of_a_hub, words, environment | {"TOCSIN_URL": url})
        assert (done.returncode, done.stderr) == (0, "")


def test_a_client_that_is_not_installed_is_named(environment: dict[str, str]) -> None:
    done = without("httpx2", ["trigger", "list"], environment | {"TOCSIN_URL": NOWHERE})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("pip install 'tocsin[client]'")


@pytest.mark.parametrize("where", ["TOCSIN_URL", "TOCSIN_DATABASE_URL"])
def test_a_run_is_fired_and_followed_to_its_end(tocsin: Tocsin, url: str, dsn: str, where: str) -> None:
    place = {where: url if where == "TOCSIN_URL" else dsn}
    for trigger, code, state in (("by-hand", 0, "succeeded"), ("broken-leg", 1, "failed")):
        watched = tocsin("trigger", "fire", trigger, "--watch", "--json", **place)
        assert watched.code == code, watched.err
        assert [row["state"] for row in watched.objects if row["change"] == "state"][-1] == state
        again = tocsin("run", "watch", watched.objects[0]["run"], "--json", **place)
        assert (again.code, again.objects[-1]) == (code, watched.objects[-1])
        told = tocsin("run", "watch", watched.objects[0]["run"], **place)
        assert (told.code, state in told.out.splitlines()[-1]) == (code, True)


def test_a_run_that_is_cancelled_meanwhile_has_a_code_of_its_own(tocsin: Tocsin, url: str) -> None:
    run = tocsin("trigger", "fire", "long", "--json", TOCSIN_URL=url).objects[0]["id"]
    assert tocsin("run", "cancel", run, TOCSIN_URL=url).code == 0
    watched = tocsin("run", "watch", run, "--json", TOCSIN_URL=url)
    assert watched.code == 5
    assert watched.objects[-1]["state"] == "cancelled"


@pytest.mark.parametrize("said", ["waiting 50%", "begun"], ids=["progress", "a line"])
def test_what_an_agent_says_is_told_while_it_runs_and_ctrl_c_lets_the_run_go_on(
    tocsin: Tocsin, url: str, environment: dict[str, str], said: str
) -> None:
    words = [sys.executable, "-m", "tocsin.cli", "trigger", "fire", "long", "--watch"]
    env = environment | {"TOCSIN_URL": url, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            for line in watching.stdout:
                if line.rstrip().endswith(said):
                    break
            watching.send_signal(signal.SIGINT)
            assert watching.wait(PATIENCE) == 130
            (note,) = watching.stderr.read().splitlines()
        finally:
            watching.kill()
    run = note.split()[2]
    assert (
        note
        == f"tocsin: run {run} goes on: `tocsin run watch {run}` follows it again, `tocsin run cancel {run}` ends it"
    )
    assert tocsin("run", "show", run, "--json", TOCSIN_URL=url).objects[0]["state"] == "running"


def test_a_process_of_its_own_is_none_of_the_urls_business(hub: Start, app: Path, dsn: str) -> None:
    """An agent of it may well want to speak to another hub."""
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn, TOCSIN_URL=NOWHERE)
    assert started.url != NOWHERE
    assert os.environ.get("TOCSIN_URL") is None


def test_why_it_takes_so_long_is_told_once(tocsin: Tocsin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.cli.connection.UNEXPLAINED", 0.1)
    monkeypatch.setattr("tocsin.cli.connection.ANSWERED_WITHIN", 1.5)
    answer = tocsin("trigger", "list", TOCSIN_URL=NOWHERE)
    note, error = answer.lines
    assert note == f"{error}; trying for 1.5 s"
