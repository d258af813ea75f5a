"""Completion, in the shells themselves: what stands after the press of the key is what may stand there."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, Hub

Tocsin = Callable[..., Answer]
Start = Callable[..., Hub]
Complete = Callable[..., list[str]]

ASK_BASH = """
source <(tocsin completion bash)
complete -p tocsin >/dev/null || exit 9
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_tocsin_completion tocsin
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def program(place: Path) -> Path:
    """A directory for PATH in which there is a tocsin."""
    path = place / "bin" / "tocsin"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tocsin.cli "$@"\n')
    path.chmod(0o755)
    return path.parent


@pytest.fixture
def complete(place: Path, program: Path, environment: dict[str, str]) -> Complete:
    """What bash puts in the place of the last word."""

    def ask(*words: str, **settings: str) -> list[str]:
        env = environment | settings | {"PATH": f"{program}:{environment['PATH']}"}
        command = ["bash", "--norc", "-c", ASK_BASH, "bash", "tocsin", *words]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_bash_completes_commands_options_and_words(complete: Complete) -> None:
    assert complete("tri") == ["trigger"]
    assert {"list", "fire", "why"} <= set(complete("trigger", ""))
    assert "--catch-up" in complete("trigger", "edit", "x", "--")
    assert complete("run", "list", "--state", "s") == ["succeeded", "skipped"]
    assert complete("trigger", "add", "x", "--overlap", "queue_o") == ["queue_one"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]


@pytest.fixture
def url(hub: Start, app: Path, dsn: str) -> str:
    return hub("up", str(app), TOCSIN_DATABASE_URL=dsn).url


@pytest.mark.parametrize("where", ["TOCSIN_URL", "TOCSIN_DATABASE_URL"])
def test_bash_completes_names(complete: Complete, url: str, tocsin: Tocsin, dsn: str, where: str) -> None:
    place = {where: url if where == "TOCSIN_URL" else dsn}

    def named(*words: str, **settings: str) -> list[str]:
        """Pressed again where nothing came: on a loaded machine a second may be too short."""
        return next(filter(None, (complete(*words, **settings) for _ in range(10))), [])

    assert named("trigger", "fire", "by", **place) == ["by-hand"]
    assert named("trigger", "fire", "by-hand", **place) == ["by-hand"]
    assert named("trigger", "why", "", **place) == ["broken-leg", "by-hand", "deaf", "long", "often", "yearly"]
    assert named("trigger", "add", "x", "--agent", "g", **place) == ["greet"]
    assert named("agent", "show", "", **place) == ["endless", "fail", "greet", "stubborn"]
    run = str(tocsin("trigger", "fire", "long", "--json", **place).objects[0]["id"])
    assert named("run", "watch", run[:20], **place) == [run]
    if where == "TOCSIN_URL":
        assert named("--url", url, "trigger", "fire", "by") == ["by-hand"]


def test_where_there_are_no_names_nothing_is_said_and_nothing_started(complete: Complete, place: Path) -> None:
    assert complete("trigger", "fire", "") == []
    assert not (place / "home").exists()
    assert complete("trigger", "fire", "", TOCSIN_LEASE="nonsense") == []
    begun = time.monotonic()
    assert complete("trigger", "fire", "", TOCSIN_URL="http://127.0.0.1:9") == []
    assert complete("trigger", "fire", "", TOCSIN_DATABASE_URL="postgresql://x@192.0.2.1/x") == []
    # A second for each, and what two starts of a shell and a program take on a loaded machine.
    assert time.monotonic() - begun < 15


def test_no_server_is_started_for_names(complete: Complete, hub: Start, app: Path, place: Path) -> None:
    started = hub("up", str(app))
    started.wait_for("hub.ready")
    started.send()
    assert started.end() == 0
    assert complete("trigger", "fire", "") == []
    log = (place / "home" / "postgres.log").read_text()
    assert log.count("ready to accept connections") == 1


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh on this machine")
def test_zsh_completes(place: Path, program: Path, environment: dict[str, str]) -> None:
    script = (
        "autoload -U compinit; compinit -u; source <(tocsin completion zsh); [[ -n ${_comps[tocsin]} ]] && echo there"
    )
    env = environment | {"PATH": f"{program}:{environment['PATH']}", "HOME": str(place)}
    done = subprocess.run(["zsh", "-f", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "_tocsin_completion"


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish on this machine")
def test_fish_completes(place: Path, program: Path, environment: dict[str, str]) -> None:
    script = "tocsin completion fish | source; complete -C 'tocsin tri'"
    env = environment | {"PATH": f"{program}:{environment['PATH']}", "HOME": str(place)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split()[0] == "trigger"


@pytest.mark.parametrize(("shell", "part"), [("zsh", "#compdef tocsin"), ("fish", "complete --command tocsin")])
def test_every_shell_has_a_script(tocsin: Tocsin, shell: str, part: str) -> None:
    answer = tocsin("completion", shell)
    assert (answer.code, answer.out.startswith(part), answer.err) == (0, True, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_the_scripts_of_other_shells_ask_is_answered(
    process: Tocsin, shell: str, environment: dict[str, str]
) -> None:
    asked = {
        "_TOCSIN_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "tocsin tri",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    answer = process(**asked)
    assert (answer.code, "trigger" in answer.out, answer.err) == (0, True, "")


def test_an_unknown_shell_is_refused(tocsin: Tocsin) -> None:
    answer = tocsin("completion", "tcsh")
    assert (answer.code, "'tcsh' is not one of 'bash', 'zsh', 'fish'" in answer.lines[0]) == (2, True)
