"""``up`` and ``serve`` as processes: ports, health, signals, drains, exit codes."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.cli.conftest import PATIENCE, Answer, Hub

Tocsin = Callable[..., Answer]
Start = Callable[..., Hub]


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_up_brings_its_own_database_fires_and_sums_up(hub: Start, app: Path, tocsin: Tocsin) -> None:
    started = hub("up", str(app), "--for", "3")
    started.wait_for("schema.migrated")
    started.wait_for("run.settled", state="succeeded", trigger="often")
    summary = started.wait_for("hub.summary")
    assert started.end() == 0
    assert started.said() == ""
    assert summary["occurrences"] >= 2
    assert summary["succeeded"] == summary["occurrences"]
    assert summary["failed"] == summary["released"] == 0
    assert 0 < summary["lateness_p50"] <= summary["lateness_p99"] <= summary["lateness_max"]
    # The server went with the hub; a command starts it again for as long as it asks.
    runs = tocsin("run", "list", "--json").objects
    assert len(runs) == summary["occurrences"]
    assert "postmaster.pid" not in os.listdir(next((Path(app).parent / "home").glob("pg*")))


def test_health_and_readiness_are_told(hub: Start, app: Path, dsn: str) -> None:
    url = hub("up", str(app), TOCSIN_DATABASE_URL=dsn).url
    assert get(f"{url}/healthz") == (200, {"status": "alive", "version": "0.1.0"})
    assert get(f"{url}/readyz") == (200, {"status": "ready"})
    assert get(f"{url}/other")[0] == 404


def test_a_drain_is_unready_at_once_and_alive_to_its_end(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    url = started.url
    run = tocsin("trigger", "fire", "long", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    started.wait_for("run.started", run_id=run)
    started.send()
    started.wait_for("hub.draining")
    assert get(f"{url}/readyz") == (503, {"status": "unready", "reason": "draining"})
    assert get(f"{url}/healthz")[0] == 200
    # The second signal does not wait for what is in hand: it is given back, and nothing is lost.
    started.send()
    started.wait_for("hub.stopped", released=1)
    assert started.end() == 4
    shown = tocsin("run", "show", run, "--json", TOCSIN_DATABASE_URL=dsn).objects[0]
    assert shown["state"] == "queued"
    assert shown["transitions"][-1]["reason"] == "interrupted"
    assert shown["attempt"] == 0


def test_what_is_in_hand_may_end_within_the_limit(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    app.write_text(app.read_text().replace("sleep(3600)", "sleep(2)"))
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    started.wait_for("hub.ready")
    run = tocsin("trigger", "fire", "long", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    started.wait_for("run.started", run_id=run)
    started.send(signal.SIGINT)
    assert started.end() == 0
    started.wait_for("run.settled", run_id=run, state="succeeded")


def test_an_agent_that_does_not_listen_holds_nobody_up_after_the_third_signal(
    hub: Start, tocsin: Tocsin, app: Path, dsn: str
) -> None:
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    started.wait_for("hub.ready")
    run = tocsin("trigger", "fire", "deaf", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    started.wait_for("run.started", run_id=run)
    started.send()
    started.wait_for("hub.draining")
    for number in (2, 3):
        started.send()
        started.wait_for("hub.hurried", signals=number)
    assert started.end() == 4
    shown = tocsin("run", "show", run, "--json", TOCSIN_DATABASE_URL=dsn).objects[0]
    assert shown["finished_at"] is None


def test_the_fourth_signal_gives_up(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    app.write_text(app.read_text().replace("await asyncio.sleep(3600)", "__import__('time').sleep(3600)"))
    app.write_text(app.read_text().replace("async def endless", "def endless"))
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    started.wait_for("hub.ready")
    run = tocsin("trigger", "fire", "long", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    started.wait_for("run.started", run_id=run)
    started.send()
    started.wait_for("hub.draining")
    for number in (2, 3):
        started.send()
        started.wait_for("hub.hurried", signals=number)
    started.send()
    assert started.end() == 4


def test_the_second_hub_on_a_port_says_so_and_touches_nothing(hub: Start, app: Path, dsn: str, place: Path) -> None:
    first = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    bind = first.url.removeprefix("http://")
    second = hub("up", str(app), TOCSIN_HTTP_BIND=bind)
    assert second.end() == 1
    (line,) = second.said().splitlines()
    assert line.startswith(f"tocsin: TOCSIN_HTTP_BIND={bind}: another process listens there")
    assert not (place / "home").exists()
    assert get(f"{first.url}/readyz")[0] == 200


def test_an_address_that_is_not_this_hosts_is_one_line(hub: Start, app: Path, dsn: str) -> None:
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn, TOCSIN_HTTP_BIND="192.0.2.1:8620")
    assert started.end() == 1
    (line,) = started.said().splitlines()
    assert "TOCSIN_HTTP_BIND=192.0.2.1:8620" in line


def test_serving_without_an_app_fires_for_others(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    assert tocsin("sync", str(app), TOCSIN_DATABASE_URL=dsn).code == 0
    started = hub("serve", TOCSIN_DATABASE_URL=dsn)
    started.wait_for("trigger.fired", trigger="often")
    started.send()
    assert started.end() == 0
    assert tocsin("run", "list", "--state", "queued", "--json", TOCSIN_DATABASE_URL=dsn).objects


def test_agents_that_nobody_declared_are_warned_of(hub: Start, app: Path, dsn: str) -> None:
    started = hub("serve", str(app), TOCSIN_DATABASE_URL=dsn)
    assert "tocsin sync" in started.wait_for("agent.undeclared", agent="greet")["advice"]


def test_a_terminal_that_is_gone_does_not_end_a_hub(hub: Start, tocsin: Tocsin, app: Path, dsn: str) -> None:
    started = hub("up", str(app), TOCSIN_DATABASE_URL=dsn)
    url = started.url
    assert started.process.stdout is not None
    os.close(os.dup(started.process.stdout.fileno()))
    started.send(signal.SIGHUP)
    started.wait_for("terminal.gone")
    started.wait_for("run.settled", count=2, trigger="often")
    assert get(f"{url}/readyz")[0] == 200


def test_a_log_that_nobody_reads_any_more_stops_nothing(
    place: Path, environment: dict[str, str], app: Path, dsn: str, tocsin: Tocsin
) -> None:
    words = [sys.executable, "-m", "tocsin.cli", "up", str(app), "--for", "3", "--json"]
    env = environment | {"TOCSIN_DATABASE_URL": dsn}
    with subprocess.Popen(words, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
    assert len(tocsin("run", "list", "--json", TOCSIN_DATABASE_URL=dsn).objects) >= 2


def test_a_database_that_is_killed_is_started_again(hub: Start, app: Path, place: Path) -> None:
    started = hub("up", str(app))
    started.wait_for("run.settled", trigger="often")
    (pidfile,) = (place / "home").glob("pg*/postmaster.pid")
    killed = int(pidfile.read_text().split("\n", 1)[0])
    os.kill(killed, signal.SIGKILL)
    settled = sum(event.get("event") == "run.settled" for event in started.events)
    started.wait_for("run.settled", count=settled + 2)
    assert int(pidfile.read_text().split("\n", 1)[0]) != killed
    started.send()
    assert started.end() == 0


def test_a_signal_while_starting_leaves_nothing_behind(hub: Start, app: Path, place: Path) -> None:
    started = hub("up", str(app))
    while started.process.poll() is None and not (place / "home" / "start.lock").exists():
        os.sched_yield()
    started.send()
    assert started.end() == 0
    assert started.said() == ""
    assert not list((place / "home").glob("pg*/postmaster.pid"))


def test_ctrl_c_ends_a_command_and_lets_the_run_go_on(
    hub: Start, tocsin: Tocsin, app: Path, dsn: str, environment: dict[str, str]
) -> None:
    hub("up", str(app), TOCSIN_DATABASE_URL=dsn).wait_for("hub.ready")
    run = tocsin("trigger", "fire", "long", "--json", TOCSIN_DATABASE_URL=dsn).objects[0]["id"]
    words = [sys.executable, "-m", "tocsin.cli", "run", "watch", run, "--json"]
    env = environment | {"TOCSIN_DATABASE_URL": dsn}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(PATIENCE) == 130
            (said,) = watching.stderr.read().decode().splitlines()
            assert said.startswith(f"tocsin: run {run} goes on")
        finally:
            watching.kill()


def test_the_live_view_shows_what_happens_and_can_be_kept_as_a_picture(
    place: Path, environment: dict[str, str], app: Path, dsn: str
) -> None:
    shown, code = _on_terminal(["up", str(app), "--for", "4", "--record", "view.svg"], place, environment, dsn)
    assert code == 0
    for part in ("tocsin", "ready", "often", "succeeded", "since the start", "occurrences", "lateness p50", "stopped"):
        assert part in shown
    picture = ElementTree.fromstring((place / "view.svg").read_text())
    text = "".join(picture.itertext()).replace("\xa0", " ")
    assert "tocsin up" in text
    assert "often" in text


def test_the_live_view_bears_the_loss_of_its_terminal(
    place: Path, environment: dict[str, str], app: Path, dsn: str, tocsin: Tocsin
) -> None:
    _, code = _on_terminal(["up", str(app), "--for", "4"], place, environment, dsn, hang_up=True)
    assert code == 0
    assert len(tocsin("run", "list", "--json", TOCSIN_DATABASE_URL=dsn).objects) >= 3


def _on_terminal(
    words: list[str], place: Path, environment: dict[str, str], dsn: str, *, hang_up: bool = False
) -> tuple[str, int]:
    """Everything a terminal of 80×24 was sent, and the exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**environment, "TOCSIN_DATABASE_URL": dsn, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli", *words], cwd=place, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the kernel's way to say that the other side is closed
                break
            shown += part
            if not part or (hang_up and b"succeeded" in shown):
                break
    finally:
        os.close(ours)
    return shown.decode(errors="replace"), process.wait(PATIENCE)


def test_a_command_leaves_the_server_of_a_killed_hub_running(hub: Start, app: Path, tocsin: Tocsin) -> None:
    killed = hub("up", str(app))
    killed.wait_for("hub.ready")
    pid = server_pid(app)
    killed.process.kill()
    killed.end()
    assert tocsin("run", "list").code == 0
    assert tocsin("trigger", "list").code == 0
    assert server_pid(app) == pid
    os.kill(pid, 0)
    # The next hub goes on with that server, and takes it along when it leaves.
    after = hub("up", str(app))
    after.wait_for("hub.ready")
    assert server_pid(app) == pid
    after.send()
    # A run that was claimed as the signal came is given back unbegun, which is nothing to report.
    assert after.end() == 0
    assert not (data_of(app) / "postmaster.pid").exists()


def data_of(app: Path) -> Path:
    return next((app.parent / "home").glob("pg*"))


def server_pid(app: Path) -> int:
    return int((data_of(app) / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def test_what_is_misspelt_or_empty_is_warned_of(hub: Start, place: Path, dsn: str) -> None:
    (place / "bare.py").write_text("from tocsin import Hub\nhub = Hub()\n", encoding="utf-8")
    started = hub("up", "bare.py", "--for", "0.1", TOCSIN_DATABASE_URL=dsn, TOCSIN_SLOT="3")
    started.wait_for("setting.unknown", name="TOCSIN_SLOT")
    started.wait_for("app.empty", app="bare.py")
    assert started.end() == 0
