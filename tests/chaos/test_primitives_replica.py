"""Real replicas whose log has no room, whose network is cut, or whose zones are of another release."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.agents import hub
from tests.chaos.faults.disk import MISSING as NO_DISK
from tests.chaos.faults.disk import can_mount, small_disk
from tests.chaos.faults.ledgers import entries
from tests.chaos.faults.namespaces import MISSING as NO_NETWORK
from tests.chaos.faults.namespaces import Partition, can_partition
from tests.chaos.faults.proxy import Proxy
from tests.chaos.faults.releases import PACKAGE, another_tzdata
from tests.chaos.fleet import LEASE, Fleet
from tests.chaos.member import Member
from tests.engine.building import eventually
from tocsin import Hub, Schedule, cron, every
from tocsin.clock import SystemClock
from tocsin.engine.control import Control
from tocsin.store.database import Database

LATEST = 20.0 * float(os.environ.get("TOCSIN_TEST_PATIENCE", "1"))
"""Seconds within which a replica has left a database that is silent for another: ten until the kernel breaks it."""

APP = """
from tocsin import Hub, every

hub = Hub()

@hub.agent
async def greet(run):
    return "hello"

for number in range(20):
    hub.trigger(f"t{number}", greet, every(1))
"""


async def declare(fleet: Fleet, schedules: dict[str, Schedule], **policy: Any) -> None:
    made = Hub(name="chaos")
    made._functions.update(hub.build("chaos").functions)
    made.trigger("by-hand", "scribe", overlap="allow", input={"seconds": [0.0]})
    for name, schedule in schedules.items():
        made.trigger(name, "scribe", schedule, input={"seconds": [0.0]}, **policy)
    database = Database(fleet.postgres.dsn, size=1)
    try:
        await Control(database=database, clock=SystemClock(), actor="test").declare(made.build("chaos"))
    finally:
        await database.close()


def starts(fleet: Fleet, member: Member) -> int:
    return sum(entry["pid"] == member.pid for entry in entries(fleet.ledgers, "START"))


async def goes_on(fleet: Fleet, member: Member, runs: int = 10, *, within: float = 30) -> float:
    """The member has begun so many more runs; after so many seconds."""
    since, before = time.monotonic(), starts(fleet, member)
    await eventually(lambda: starts(fleet, member) >= before + runs, within=within, what=f"runs of {member.name}")
    return time.monotonic() - since


@pytest.mark.skipif(not can_mount(), reason=NO_DISK)
async def test_a_log_without_room_stops_nothing_and_goes_on_when_there_is(tmp_path: Path) -> None:
    with small_disk(1) as disk:
        async with Fleet(tmp_path, replicas=1) as fleet:
            (member,) = fleet.members
            member.log.symlink_to(disk.directory / "log")
            await declare(fleet, {f"t{n}": every(1) for n in range(20)})
            await fleet.start()
            await goes_on(fleet, member)
            disk.fill()
            full = member.log.stat().st_size
            # More than any buffer holds: 8 KB are some fifty lines.
            await goes_on(fleet, member, 100)
            assert member.log.stat().st_size - full < 10_000
            disk.empty()
            await eventually(lambda: member.log.stat().st_size > full + 10_000, what="lines after the disk was freed")
            assert await member.stop() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_hub_whose_output_goes_nowhere_ends_well(tmp_path: Path) -> None:
    """Its whole life on a full disk, from the first line to the last."""
    (tmp_path / "app.py").write_text(APP)
    async with Fleet(tmp_path / "fleet", replicas=1) as fleet:
        env = {"TOCSIN_DATABASE_URL": fleet.postgres.dsn, "TOCSIN_HTTP_BIND": "127.0.0.1:0", "TOCSIN_GRPC_BIND": "off"}
        with open("/dev/full", "w") as nowhere:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "tocsin.cli", "up", "app.py", "--for", "2", "--json"],
                cwd=tmp_path,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=nowhere,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (done.returncode, done.stderr.decode()) == (0, "")
        assert await fleet.value("SELECT count(*) FROM tocsin.runs WHERE state = 'succeeded'") >= 20


@pytest.mark.skipif(not can_partition(), reason=NO_NETWORK)
async def test_a_replica_cut_off_by_dropped_packets_stops_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is told: no reset, no refusal. Its peers take over what it held, and nobody writes for two."""
    async with Fleet(tmp_path, replicas=2) as fleet:
        with Partition() as partition, Proxy(fleet.postgres.dsn, host=partition.here) as proxy:
            alone, peer = fleet.members
            alone.dsn, alone.prefix = proxy.dsn, partition.prefix
            await declare(fleet, {f"t{n}": every(1) for n in range(20)}, overlap="allow")
            await fleet.start()
            await goes_on(fleet, alone)
            partition.drop()
            cut_at = time.monotonic()
            # Longer than the lease: a peer takes over, and goes on alone.
            await fleet.until_value("SELECT count(*) FROM tocsin.leases WHERE expires_at < now()", within=LEASE * 3)
            await goes_on(fleet, peer, 40)
            assert partition.dropped > 0
            assert alone.logged("lease.expired"), alone.tail()
            partition.heal()
            healed = await goes_on(fleet, alone, within=60)
            with capsys.disabled():
                sys.stdout.write(
                    f"\npartition: {time.monotonic() - cut_at - healed:.1f} s of dropped packets,"
                    f" at work again {healed:.1f} s after\n"
                )
            await member_stops(fleet)
            begun = [(entry["run"], entry["fence"]) for entry in entries(fleet.ledgers, "START")]
            assert len(begun) == len(set(begun))
            accepted = [entry["run"] for entry in entries(fleet.ledgers, "ANSWER") if entry["accepted"]]
            assert len(accepted) == len(set(accepted))


@pytest.mark.skipif(not can_partition(), reason=NO_NETWORK)
async def test_a_database_whose_machine_is_gone_without_a_word_is_left_for_the_next_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sessions stand and get no answer, as when power is cut: the kernel must tell, not a statement's limit."""
    async with Fleet(tmp_path, replicas=1) as fleet:
        with (
            Partition() as partition,
            Proxy(fleet.postgres.dsn, host=partition.here) as first,
            Proxy(fleet.postgres.dsn, host=partition.here) as second,
        ):
            (member,) = fleet.members
            one = urlsplit(first.dsn)
            member.dsn = one._replace(
                netloc=f"{one.netloc},{partition.here}:{second.port}", query="target_session_attrs=read-write"
            ).geturl()
            member.prefix = partition.prefix
            await declare(fleet, {f"t{n}": every(1) for n in range(20)}, overlap="allow")
            await fleet.start()
            await goes_on(fleet, member)
            assert second.counts.connections == 0
            partition.drop(first.port)
            # Two seconds' worth of every trigger: all its loops are at work, not only the one that woke first.
            seconds = await goes_on(fleet, member, 60, within=60)
            assert second.counts.connections > 0
            with capsys.disabled():
                sys.stdout.write(f"\nmachine gone without a word: at work on the next host after {seconds:.1f} s\n")
            assert seconds < LATEST
            await member_stops(fleet)


async def member_stops(fleet: Fleet) -> None:
    for member in fleet.members:
        await member.stop()


async def test_replicas_with_zones_of_two_releases_decide_each_instant_once(tmp_path: Path) -> None:
    """For one of them it is another half of the hour: it sees other instants, and never one of them twice."""
    async with Fleet(tmp_path, replicas=2) as fleet:
        other = another_tzdata(tmp_path / "other", zones={"Asia/Kolkata": "Asia/Tokyo"})
        fleet.members[1].env["PYTHONPATH"] = f"{other}:{fleet.members[1].root}"
        halves = {f"half{n}": cron(f"* {30 * n}-{30 * n + 29} * * * *", "Asia/Kolkata") for n in range(2)}
        await declare(fleet, {**halves, "ticks": every(1)}, overlap="allow")
        for member in fleet.members:
            await fleet.start(member)
        for member in fleet.members:
            await goes_on(fleet, member, 3)
        await fleet.until_value("SELECT count(*) >= 10 FROM tocsin.runs", within=30)
        (told,) = fleet.members[1].logged("zones.differ")
        assert told["ours"] == PACKAGE
        assert told["theirs"] != PACKAGE
        await member_stops(fleet)
        twice = (
            "SELECT trigger_id, nominal_at FROM tocsin.runs WHERE kind = 'schedule' GROUP BY 1, 2 HAVING count(*) > 1"
        )
        assert await fleet.fetch(twice) == []
        begun = [entry["run"] for entry in entries(fleet.ledgers, "START")]
        assert len(begun) == len(set(begun))
        backwards = (
            "SELECT t.name FROM tocsin.triggers t"
            " WHERE t.next_at <= (SELECT max(r.nominal_at) FROM tocsin.runs r WHERE r.trigger_id = t.id)"
        )
        assert await fleet.fetch(backwards) == []
