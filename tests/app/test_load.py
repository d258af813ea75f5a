"""Reading APP files: what is found in them, and one clear line for each fault."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tocsin import cron, every, load_app, on_event
from tocsin.domain.errors import InvalidApp
from tocsin.domain.rules import At, Cron, Every, ExceptCron, ExceptDates
from tocsin.domain.schedule import Schedule
from tocsin.domain.trigger import Overlap

APP = """
from tocsin import Hub, every
hub = Hub()

@hub.agent
def digest(run):
    return 1

hub.trigger("hourly", digest, every("1h"))
"""


@pytest.fixture(autouse=True)
def own_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts in an empty directory, and what it imports is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def faults(ref: str) -> list[str]:
    with pytest.raises(InvalidApp) as caught:
        load_app(ref)
    assert all("\n" not in fault for fault in caught.value.faults)
    return list(caught.value.faults)


def fault(ref: str) -> str:
    (only,) = faults(ref)
    return only


def test_a_python_file_is_an_app() -> None:
    app = load_app(write("shop/app.py", APP))
    assert list(app.agents) == ["digest"]
    assert [trigger.name for trigger in app.triggers] == ["hourly"]
    assert app.source == "shop/app.py"


def test_a_file_may_be_named_from_anywhere_and_like_a_known_module(tmp_path: Path) -> None:
    assert list(load_app(str(tmp_path / write("json.py", APP))).agents) == ["digest"]
    assert list(load_app(write("with-dash.py", APP)).agents) == ["digest"]


def test_a_file_imports_its_neighbours_and_they_import_it_back() -> None:
    write("shop/rota_agents.py", "from rota import hub\n@hub.agent\ndef second(): ...\n")
    assert list(load_app(write("shop/rota.py", APP + "import rota_agents\n")).agents) == ["digest", "second"]


def test_a_module_is_an_app() -> None:
    write("stall/__init__.py", "")
    write("stall/main.py", APP)
    assert list(load_app("stall.main").agents) == ["digest"]
    assert list(load_app("stall.main:hub").agents) == ["digest"]


def test_one_of_several_hubs_is_named() -> None:
    write("two.py", "from tocsin import Hub\na = Hub()\nb = Hub()\nsame = b\n@b.agent\ndef x(): ...\nother = 1\n")
    assert fault("two.py") == "two.py: several Hubs (a, b); say which, as in two.py:a"
    assert list(load_app("two.py:b").agents) == ["x"]
    assert fault("two.py:c") == "two.py: no 'c' in it"
    assert fault("two.py:othr") == "two.py: no 'othr' in it; did you mean 'other'?"
    assert fault("two.py:other") == "two.py: 'other' is no Hub"


def test_what_cannot_be_found_is_told_in_one_line() -> None:
    write("dir/x.py", "")
    write("note.txt", "")
    write("empty.py", "")
    assert fault("gone.py") == "gone.py: no such file; name a .py or .toml file"
    assert fault("gone.toml") == "gone.toml: no such file"
    assert fault("./dir") == "./dir: is a directory; name a .py or .toml file"
    assert fault("./note.txt") == "./note.txt: is neither .py nor .toml"
    assert fault("empty") == "empty: no Hub in it; write hub = Hub() and declare agents on it"
    assert fault("nowhere.app") == "nowhere.app: no module 'nowhere'; is it installed, or is it a path?"
    assert fault("empty.py") == "empty.py: no Hub in it; write hub = Hub() and declare agents on it"
    assert "is no app" in fault("empty.py:")
    assert "is no app" in fault(":hub")
    assert "has no names in it" in fault("app.toml:hub")
    assert "is no app" in fault("")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef f(:\n", "bad.py:2: SyntaxError: invalid syntax"),
        ("if 1:\nx = 1\n", "bad.py:2: IndentationError: expected an indented block after 'if' statement on line 1"),
        ("import no_such_thing\n", "bad.py:1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("x = 1\nraise ValueError('a\\nb')\n", "bad.py:2: ValueError: a"),
        ("raise ValueError\n", "bad.py:1: ValueError"),
        ("\nimport neighbour\n", "neighbour.py:3: ZeroDivisionError: division by zero"),
        ("raise SystemExit\n", "bad.py:1: SystemExit: it ends the process while it is read; put that under if"),
        ("\0", "bad.py: "),
        ("from tocsin import cron\n\ncron('99 * * * *')\n", "bad.py:3: schedule: minute '99': "),
        ("from tocsin import Hub\nHub().trigger('a b', 'c')\n", "bad.py:2: trigger name 'a b': no spaces"),
        (
            "from tocsin import Hub\nh = Hub()\nh.trigger('a', 'c')\n",
            "bad.py: trigger 'a': no agent 'c'; declared: none",
        ),
    ],
)
def test_a_python_fault_is_one_line_with_its_place(text: str, said: str) -> None:
    write("neighbour.py", "\n\n1 / 0\n")
    assert fault(write("bad.py", text)).startswith(said)


def test_a_failed_import_can_be_tried_again() -> None:
    fault(write("again.py", "import no_such_thing\n"))
    assert "again" not in sys.modules
    assert list(load_app(write("again.py", APP)).agents) == ["digest"]


def test_a_toml_file_is_an_app(tmp_path: Path) -> None:
    write("conf/tools.py", "async def digest(run):\n    return 1\n")
    app = load_app(
        write(
            "conf/app.toml",
            """
            hub.slots = 4
            [agents.backup]
            command = ["./dump.sh", "shop"]
            cwd = "bin"
            env = { PGHOST = "db" }
            timeout = "10m"
            retries = 2
            retry_on = ["exit"]
            [agents.digest]
            python = "tools:digest"
            [triggers.nightly]
            agent = "backup"
            cron = ["30 2 * * *", "0 12 * * sun"]
            tz = "Europe/Paris"
            gap = "skip"
            except = [2026-12-25, "* * 1 1 *", { from = 2026-08-01, to = 2026-08-15 }]
            input = { tables = ["a", "b"] }
            overlap = "queue_one"
            [triggers.often]
            agent = "digest"
            every = "5m"
            jitter = "30s"
            start_at = 2026-01-01T00:00:00Z
            max_occurrences = 10
            [triggers.once]
            agent = "digest"
            at = [2026-03-01T09:00:00Z, "2026-03-02T09:00:00+01:00"]
            [triggers.by_hand]
            agent = "digest"
            """,
        )
    )
    backup, digest = app.commands["backup"], app.functions["digest"]
    assert (backup.argv, backup.cwd, backup.env) == (
        ("./dump.sh", "shop"),
        str(tmp_path / "conf/bin"),
        {"PGHOST": "db"},
    )
    assert (backup.spec.timeout, backup.spec.max_attempts, backup.spec.retry_on) == (
        timedelta(minutes=10),
        3,
        ("exit",),
    )
    assert digest.is_async
    nightly, often, once, by_hand = app.triggers
    assert nightly.schedule == Schedule(
        rules=(
            Cron("30 2 * * *", "Europe/Paris", gap="skip"),
            Cron("0 12 * * sun", "Europe/Paris", gap="skip"),
        ),
        excepts=(
            ExceptDates(datetime(2026, 12, 25).date(), datetime(2026, 12, 25).date(), "Europe/Paris"),  # noqa: DTZ001
            ExceptCron("* * 1 1 *", "Europe/Paris"),
            ExceptDates(datetime(2026, 8, 1).date(), datetime(2026, 8, 15).date(), "Europe/Paris"),  # noqa: DTZ001
        ),
    )
    assert (nightly.input, nightly.overlap) == ({"tables": ["a", "b"]}, "queue_one")
    assert often.schedule == every("5m", jitter="30s", start_at=datetime(2026, 1, 1, tzinfo=UTC), max_occurrences=10)
    assert once.schedule is not None
    assert len(once.schedule.rules) == 2
    assert all(isinstance(rule, At) for rule in once.schedule.rules)
    assert by_hand.schedule is None


def test_rules_of_several_kinds_in_one_trigger_are_a_union() -> None:
    text = "[agents.a]\ncommand = ['x']\n[triggers.t]\nagent = 'a'\ncron = '0 9 * * *'\nevery = 3600\n"
    (trigger,) = load_app(write("app.toml", text)).triggers
    assert trigger.schedule == cron("0 9 * * *") | every("1h")
    assert isinstance(trigger.schedule.rules[1], Every)


def test_a_toml_program_starts_in_the_files_directory(tmp_path: Path) -> None:
    app = load_app(write("conf/app.toml", "[agents.a]\ncommand = ['./x']\n"))
    assert app.commands["a"].cwd == str(tmp_path / "conf")


FAULTY = """
clock = 1
[agents.fine]
command = ["x"]
[agents.odd]
command = ["x"]
timeuot = "1m"
retries = "2"
[agents.both]
command = ["x"]
python = "json:dumps"
[agents.text]
command = "pg_dump shop"
[agents.gone]
python = "no_such_thing:f"
[agents.shape]
python = "no_such_thing"
[agents.early]
command = ["x"]
timeout = 0
[agents."a b"]
command = ["x"]
[triggers.nightly]
agent = "fine"
cron = "99 * * * *"
[triggers.zone]
agent = "fine"
cron = ["0 9 * * *", "0 9 * *"]
tz = "Mars/Phobos"
[triggers.lost]
agent = "fin"
every = "0s"
[triggers.key]
agent = "fine"
crn = "* * * * *"
overlap = "skp"
[triggers.stray]
agent = "fine"
tz = "Europe/Paris"
[triggers.nul]
agent = "fine"
input = "\\u0000"
[triggers.when]
agent = "fine"
at = 2026-03-01T09:00:00
[triggers.none]
every = "5m"
[triggers.except]
agent = "fine"
every = "5m"
except = [{ from = 1 }]
[triggers.good]
agent = "fine"
every = "5m"
"""


def test_all_faults_of_a_toml_file_are_told_at_once_and_nothing_is_loaded() -> None:
    said = faults(write("app.toml", FAULTY))
    expected = [
        "clock: is unknown",
        "agents.odd.timeuot: is unknown; did you mean 'timeout'?",
        "agents.odd.retries: '2': must be a whole number",
        "agents.both: must have either command =",
        "agents.text.command: 'pg_dump shop': must be a list of texts",
        "agents.gone.python: 'no_such_thing:f': ModuleNotFoundError: No module named 'no_such_thing'",
        "agents.shape.python: 'no_such_thing': must be \"pkg.mod:function\"",
        "agents.early.timeout: must be longer than 0 s",
        "agents.a b: agent name 'a b': no spaces",
        "triggers.nightly.cron: minute '99': ",
        "triggers.zone.tz: 'Mars/Phobos': ",
        "triggers.zone.cron: '0 9 * *': must have five fields",
        "triggers.lost.agent: no agent 'fin'; declared: fine, odd",
        "triggers.lost.every: '0s': must be from 1 s to 100 years",
        "triggers.key.crn: is unknown; did you mean 'cron'?",
        "triggers.key.overlap: 'skp': must be one of skip, queue_one, queue_all, ",
        "triggers.stray.tz: does nothing without cron, every or at",
        "triggers.nul.input: input has a NUL",
        "triggers.when.at: 2026-03-01 09:00:00: must be a datetime with a time zone",
        "triggers.none.agent: is missing; declared: ",
        "triggers.except.except: ",
    ]
    assert len(said) == len(expected), "\n".join(said)
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(f"app.toml: {start}")


def test_one_fault_hides_no_other_of_its_table() -> None:
    text = """
[agents.a]
command = ["x"]
retries = -1
concurrency = 0
backoff = "2s"
backoff_cap = "1s"
env = {A = 1}
[agents.b]
command = []
concurrency_key = "k"
[agents."c d"]
command = ["x"]
timeout = 0
[agents.fine]
command = ["x"]
backoff = "10m"
backoff_cap = "1h"
concurrency = 1
concurrency_key = "k"
[triggers.t]
agent = "gone"
cron = "0 9 * * *"
except = ["0 9 * *", 2026-01-01]
start_at = 2026-01-01T00:00:00
end_at = "soon"
max_occurrences = 0
jitter = "x"
overlap = "sometimes"
priority = 12
overlap_scope = "world"
[triggers.u]
agent = "fine"
cron = "99 9 * * *"
tz = "Europe/Pariss"
start_at = 2026-01-02T00:00:00Z
end_at = 2026-01-01T00:00:00Z
jitter = -1
[triggers.v]
agent = "fine"
cron = ["0 9 * * *", "0 10 * * *"]
tz = "Europe/Pariss"
except = "0 9 * 5 *"
"""
    assert [line.removeprefix("app.toml: ") for line in faults(write("app.toml", text))] == [
        "agents.a.retries: must be 0–99, not -1",
        "agents.a.backoff: must be at least 0 s and at most its cap 0:00:01",
        "agents.a.concurrency: must be 1–10000, not 0",
        "agents.a.env: must be a table of texts",
        "agents.b.concurrency_key: needs concurrency, the limit per key",
        "agents.b: command must name a program, as in ['/usr/bin/pg_dump', 'shop']",
        "agents.c d: agent name 'c d': no spaces, quotes, slashes or control characters, and no dash in front",
        "agents.c d.timeout: must be longer than 0 s; leave it out for no limit",
        "triggers.t.overlap: 'sometimes': must be one of skip, queue_one, queue_all, cancel_previous, allow",
        "triggers.t.agent: no agent 'gone'; declared: a, b, c d, fine",
        "triggers.t.except: cron '0 9 * *': must have five fields, or six with seconds, not 4",
        "triggers.t.end_at: 'soon': must be ISO 8601 with an offset, such as '2026-03-01T09:00:00Z'",
        "triggers.t.jitter: 'x': must be a number of seconds, or text such as '90s', '5m' or '1h30m'",
        "triggers.t.start_at: 2026-01-01 00:00:00: must be a datetime with a time zone",
        "triggers.t.max_occurrences: 0: must be a whole number from 1 to 100,000",
        "triggers.t.overlap_scope: must be trigger, agent or input.PATH, not 'world'",
        "triggers.t.priority: must be 0–9, not 12",
        "triggers.u.cron: minute '99': must be 0–59",
        "triggers.u.jitter: -1: must not be negative",
        "triggers.u.end_at: '2026-01-01T00:00:00+00:00': must not be before start_at",
        "triggers.v.tz: 'Europe/Pariss': must be the name of an IANA time zone, such as 'Europe/Paris'",
    ]


def test_a_toml_input_over_the_bound_is_a_fault() -> None:
    text = f"[agents.a]\ncommand = ['x']\n[triggers.t]\nagent = 'a'\ninput = '{'x' * 1024 * 1024}'\n"
    assert fault(write("app.toml", text)).startswith("app.toml: triggers.t.input: input is 1,048,578 bytes")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[agents", "app.toml: is not TOML: "),
        (b"\xff", "app.toml: is not UTF-8: invalid start byte at byte 0"),
        (b"agents = 1", "app.toml: agents: must be tables, as in [agents.NAME]"),
        (b"[triggers]\nx = 1", "app.toml: triggers.x: must be a table, as in [triggers.x]"),
    ],
)
def test_a_file_that_is_not_even_readable_is_told_in_one_line(content: bytes, said: str) -> None:
    Path("app.toml").write_bytes(content)
    assert fault("app.toml").startswith(said)


ON_EVENT = """
[agents.a]
command = ["true"]
[triggers.t]
agent = "a"
on_event = {options}
"""


def test_a_toml_trigger_is_called_by_events() -> None:
    options = '{ type = "push", where = "data.n > `1`", batch = "5s", batch_size = 5, per = "subject" }'
    (trigger,) = load_app(write("app.toml", ON_EVENT.replace("{options}", options))).triggers
    assert trigger.event == on_event("push", where="data.n > `1`", batch="5s", batch_size=5, per="subject")
    assert trigger.overlap is Overlap.QUEUE_ALL


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('"push"', "triggers.t.on_event: must be a table"),
        ("{}", "triggers.t.on_event.type: is missing"),
        ('{ type = "x", were = "a" }', "triggers.t.on_event.were: is unknown; did you mean 'where'?"),
        ('{ type = "x", where = "data[" }', "triggers.t.on_event: where 'data[': "),
        ('{ type = "x", debounce = "soon" }', "triggers.t.on_event: debounce: 'soon': must be"),
        ('{ type = "x" }\ncron = "* * * * *"', "triggers.t.cron: does not go with on_event"),
        ('{ type = "x" }\ninput = 5', "triggers.t.input: does not go with on_event"),
    ],
)
def test_a_fault_of_an_event_rule_is_told_at_its_key(options: str, said: str) -> None:
    assert said in fault(write("app.toml", ON_EVENT.replace("{options}", options)))
