"""Every command that asks the database, from declaring an app to what became of its runs."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.cli.conftest import Answer, Hub
from tocsin.cli.runs import what_of

Tocsin = Callable[..., Answer]
Start = Callable[..., Hub]

RUN_FIELDS = {
    "id", "trigger", "agent", "state", "reason", "attempt", "fence", "nominal_at", "effective_at", "queued_at",
    "started_at", "finished_at", "output",
}  # fmt: skip


@pytest.fixture
def declared(tocsin: Tocsin, app: Path, dsn: str) -> Tocsin:
    """The command line on a database in which the app is declared."""

    def run(*words: str, stdin: str = "", **settings: str) -> Answer:
        return tocsin(*words, stdin=stdin, TOCSIN_DATABASE_URL=dsn, **settings)

    assert run("sync", str(app)).code == 0
    return run


def test_syncing_tells_what_is_new_and_then_that_nothing_is(tocsin: Tocsin, app: Path, dsn: str) -> None:
    first = tocsin("sync", str(app), "--json", TOCSIN_DATABASE_URL=dsn).objects[0]
    assert first["agents"]["created"] == ["endless", "fail", "greet", "stubborn"]
    assert len(first["triggers"]["created"]) == 6
    again = tocsin("sync", str(app), "--json", TOCSIN_DATABASE_URL=dsn).objects[0]
    assert again["triggers"]["created"] == again["triggers"]["changed"] == []
    assert len(again["triggers"]["unchanged"]) == 6


def test_an_app_with_faults_writes_nothing_and_lists_them_all(tocsin: Tocsin, place: Path, dsn: str) -> None:
    faulty = place / "faulty.toml"
    faulty.write_text(
        '[agents.a]\ncommand = ["true"]\n'
        + "".join(f'[triggers.t{n}]\nagent = "a"\ncron = "{n} 1 * * *"\n' for n in range(8))
        + '[triggers.bad]\nagent = "a"\ncron = "99 * * * *"\n[triggers.worse]\nagent = "a"\nevry = "5m"\n'
    )
    answer = tocsin("sync", str(faulty), TOCSIN_DATABASE_URL=dsn)
    assert answer.code == 2
    assert len(answer.lines) >= 2
    assert any("faulty.toml" in line and "triggers.bad" in line and "0–59" in line for line in answer.lines)
    assert any("triggers.worse" in line and "evry" in line for line in answer.lines)
    assert tocsin("trigger", "list", "--json", TOCSIN_DATABASE_URL=dsn).out == ""


def test_triggers_are_listed_by_name_with_what_is_next(declared: Tocsin) -> None:
    rows = declared("trigger", "list", "--json").objects
    assert [row["name"] for row in rows] == ["broken-leg", "by-hand", "deaf", "long", "often", "yearly"]
    yearly = rows[-1]
    assert yearly["agent"] == "greet"
    assert yearly["status"] == "armed"
    assert yearly["next_at"].endswith("-12-31T23:00:00Z")
    assert "Europe/Paris" in declared("trigger", "list").out


def test_a_listing_ends_at_its_limit_and_all_goes_through_every_page(declared: Tocsin) -> None:
    assert len(declared("trigger", "list", "--json", "--limit", "2").objects) == 2
    assert len(declared("trigger", "list", "--json", "--all").objects) == 6
    for _ in range(3):
        declared("trigger", "fire", "deaf", "--key", str(uuid4()))
    shown = declared("run", "list", "--json", "--limit", "2").objects
    every = declared("run", "list", "--json", "--all").objects
    assert len(shown) == 2
    assert [row["id"] for row in every][:2] == [row["id"] for row in shown]


def test_a_trigger_is_added_edited_and_deleted(declared: Tocsin) -> None:
    words = ["--cron", "0 9 * * *", "--tz", "Europe/Paris", "--input", '{"name": "x"}', "--overlap", "queue_one"]
    added = declared("trigger", "add", "mine", "--agent", "greet", *words, "--json").objects[0]
    assert added["input"] == {"name": "x"}
    assert added["policy"]["overlap"] == "queue_one"
    edited = declared("trigger", "edit", "mine", "--cron", "30 9 * * *", "--json").objects[0]
    assert edited["version"] == 2
    assert edited["input"] == {"name": "x"}
    assert edited["schedule"]["rules"] == [{"cron": "30 9 * * *"}]
    moved = declared("trigger", "edit", "mine", "--tz", "Asia/Tokyo", "--json").objects[0]
    assert moved["schedule"]["rules"] == [{"cron": "30 9 * * *", "tz": "Asia/Tokyo"}]
    assert declared("trigger", "edit", "mine", "--priority", "9", "--if-version", "1").code == 1
    assert declared("trigger", "delete", "mine", "--json").objects[0]["deleted"] is True
    assert declared("trigger", "show", "mine").code == 1


def test_a_trigger_rests_and_goes_on(declared: Tocsin) -> None:
    assert declared("trigger", "pause", "yearly", "--json").objects[0]["status"] == "paused"
    assert "paused" in declared("trigger", "why", "yearly").out
    assert declared("trigger", "resume", "yearly", "--json").objects[0]["status"] == "armed"
    again = declared("trigger", "resume", "yearly")
    assert again.code == 1
    assert again.lines == ["tocsin: trigger 'yearly' is not paused"]


def test_a_change_is_told_in_one_line(declared: Tocsin) -> None:
    edited = declared("trigger", "edit", "yearly", "--priority", "7")
    assert edited.out.startswith("yearly is changed, now version 2: cron 0 0 1 1 * Europe/Paris, armed, next at ")
    assert edited.lines == ["tocsin: yearly is declared in app.py: the next `tocsin sync` or `up` takes this back"]
    paused = declared("trigger", "pause", "yearly", "--reason", "holidays")
    assert paused.out.startswith("yearly is paused since ")
    assert len(paused.out.splitlines()) == 1
    (row,) = [line.split() for line in declared("trigger", "list").out.splitlines() if line.startswith("yearly")]
    assert row[1:3] == ["paused", "–"]
    assert declared("trigger", "resume", "yearly").out.startswith("yearly is resumed: ")
    assert declared("trigger", "add", "mine", "--agent", "greet").out.startswith("mine is added: fired by hand")
    spread = declared("trigger", "add", "other", "--agent", "greet", "--every", "6h", "--jitter", "90s")
    assert spread.out.startswith("other is added: every 6h jitter=1m30s, armed, next at ")
    declared("trigger", "edit", "other", "--expires-after", "90m")
    shown = [line.split(maxsplit=1) for line in declared("trigger", "show", "other").out.splitlines()]
    assert ["grace", "1 m"] in shown
    assert ["expires_after", "1 h 30 m"] in shown


def test_decisions_are_asked_for_since_an_instant_or_for_a_length_of_time(declared: Tocsin) -> None:
    declared("trigger", "fire", "yearly")
    for since in ("1h", "2020-01-01"):
        assert len(declared("trigger", "why", "yearly", "--since", since, "--json").objects) == 2
    assert len(declared("trigger", "why", "yearly", "--until", "1h", "--json").objects) == 1
    assert declared("trigger", "why", "yearly", "--since", "soon").lines == [
        "tocsin: 'soon': must be ISO 8601, or a length of time such as 2h"
    ]


def test_a_trigger_that_listens_is_added_shown_and_given_a_schedule(declared: Tocsin) -> None:
    added = declared("trigger", "add", "mine", "--agent", "greet", "--on-event", "com.github.*")
    assert added.out == "mine is added: on com.github.*\n"
    rule = '{"type": "order.paid", "where": "data.n > `1`", "debounce": "5s"}'
    edited = declared("trigger", "edit", "mine", "--on-event", rule, "--json").objects[0]
    assert (edited["status"], edited["event_text"]) == ("listening", "on order.paid where data.n > `1` debounce 5s")
    assert edited["policy"]["overlap"] == "queue_all"
    assert "order.paid" in declared("trigger", "list").out
    assert "on order.paid where" in declared("trigger", "show", "mine").out
    assert "It runs when an event comes" in declared("trigger", "why", "mine").out
    moved = declared("trigger", "edit", "mine", "--cron", "0 9 * * *", "--json").objects[0]
    assert (moved["status"], moved["event"], moved["event_text"]) == ("armed", None, None)
    assert declared("trigger", "edit", "mine", "--on-event", "x", "--json").objects[0]["schedule"] is None
    assert declared("trigger", "edit", "mine", "--on-event", "{}", "--json").objects[0]["status"] == "manual"


def test_a_row_is_a_line_and_a_cut_listing_says_so(declared: Tocsin) -> None:
    declared("trigger", "add", "wide", "--agent", "greet", *(f"--cron={n} 1 * * *" for n in range(40)))
    listed = declared("trigger", "list", COLUMNS="")
    assert len(listed.out.splitlines()) == 8
    assert "39 1 * * *" in listed.out
    assert listed.err == ""
    narrow = declared("trigger", "list", COLUMNS="40")
    assert max(len(line) for line in narrow.out.splitlines()) == 40
    assert declared("trigger", "list", "--limit", "2").lines == ["tocsin: 2 shown; --all shows every one"]
    assert declared("trigger", "list", "--limit", "2", "--json").lines == []


def test_a_run_is_found_by_the_beginning_of_its_id(declared: Tocsin) -> None:
    run = declared("trigger", "fire", "by-hand", "--json").objects[0]["id"]
    assert declared("run", "show", run[:13], "--json").objects[0]["id"] == run
    assert declared("run", "cancel", run[:8], "--json").objects[0]["state"] == "cancelled"


def test_firing_with_a_key_gives_the_same_run_twice(declared: Tocsin) -> None:
    first = declared("trigger", "fire", "by-hand", "--key", "k", "--input", '{"name": "you"}', "--json").objects[0]
    again = declared("trigger", "fire", "by-hand", "--key", "k", "--json").objects[0]
    assert first["id"] == again["id"]
    assert first["input"] == {"name": "you"}
    assert first["state"] == "queued"


def test_an_input_comes_from_a_file_or_stdin(declared: Tocsin, place: Path) -> None:
    (place / "in.json").write_text('{"from": "a file"}')
    assert declared("trigger", "fire", "by-hand", "--input", "@in.json", "--json").objects[0]["input"] == {
        "from": "a file"
    }
    told = declared("trigger", "fire", "deaf", "--input", "@-", "--json", stdin="[1]").objects[0]
    assert told["input"] == [1]


def test_a_run_has_every_promised_field_and_instants_in_utc(declared: Tocsin) -> None:
    declared("trigger", "fire", "by-hand")
    (row,) = declared("run", "list", "--json", "--trigger", "by-hand").objects
    assert row.keys() >= RUN_FIELDS
    assert row["trigger"] == "by-hand"
    UUID(row["id"])
    assert row["queued_at"].endswith("Z")
    datetime.fromisoformat(row["queued_at"])


def test_a_queued_run_is_cancelled_and_then_run_again(declared: Tocsin) -> None:
    run = declared("trigger", "fire", "by-hand", "--json").objects[0]["id"]
    assert declared("run", "retry", run).code == 1
    assert declared("run", "cancel", run, "--json").objects[0]["state"] == "cancelled"
    again = declared("run", "cancel", run)
    assert again.code == 1
    assert "cancelled" in again.lines[0]
    assert declared("run", "retry", run, "--json").objects[0]["id"] != run
    shown = declared("run", "show", run)
    assert "cancelled" in shown.out


def test_a_run_is_watched_to_its_end(declared: Tocsin, hub: Start, app: Path, dsn: str) -> None:
    hub("serve", str(app), TOCSIN_DATABASE_URL=dsn).wait_for("hub.ready")
    good = declared("trigger", "fire", "by-hand", "--json").objects[0]["id"]
    watched = declared("run", "watch", good, "--every", "100ms", "--json")
    assert watched.code == 0
    assert watched.objects[-1]["output"] == {"hello": "world"}
    bad = declared("trigger", "fire", "broken-leg", "--json").objects[0]["id"]
    watched = declared("run", "watch", bad, "--every", "100ms")
    assert watched.code == 1
    assert "it was no use" in watched.out
    failed = declared("run", "list", "--state", "failed", "--json").objects
    assert [row["id"] for row in failed] == [bad]
    why = declared("trigger", "why", "broken-leg", "--json").objects
    assert [line["decision"] for line in why[1:]] == ["failed"]
    (replica,) = declared("replica", "list", "--json").objects
    assert replica["state"] == "alive"
    assert declared("replica", "show", replica["name"], "--json").objects[0]["id"] == replica["id"]


def test_a_change_that_is_watched_is_one_line_whatever_the_agent_said() -> None:
    row = {"state": "failed", "error": "ValueError: one\n\ttwo"}
    assert what_of(row) == "ValueError: one two"
    assert what_of({"state": "running", "progress": "a\nb", "fraction": 0.5}) == "a b 50%"


def test_agents_are_shown_with_their_policy(declared: Tocsin) -> None:
    assert [row["name"] for row in declared("agent", "list", "--json").objects] == [
        "endless", "fail", "greet", "stubborn",
    ]  # fmt: skip
    assert declared("agent", "show", "greet", "--json").objects[0]["spec"]["max_attempts"] == 1
    assert "nobody" in declared("agent", "list").out


def test_a_backfill_is_counted_first(declared: Tocsin) -> None:
    range_ = ["--since", "2024-01-01T00:00:00Z", "--until", "2025-12-31T23:59:59Z"]
    counted = declared("trigger", "backfill", "yearly", *range_, "--dry-run", "--json").objects[0]
    assert counted["count"] == 2
    assert declared("run", "list", "--json").out == ""
    begun = declared("trigger", "backfill", "yearly", *range_, "--json").objects[0]
    cancelled = declared("trigger", "backfill", "yearly", "--cancel", begun["id"], "--json").objects[0]
    assert cancelled["cancelled"] == 2


def test_the_load_ahead_is_forecast(declared: Tocsin) -> None:
    lines = declared("forecast", "--hours", "1", "--json").objects
    assert lines[0]["kind"] == "total"
    assert lines[0]["fires"] == 3600
    assert sum(line["fires"] for line in lines if line["kind"] == "minute") == 3600
    assert "busiest" in declared("forecast", "--hours", "1").out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["trigger", "show", "yeraly"], 1, ["'yeraly'", "did you mean 'yearly'"]),
        (["trigger", "pause", "yeraly"], 1, ["did you mean 'yearly'"]),
        (["trigger", "show", "zzz"], 1, ["'zzz'", "tocsin trigger list"]),
        (["agent", "show", "gret"], 1, ["did you mean 'greet'"]),
        (["run", "show", "12"], 2, ["'12'", "UUID", "tocsin run list"]),
        (["run", "show", "00000000-0000-0000-0000-000000000000"], 1, ["no run"]),
        (["run", "list", "--limit", "2", "--all"], 2, ["--limit", "--all"]),
        (["run", "show", "0000000012"], 1, ["no run"]),
        (["sync", "."], 2, ["is a directory"]),
        (["run", "list", "--state", "done"], 2, ["'done'", "succeeded"]),
        (["run", "list", "--since", "soon"], 2, ["'soon'"]),
        (["run", "list", "--since", "0001-01-01T00:00:00+14:00"], 2, ["0001-01-01T00:00:00+14:00", "ISO 8601"]),
        (["audit", "--actor", "key:\udcff"], 2, [r"'key:\udcff'", "not UTF-8"]),
        (["trigger", "show", "\udce9t\udce9"], 2, [r"'\udce9t\udce9'", "not UTF-8"]),
        (["trigger", "add", "x", "--agent", "nobody"], 1, ["'nobody'"]),
        (["trigger", "add", "x", "--agent", "greet", "--cron", "61 * * * *"], 2, ["minute", "'61'"]),
        (["trigger", "add", "x", "--agent", "greet", "--every", "1ms"], 2, ["every '1ms': must be from 1 s"]),
        (["trigger", "add", "x", "--agent", "greet", "--tz", "Europe/Paris"], 2, ["--cron"]),
        (["trigger", "add", "x y", "--agent", "greet"], 2, ["'x y'"]),
        (["trigger", "add", "yearly", "--agent", "greet"], 1, ["exists already", "tocsin trigger edit yearly"]),
        (["trigger", "add", "x", "--agent", "greet", "--overlap", "maybe"], 2, ["overlap", "'maybe'"]),
        (["trigger", "add", "x", "--agent", "greet", "--on-event", '{"type": 5}'], 2, ["type 5"]),
        (["trigger", "add", "x", "--agent", "greet", "--on-event", "{"], 2, ["--on-event", "JSON"]),
        (["trigger", "add", "x", "--agent", "greet", "--on-event", '{"type": "a", "were": "b"}'], 2, ["were"]),
        (["trigger", "edit", "yearly"], 2, ["nothing to change"]),
        (["trigger", "edit", "yearly", "--priority", "11"], 2, ["priority"]),
        (["trigger", "edit", "yearly", "--agent", "gret"], 1, ["no agent 'gret'", "did you mean 'greet'"]),
        (["trigger", "pause", "yearly", "--reason", ""], 2, ["reason"]),
        (["trigger", "fire", "by-hand", "--key", ""], 2, ["key"]),
        (["trigger", "fire", "by-hand", "--input", "@/dev/zero"], 2, ["/dev/zero", "1,048,577"]),
        (["trigger", "fire", "by-hand", "--input", "{"], 2, ["--input", "JSON"]),
        (["trigger", "fire", "by-hand", "--input", "@no-such-file"], 2, ["@no-such-file"]),
        (["trigger", "backfill", "yearly"], 2, ["--since"]),
        (["trigger", "backfill", "often", "--since", "2020-01-01"], 2, ["1000"]),
        (["trigger", "backfill", "by-hand", "--since", "2020-01-01"], 2, ["no schedule"]),
        (["trigger", "backfill", "yearly", "--cancel", "mine"], 2, ["'mine'", "UUID"]),
        (["trigger", "resume", "yearly", "--catch-up", "some"], 2, ["--catch-up"]),
        (["replica", "show", "nobody"], 1, ["'nobody'"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line(declared: Tocsin, words: list[str], code: int, told: list[str]) -> None:
    answer = declared(*words)
    assert answer.out == ""
    (line,) = answer.lines
    assert line.startswith("tocsin: ")
    assert all(part in line for part in told), line
    assert answer.code == code


def test_a_payload_over_a_mebibyte_is_refused(declared: Tocsin, place: Path) -> None:
    (place / "big.json").write_text('"' + "x" * 1024 * 1024 + '"')
    answer = declared("trigger", "fire", "by-hand", "--input", "@big.json")
    assert answer.code == 2
    (line,) = answer.lines
    assert "1,048,578 bytes" in line
    assert declared("run", "list", "--json").out == ""


@pytest.mark.parametrize(
    "words", [["run", "list"], ["trigger", "list"], ["migrate"], ["sync", "app.py"], ["forecast"], ["serve"]]
)
def test_without_a_database_the_next_step_is_told(tocsin: Tocsin, app: Path, words: list[str]) -> None:
    answer = tocsin(*words)
    assert answer.code == 3
    (line,) = answer.lines
    assert "TOCSIN_DATABASE_URL" in line
    assert "tocsin up APP" in line


def test_a_database_that_cannot_be_reached_is_told(tocsin: Tocsin) -> None:
    answer = tocsin("run", "list", TOCSIN_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/x")
    assert answer.code == 3
    (line,) = answer.lines
    assert "TOCSIN_DATABASE_URL" in line
    assert "secret" not in line


def test_a_schema_that_is_behind_asks_for_migrate(tocsin: Tocsin, empty_dsn: str) -> None:
    for words in (["run", "list"], ["serve"]):
        answer = tocsin(*words, TOCSIN_DATABASE_URL=empty_dsn)
        assert answer.code == 1
        assert "`tocsin migrate`" in answer.lines[-1]
    assert tocsin("migrate", "--json", TOCSIN_DATABASE_URL=empty_dsn).objects[0]["was"] == 0
    assert "nothing to do" in tocsin("migrate", TOCSIN_DATABASE_URL=empty_dsn).out
    assert tocsin("run", "list", TOCSIN_DATABASE_URL=empty_dsn).out == "no runs\n"


def test_contradictory_settings_are_all_told(tocsin: Tocsin) -> None:
    answer = tocsin("run", "list", TOCSIN_LEASE="1s", TOCSIN_RENEW_EVERY="5s", TOCSIN_RETENTION="1m")
    assert answer.code == 2
    assert len(answer.lines) == 2
    assert "TOCSIN_RENEW_EVERY" in answer.lines[0]
    assert "TOCSIN_LEASE" in answer.lines[0]


def test_a_setting_that_is_empty_is_as_good_as_unset(tocsin: Tocsin, place: Path) -> None:
    empty = {"TOCSIN_DATABASE_URL": "", "TOCSIN_HOME": "", "TOCSIN_LEASE": "", "TOCSIN_LOG_LEVEL": ""}
    answer = tocsin("run", "list", **empty)
    assert answer.code == 3
    assert answer.lines[0].endswith("(TOCSIN_HOME is .tocsin)")


def test_unknown_keys_and_bad_values_are_told_together(tocsin: Tocsin, place: Path) -> None:
    (place / "tocsin.toml").write_text("[hub]\nslot = 3\nbatch = 0\n", encoding="utf-8")
    answer = tocsin("run", "list")
    assert answer.code == 2
    assert [name in line for name, line in zip(("hub.slot", "BATCH"), answer.lines, strict=True)] == [True, True]


def test_all_processes_are_listed_however_many_there_are(
    declared: Tocsin, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.cli.listing.DEFAULT_LIMIT", 6)

    async def made() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "INSERT INTO tocsin.replicas (id, name, version, agents, slots, started_at)"
            " SELECT gen_random_uuid(), 'r-' || n, '0', '{}', 1, now() FROM generate_series(1, 7) n;"
            "INSERT INTO tocsin.leases (holder, expires_at, renewed_at, ended_at, end_reason)"
            " SELECT id, now(), now(), CASE WHEN name > 'r-5' THEN now() END, CASE WHEN name > 'r-5' THEN 'lost' END"
            " FROM tocsin.replicas"
        )
        await connection.close()

    asyncio.run(made())

    def listed(*words: str) -> list[str]:
        return sorted(row["name"] for row in declared("replica", "list", "--json", *words).objects)

    assert listed() == [f"r-{number}" for number in range(1, 6)]
    assert listed("--all") == [f"r-{number}" for number in range(1, 8)]
    assert len(listed("--all", "--limit", "3")) == 3
    assert declared("replica", "list", "--limit", "3").lines == ["tocsin: 3 shown; --limit shows more"]
    assert declared("replica", "list", "--all").lines == []
    assert declared("replica", "show", "r-6", "--json").objects[0]["state"] == "lost"
