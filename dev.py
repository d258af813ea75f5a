#!/usr/bin/env python3
"""One file to start from: makes .venv, installs what is pinned, runs what was asked for.

    python3 dev.py demo  [args]   a real example on an embedded PostgreSQL
    python3 dev.py test  [args]   the test suite; arguments go to pytest
    python3 dev.py check          format, lint, types, import arrows: what CI runs
    python3 dev.py fmt            put the code into the one format
    python3 dev.py bench [args]   the benchmarks
    python3 dev.py chaos [args]   real replicas under faults, judged by a checker; see tests/chaos
    python3 dev.py lock           make constraints.txt anew from pyproject.toml
    python3 dev.py proto          make the wire's classes anew from proto/

Needs Python 3.11 or newer and nothing else; takes uv where it is on PATH. A second run
installs nothing unless pyproject.toml or constraints.txt have changed.
"""

import os
import shutil
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036 — this file is read by whatever python3 there is
    for name in ("python3.13", "python3.12", "python3.11"):
        newer = shutil.which(name)
        # It is tried first, because a version manager puts names on PATH that lead nowhere.
        if newer and subprocess.call([newer, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(newer, [newer] + sys.argv)  # noqa: RUF005 — older syntax on purpose
    sys.exit(f"Tocsin needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")

import hashlib
import importlib.util
import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PROGRAMS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = PROGRAMS / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "tocsin-installed.json"
CONSTRAINTS = ROOT / "constraints.txt"
DEMO = ("embedded",)
WORK = ("client", "embedded", "dev", "bench", "otel")
EVERYTHING = ("client", "embedded", "ai", "dev", "bench", "otel")
# What a freeze shows besides what was installed for us.
NOT_PINNED = ("#", "pip==", "setuptools==", "wheel==", "tocsin==")
PIP = ("-m", "pip", "--disable-pip-version-check")
CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy", "--no-error-summary"]),
    ("import arrows", ["lint-imports", "--no-logo"]),
)


def main(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": demo,
        "test": test,
        "check": check,
        "fmt": fmt,
        "bench": bench,
        "chaos": chaos,
        "lock": lock,
        "proto": proto,
    }
    if command in {"help", "-h", "--help"}:
        print(__doc__)
        return 0
    if command not in commands:
        print(f"dev.py has no command {command!r}; see python3 dev.py --help", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    return commands[command](rest)


def demo(arguments: list[str]) -> NoReturn:
    install(DEMO)
    become([PROGRAMS / "tocsin", "up", "examples/demo.py", *["--work", "examples/elsewhere.py"] * 2, *arguments])


def test(arguments: list[str]) -> NoReturn:
    install(WORK)
    become([PYTHON, "-m", "pytest", *arguments])


def bench(arguments: list[str]) -> NoReturn:
    install(WORK)
    become([PYTHON, "-m", "benchmarks", *arguments])


def chaos(arguments: list[str]) -> NoReturn:
    install(WORK)
    become([PYTHON, "-m", "tests.chaos", *arguments])


def check(_: list[str]) -> int:
    """0 when all checks pass; each is run even if one before it failed."""
    install(WORK)
    failed = []
    for title, command in CHECKS:
        started = time.monotonic()
        result = quietly([str(PROGRAMS / command[0]), *command[1:]])
        say(f"{title}: {'failed' if result.returncode else 'ok'} ({time.monotonic() - started:.1f} s)")
        if result.returncode:
            failed.append(title)
            print(result.stdout, flush=True)
    if failed:
        say(f"failed: {', '.join(failed)}; python3 dev.py fmt mends what can be mended by itself")
    return 1 if failed else 0


def fmt(_: list[str]) -> int:
    install(WORK)
    mended = subprocess.run([PROGRAMS / "ruff", "check", "--fix", "."], check=False).returncode
    return subprocess.run([PROGRAMS / "ruff", "format", "."], check=False).returncode or mended


def proto(_: list[str]) -> int:
    """The wire's classes anew from its description."""
    install(WORK)
    what = [
        "-m",
        "grpc_tools.protoc",
        "-I",
        "proto",
        "--python_out=src",
        "--pyi_out=src",
        "proto/tocsin/v1/agent.proto",
    ]
    return subprocess.run([PYTHON, *what], check=False).returncode


def lock(_: list[str]) -> int:
    """constraints.txt pins every package that any extra or the build brings, at today's versions."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as directory:
        python = str(Path(directory) / "venv" / PYTHON.relative_to(VENV))
        attempt([sys.executable, "-m", "venv", str(Path(directory) / "venv")], "no virtual environment was made")
        say("resolving every extra")
        what = ["--editable", f".[{','.join(EVERYTHING)}]", *build]
        attempt([python, *PIP, "install", "--quiet", *what], "no set of versions fits together")
        frozen = quietly([python, *PIP, "freeze", "--all"]).stdout.splitlines()
    pins = sorted((pin for pin in frozen if "==" in pin and not pin.startswith(NOT_PINNED)), key=str.lower)
    CONSTRAINTS.write_text("\n".join(["# Made by: python3 dev.py lock", *pins]) + "\n")
    say(f"constraints.txt pins {len(pins)} packages")
    return 0


def install(extras: tuple[str, ...]) -> None:
    """The virtual environment has this checkout and these extras, at the pinned versions."""
    installed = read_stamp()
    state = {"files": fingerprint(), "root": str(ROOT), "python": version_of(PYTHON, needs_pip=False)}
    if set(extras) <= set(installed.get("extras", ())) and state.items() <= installed.items():
        return
    # What was installed for another command stays: demo and test do not undo each other.
    extras = tuple(sorted({*extras, *installed.get("extras", ())}))
    STAMP.unlink(missing_ok=True)
    uv = shutil.which("uv")
    moved = installed.get("root", str(ROOT)) != str(ROOT) or installed.get("python", state["python"]) != state["python"]
    if moved or version_of(PYTHON, needs_pip=uv is None) is None:
        make_venv(uv)
    say(f"installing Tocsin [{', '.join(extras)}] into .venv; the first time takes about a minute")
    started = time.monotonic()
    what = ["--constraint", str(CONSTRAINTS), "--editable", f".[{','.join(extras)}]"]
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), "--build-constraints", str(CONSTRAINTS)]
    else:
        command = [str(PYTHON), *PIP, "install", "--quiet"]
    failed = "the installation failed; the lines above say why. The same command tries again from here"
    attempt([*command, *what], failed, constrained=uv is None)
    state["python"] = version_of(PYTHON, needs_pip=False)
    STAMP.write_text(json.dumps({**state, "extras": extras}))
    say(f"installed in {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()


def read_stamp() -> dict[str, Any]:
    try:
        stamp: dict[str, Any] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def version_of(python: Path, *, needs_pip: bool) -> str | None:
    """Its version, such as 3.11; None when it is missing, broken or too old."""
    probe = (
        f"import sys{', pip' if needs_pip else ''}; print('%d.%d' % sys.version_info[:2], sys.version_info >= (3, 11))"
    )
    try:
        answer = quietly([str(python), "-I", "-c", probe])
    except OSError:
        return None
    version, _, new_enough = answer.stdout.strip().partition(" ")
    return version if answer.returncode == 0 and new_enough == "True" else None


def make_venv(uv: str | None) -> None:
    """.venv is new, of the Python that runs this."""
    if VENV.exists():
        say("remaking .venv, which is unfinished, broken or was moved here")
        shutil.rmtree(VENV)
    # When this runs inside a virtual environment, the new one hangs on the Python below it.
    python = getattr(sys, "_base_executable", sys.executable)
    if uv:
        attempt([uv, "venv", "--quiet", "--python", python, str(VENV)], "uv made no virtual environment")
        return
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"this Python has no {' and no '.join(missing)}: "
            "apt install python3-venv (Debian, Ubuntu), or take uv or another Python"
        )
    attempt([python, "-m", "venv", str(VENV)], "no virtual environment was made: apt install python3-venv may help")


def attempt(command: list[str], otherwise: str, *, constrained: bool = False) -> None:
    """The command has succeeded, without a word; else its last words are shown and we are gone."""
    result = quietly(command, constrained=constrained)
    if result.returncode:
        print("\n".join(result.stdout.splitlines()[-20:]), file=sys.stderr)
        sys.exit(f"dev.py: {otherwise}")


def quietly(command: list[str], *, constrained: bool = False) -> "subprocess.CompletedProcess[str]":
    env = dict(os.environ)
    if constrained:
        # These reach the isolated build too, for which pip's --constraint counts for nothing.
        env["PIP_CONSTRAINT"] = env["PIP_BUILD_CONSTRAINT"] = CONSTRAINTS.as_uri()
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        check=False,
    )


def become(command: list[str | Path]) -> NoReturn:
    """This process is the command: signals reach it once, and its exit code is ours."""
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.run(command, check=False).returncode)
    os.execv(command[0], [str(word) for word in command])


def say(words: str) -> None:
    print(f"dev.py: {words}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
