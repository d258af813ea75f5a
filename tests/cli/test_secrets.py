"""No password, key or input is repeated by a command, a hub's log, or the embedded server's."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, Hub
from tests.cli.test_exposure import asked
from tests.edges.http.test_secrets import PLANTED

Start = Callable[..., Hub]
Tocsin = Callable[..., Answer]

NOWHERE = "127.0.0.1:1/x"

#: DSNs that cannot be read, or lead nowhere; the password is planted.
UNREADABLE = {
    "nobody there": f"postgresql://u:{PLANTED}@{NOWHERE}",
    "a slash": f"postgresql://u:{PLANTED}/b@{NOWHERE}",
    "behind a slash": f"postgresql://u:a/{PLANTED}@{NOWHERE}",
    "a hash": f"postgresql://u:{PLANTED}#b@{NOWHERE}",
    "a question mark": f"postgresql://u:a?{PLANTED}@{NOWHERE}",
    "brackets": f"postgresql://u:[{PLANTED}]@{NOWHERE}",
    "half a bracket": f"postgresql://u:[{PLANTED}@{NOWHERE}",
    "a percent sign": f"postgresql://u:%zz{PLANTED}@{NOWHERE}",
    "another scheme": f"postgre://u:{PLANTED}@{NOWHERE}",
    "no scheme": f"u:{PLANTED}@{NOWHERE}",
    "key words": f"host=127.0.0.1 port=1 user=u password={PLANTED}",
    "a word for a port": f"postgresql://u:{PLANTED}@127.0.0.1:port/x",
    "several hosts": f"postgresql://u:{PLANTED}/b@127.0.0.1,localhost:1/x",
    "an option": f"postgresql://u@{NOWHERE}?password={PLANTED}&sslmode=maybe",
    "a wide character": f"postgresql://u:{PLANTED}℀@{NOWHERE}",
}


@pytest.mark.parametrize("title", list(UNREADABLE))
def test_a_password_is_not_repeated_however_it_was_written(tocsin: Tocsin, title: str) -> None:
    for words in (["run", "list"], ["doctor"], ["doctor", "--json"], ["migrate"], ["serve"]):
        answer = tocsin(*words, TOCSIN_DATABASE_URL=UNREADABLE[title], TOCSIN_LOG_LEVEL="debug")
        assert answer.code in (1, 2, 3), words
        assert PLANTED not in answer.out + answer.err, words
        assert "Traceback" not in answer.err
        assert "unexpected" not in answer.err, words


def test_why_a_dsn_cannot_be_read_is_told_where_that_repeats_none_of_it(tocsin: Tocsin) -> None:
    told = tocsin("run", "list", TOCSIN_DATABASE_URL="postgresql://u:pw@h/x?sslmode=maybe")
    assert told.code == 2
    assert "`sslmode` parameter must be one of" in told.lines[0]
    told = tocsin("run", "list", TOCSIN_DATABASE_URL=f"postgresql://u:{PLANTED}/b@h/x")
    assert "cannot be read: it is no DSN; write postgresql://USER:PASSWORD@HOST" in told.lines[0]


@pytest.mark.parametrize("name", ["database_url", "agent_key"])
def test_a_setting_that_is_a_secret_is_not_repeated(tocsin: Tocsin, place: Path, name: str) -> None:
    (place / "tocsin.toml").write_text(f'[hub]\n{name} = ["{PLANTED}"]\nlease = ["told"]\n', encoding="utf-8")
    for words in (["run", "list"], ["doctor"]):
        answer = tocsin(*words)
        assert f"TOCSIN_{name.upper()}=…: " in answer.out + answer.err
        assert "TOCSIN_LEASE=['told']" in answer.out + answer.err
        assert PLANTED not in answer.out + answer.err


def test_an_input_is_not_repeated_by_what_refuses_it(tocsin: Tocsin, app: Path, dsn: str, place: Path) -> None:
    settings = {"TOCSIN_DATABASE_URL": dsn}
    assert tocsin("sync", str(app), **settings).code == 0
    (place / "input.json").write_text(f'{{"token": "{PLANTED}"', encoding="utf-8")
    (place / "deep.json").write_text("[" * 501 + f'"{PLANTED}"' + "]" * 501, encoding="utf-8")
    (place / "nul.json").write_text(f'"\\u0000{PLANTED}"', encoding="utf-8")
    good = f'{{"token": "{PLANTED}"}}'
    for words, code in (
        (["trigger", "fire", "by-hand", "--input", f'{{"token": {PLANTED}}}'], 2),
        (["trigger", "fire", "by-hand", "--input", "@input.json"], 2),
        (["trigger", "fire", "by-hand", "--input", "@deep.json"], 2),
        (["trigger", "fire", "by-hand", "--input", "@nul.json"], 2),
        (["trigger", "fire", "nobody", "--input", good], 1),
        (["trigger", "add", "by-hand", "--agent", "greet", "--input", good], 1),
        (["trigger", "add", "new", "--agent", "nobody", "--input", good], 1),
        (["trigger", "add", "new", "--agent", "greet", "--input", good, "--cron", "61 * * * *"], 2),
        (["trigger", "edit", "by-hand", "--input", good, "--if-version", "7"], 1),
        (["trigger", "edit", "nobody", "--input", good], 1),
        (["trigger", "fire", "by-hand", "--inputs", good], 2),
    ):
        answer = tocsin(*words, **settings)
        assert answer.code == code, (words, answer)
        assert PLANTED not in answer.out + answer.err, words


def test_what_a_hub_logs_and_its_server_holds_no_secret(hub: Start, tocsin: Tocsin, app: Path, place: Path) -> None:
    """A hub with a server of its own: everything that its home has but the data itself is looked through."""
    home = str(place / "home")
    started = hub("up", str(app), TOCSIN_LOG_LEVEL="debug", TOCSIN_HOME=home)
    url = started.url
    made = tocsin("key", "create", "root", "--scope", "admin", TOCSIN_HOME=home)
    assert made.code == 0, made
    key = made.out.strip()
    secret = {"input": {"name": PLANTED}}
    run = asked(url, "/v1/triggers/by-hand/fire", key=key, body=secret)[1]["id"]
    started.wait_for("run.settled", run_id=run)
    assert asked(url, "/v1/triggers/by-hand/fire", key=key, body={"inputs": PLANTED})[0] == 422
    assert asked(url, "/v1/triggers/by-hand/fire", key=PLANTED, body=secret)[0] == 401
    assert asked(url, "/v1/triggers", key=key, body={"name": "by-hand", "agent": "greet", **secret})[0] == 409
    assert asked(url, f"/v1/runs/{run}", key=key)[1]["output"] == {"hello": PLANTED}
    started.send()
    assert started.end() == 0
    said = f"{started.events} {started.said()}"
    for text in (PLANTED, key):
        assert text not in said
    looked = [file for file in (place / "home").rglob("*") if file.is_file() and not is_data(file)]
    assert any(file.name.endswith(".log") for file in looked), looked
    for file in looked:
        content = file.read_bytes()
        assert PLANTED.encode() not in content, file
        assert key.encode() not in content, file


def is_data(file: Path) -> bool:
    """Whether the server keeps tables there, or what will become of them: the input's own place."""
    return bool({"base", "global", "pg_wal", "pg_stat_tmp", "pg_xact"} & set(file.parts)) or bool(
        re.fullmatch(r"PG_VERSION|.*\.conf", file.name)
    )
