"""Clocks, disks, limits and networks that tests break do break, and only where they should."""

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.faults.clocks import HOUR, WallClock, library
from tests.chaos.faults.clocks import MISSING as NO_FAKETIME
from tests.chaos.faults.connections import hoarded
from tests.chaos.faults.disk import MISSING as NO_DISK
from tests.chaos.faults.disk import can_mount, small_disk
from tests.chaos.faults.limits import descriptors, size
from tests.chaos.faults.namespaces import MISSING as NO_NETWORK
from tests.chaos.faults.namespaces import Partition, can_partition
from tests.chaos.faults.releases import VERSION, another_tzdata
from tests.chaos.faults.server import Place, Server

ASK = """
import json, sys, time
for _ in sys.stdin:
    print(json.dumps([time.time(), time.monotonic()]), flush=True)
"""

EATER = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        kept = bytearray(50_000_000) if line == "memory\\n" else [open("/dev/null") for _ in range(9)]
    except (MemoryError, OSError) as error:
        print(type(error).__name__, flush=True)
    else:
        print("had it", flush=True)
"""

ZONE = """
import json, tzdata
from tocsin.domain.zone import zone
print(json.dumps([tzdata.IANA_VERSION, zone("Europe/Paris").offset_at(1_780_000_000) // 3600]))
"""


def asked(process: "subprocess.Popen[str]") -> tuple[float, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    wall, monotonic = json.loads(process.stdout.readline())
    return wall, monotonic


@pytest.mark.skipif(library() is None and not os.environ.get("CI"), reason=NO_FAKETIME)
def test_a_wall_clock_is_wrong_and_steps_while_the_monotonic_one_stays_true(tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    words = [sys.executable, "-I", "-S", "-c", ASK]
    wrong = subprocess.Popen(
        words, env=os.environ | clock.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    right = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with wrong, right:
        for seconds in (0, HOUR, -HOUR, -5.5):
            clock.step(seconds)
            (wall, monotonic), (true_wall, true_monotonic) = asked(wrong), asked(right)
            assert wall - true_wall == pytest.approx(seconds, abs=0.5)
            assert monotonic == pytest.approx(true_monotonic, abs=0.5)
        for process in (wrong, right):
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.skipif(library() is None and not os.environ.get("CI"), reason=NO_FAKETIME)
async def test_a_server_has_the_clock_that_it_is_given() -> None:
    with Place() as place:
        clock = WallClock(place.directory / "clock")
        async with Server(place, "server", env=clock.env) as server:
            await server.initialise()
            await server.start()
            ahead = "SELECT extract(epoch FROM clock_timestamp())::float - $1::float"
            for seconds in (HOUR, -HOUR, 0):
                clock.step(seconds)
                here = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout
                assert await server.value(ahead, float(here)) == pytest.approx(seconds, abs=1)


@pytest.mark.skipif(not can_mount(), reason=NO_DISK)
def test_a_small_disk_is_full_and_then_is_not() -> None:
    with small_disk(2) as disk:
        taken = disk.fill()
        assert 0 < taken <= 2_000_000 * 1.1
        with pytest.raises(OSError, match="No space left"):
            (disk.directory / "more").write_bytes(b"x" * 10_000)
        disk.empty()
        assert disk.free > 1_500_000
        (disk.directory / "more").write_bytes(b"x" * 10_000)
        directory = disk.directory
    assert not directory.exists()


def test_a_process_gets_no_more_memory_and_no_more_files() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def want(what: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert process.stdout.readline() == "ready\n"
        assert want("memory") == "had it"
        assert want("files") == "had it"
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size(process.pid) - 10_000_000, resource.RLIM_INFINITY))
        assert want("memory") == "MemoryError"
        _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors(process.pid) + 2, most))
        assert want("files") == "OSError"
        process.stdin.close()


@pytest.mark.skipif(not can_partition(), reason=NO_NETWORK)
def test_a_partition_drops_what_is_sent_and_heals() -> None:
    reach = [sys.executable, "-I", "-S", "-c"]
    with Partition() as partition, socket.create_server((partition.here, 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('{partition.here}', {port}), 1)"

        def reaches() -> bool:
            done = subprocess.run([*partition.prefix, *reach, code], capture_output=True, check=False)
            return done.returncode == 0

        assert reaches()
        assert partition.dropped == 0
        partition.drop()
        assert not reaches()
        assert partition.dropped > 0
        partition.heal()
        assert reaches()


async def test_a_hoard_leaves_nobody_a_session() -> None:
    with Place() as place:
        async with Server(place, "server", settings={"max_connections": "10"}) as server:
            await server.initialise()
            await server.start()
            victim = await asyncpg.connect(server.dsn, server_settings={"application_name": "victim"})
            async with hoarded(server.dsn) as hoard:
                assert len(hoard.sessions) == 9
                with pytest.raises(asyncpg.TooManyConnectionsError):
                    await asyncpg.connect(server.dsn)
                assert await hoard.end("a.application_name = 'victim'") == 1
                assert len(hoard.sessions) == 10
                with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                    await victim.fetchval("SELECT 1")
            assert await server.value("SELECT true")


def test_another_release_of_the_zones_is_taken_by_whoever_has_it_on_its_path(tmp_path: Path) -> None:
    other = another_tzdata(tmp_path / "other", zones={"Europe/Paris": "Asia/Tokyo"})

    def read(env: dict[str, str]) -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", ZONE], env=os.environ | env, capture_output=True, text=True, check=True
        )
        version, hours = json.loads(done.stdout)
        return version, hours

    assert read({})[1] == 2
    assert read({"PYTHONPATH": str(other)}) == (VERSION, 9)
