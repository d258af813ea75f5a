"""``tocsin doctor`` looks at everything and says what to do."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.cli.conftest import Answer, Hub
from tocsin.cli.doctor import _pooler, _probed
from tocsin.cli.findings import FAIL, OK, WARN, Finding, print_findings
from tocsin.store.admin import Admin, Between

Tocsin = Callable[..., Answer]
Start = Callable[..., Hub]

SOUND: dict[str, Any] = {
    "version": 180_001,
    "version_text": "18.1",
    "user": "u",
    "database": "d",
    "can_create": True,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "max_connections": 100,
    "connections": 3,
    "in_recovery": False,
    "idle_in_transaction": None,
}


def of(answer: Answer, check: str) -> list[dict[str, Any]]:
    return [finding for finding in answer.objects if finding["check"] == check]


def test_a_sound_hub_has_nothing_to_mend(tocsin: Tocsin, hub: Start, app: Path) -> None:
    started = hub("up", str(app))
    started.wait_for("hub.ready")
    answer = tocsin("doctor", "--json")
    assert answer.code == 0
    assert {finding["status"] for finding in answer.objects} == {"ok"}
    assert {finding["check"] for finding in answer.objects} == {
        "python", "tocsin", "settings", "embedded", "database", "version", "privileges", "clock", "durability",
        "connections", "pooler", "schema", "replicas",
    }  # fmt: skip
    assert "ok" in tocsin("doctor").out
    # Asked to end, and not killed as the fixture would, it takes its server along.
    started.send()
    assert started.end() == 0


async def test_a_role_that_is_not_let_into_the_schema_is_told_what_to_ask_for(tocsin: Tocsin, dsn: str) -> None:
    owner = await asyncpg.connect(dsn)
    role = f"outsider_{secrets.token_hex(4)}"
    await owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        parts = urlsplit(dsn)
        at = parts.netloc.rpartition("@")[2]
        foreign = parts._replace(netloc=f"{role}:x@{at}").geturl()
        answer = await asyncio.to_thread(tocsin, "doctor", "--json", TOCSIN_DATABASE_URL=foreign)
        listed = await asyncio.to_thread(tocsin, "trigger", "list", TOCSIN_DATABASE_URL=foreign)
    finally:
        await owner.execute(f"DROP ROLE {role}")
        await owner.close()
    (schema,) = of(answer, "schema")
    assert (answer.code, schema["status"]) == (1, "fail")
    assert "permission denied for schema tocsin" in schema["found"]
    assert "GRANT" in schema["advice"]
    assert listed.code == 1
    assert "`tocsin doctor`" in listed.lines[0]


def test_a_schema_that_is_behind_is_a_failure_with_its_cure(tocsin: Tocsin, empty_dsn: str) -> None:
    answer = tocsin("doctor", "--json", TOCSIN_DATABASE_URL=empty_dsn)
    assert answer.code == 1
    (schema,) = of(answer, "schema")
    assert schema["status"] == "fail"
    assert "tocsin migrate" in schema["advice"]


def test_no_replica_alive_is_a_warning(tocsin: Tocsin, dsn: str) -> None:
    (replicas,) = of(tocsin("doctor", "--json", TOCSIN_DATABASE_URL=dsn), "replicas")
    assert replicas["status"] == "warn"
    assert "tocsin serve" in replicas["advice"]


def test_settings_that_do_not_hold_together_are_each_told(tocsin: Tocsin) -> None:
    answer = tocsin("doctor", "--json", TOCSIN_LEASE="1s", TOCSIN_RETENTION="1m")
    assert answer.code == 1
    assert [finding["status"] for finding in of(answer, "settings")] == ["fail", "fail"]


def test_a_misspelt_variable_is_found(tocsin: Tocsin, dsn: str) -> None:
    answer = tocsin("doctor", "--json", TOCSIN_DATABASE_URL=dsn, TOCSIN_LEESE="30s")
    assert of(answer, "settings")[0]["found"] == "TOCSIN_LEESE is no setting"


def test_without_a_database_the_exit_code_is_3(tocsin: Tocsin) -> None:
    assert tocsin("doctor").code == 3
    answer = tocsin("doctor", "--json", TOCSIN_DATABASE_URL="postgresql://u@127.0.0.1:1/x")
    assert answer.code == 3
    assert of(answer, "database")[0]["status"] == "fail"


async def test_privileges_that_are_missing_are_named_with_the_grant(empty_dsn: str) -> None:
    probe = await Admin(empty_dsn, pooler=False).probe()
    assert probe["can_create"] is True
    found = list(_probed(probe | {"can_create": False}, 0.0))
    (privileges,) = [finding for finding in found if finding.check == "privileges"]
    assert privileges.status == WARN
    assert privileges.advice.startswith("GRANT CREATE ON DATABASE")


@pytest.mark.parametrize(
    ("change", "check", "status"),
    [
        ({"version": 140_000, "version_text": "14.9"}, "version", FAIL),
        ({"version": 190_000, "version_text": "19.0"}, "version", WARN),
        ({"in_recovery": True}, "role", FAIL),
        ({"fsync": "off"}, "fsync", FAIL),
        ({"full_page_writes": "off"}, "full_page_writes", FAIL),
        ({"synchronous_commit": "off"}, "synchronous_commit", WARN),
        ({"autovacuum": "off"}, "autovacuum", FAIL),
        ({"connections": 95}, "connections", WARN),
        ({"idle_in_transaction": 600.0}, "idle transactions", WARN),
    ],
)
def test_each_fault_of_a_server_has_its_advice(change: dict[str, Any], check: str, status: str) -> None:
    (found,) = [finding for finding in _probed(SOUND | change, 0.0) if finding.check == check]
    assert found.status == status
    assert found.advice


def test_a_sound_server_needs_no_advice() -> None:
    assert {(finding.status, finding.advice) for finding in _probed(SOUND, 0.001)} == {(OK, "")}


def test_a_clock_that_is_off_is_told_but_is_no_failure() -> None:
    (clock,) = [finding for finding in _probed(SOUND, -75.0) if finding.check == "clock"]
    assert clock.status == WARN
    assert clock.found == "this host is 1 m 15 s behind the database"


@pytest.mark.parametrize(
    ("between", "pooled", "status", "told"),
    [
        (Between(pooled=False, shared=False, hears=True), False, OK, ""),
        (Between(pooled=True, shared=False, hears=True), False, OK, ""),
        (Between(pooled=True, shared=True, hears=True), False, FAIL, "TOCSIN_DB_POOLER=transaction"),
        (Between(pooled=True, shared=False, hears=False), False, FAIL, "TOCSIN_DB_POOLER=transaction"),
        (Between(pooled=True, shared=True, hears=False), True, WARN, "session-pooled"),
        (Between(pooled=False, shared=False, hears=True), True, WARN, "unset TOCSIN_DB_POOLER"),
    ],
)
def test_a_pooler_is_held_against_the_setting(between: Between, pooled: bool, status: str, told: str) -> None:
    finding = _pooler(between, pooled=pooled)
    assert finding.status == status
    assert told in finding.advice


async def test_a_direct_session_is_our_own(dsn: str) -> None:
    assert await Admin(dsn, pooler=False).between() == Between(pooled=False, shared=False, hears=True)


def test_the_exit_code_is_that_of_the_worst_finding(capsys: pytest.CaptureFixture[str]) -> None:
    ok, warn, fail = (Finding("x", status, "found", "do") for status in (OK, WARN, FAIL))
    assert print_findings([ok, warn], json=True) == 0
    assert print_findings([ok, fail, warn], json=False) == 1
    assert "→ do" in capsys.readouterr().out
